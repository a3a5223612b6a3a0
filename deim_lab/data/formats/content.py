"""What a reader of another label format gives: one half of a data set in COCO's terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Json = Any


@dataclass(frozen=True)
class Content:
    """One half of a data set in COCO's terms, read from files of another format.

    Attributes:
        images_dir: folder to which every ``file_name`` is relative.
        coco: the lists ``images``, ``annotations`` and ``categories``, as in a COCO file.
        notices: what was read with tolerance, each with a name and a count.
    """

    images_dir: Path
    coco: dict[str, Json]
    notices: tuple[str, ...] = ()


class Labels(Protocol):
    """Labels of one half that are not in a COCO json. They are read when the half is opened."""

    @property
    def path(self) -> Path:
        """File or folder, for messages and for the name of the set."""

    @property
    def format(self) -> str:
        """Name of the format, such as ``"YOLO"``."""

    def read(self) -> Content:
        """Read the labels. Raises ``DataError`` with file, line, value and remedy."""
