"""Readers of label formats other than COCO json.

Each ``find(folder)`` gives the halves of a folder in its format: ``"train"``, ``"val"`` or
``"test"`` → (folder of images, labels). It gives none if the folder has another format.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deim_lab.data.formats.content import Content, Labels

__all__ = ["FINDERS", "Content", "Labels"]

# In the order in which they are asked.
FINDERS: tuple[Callable[[Path], dict[str, tuple[Path, Labels]]], ...] = ()
