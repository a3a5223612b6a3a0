"""Read the labels of one half of a data set, and compare them with its pictures.

Nothing here needs torch, so a conversion starts quickly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deim_lab.config.data import DataConfig
from deim_lab.data import box_formats, parse
from deim_lab.data.annotations import Annotations
from deim_lab.data.faults import Faults
from deim_lab.data.find import find_pictures
from deim_lab.data.formats.content import Labels
from deim_lab.data.pictures import Sizes, fit_sizes


class HalfRead(NamedTuple):
    """One half as read: labels, the pictures that are there, and notices on both.

    Attributes:
        annotations: of the present pictures, with boxes in COCO's format.
        paths, sizes_bytes: of the ``N`` pictures.
        sizes: what their headers say.
        notices: what was read with tolerance, each with a name and a count.
    """

    annotations: Annotations
    paths: list[Path]
    sizes_bytes: list[int]
    sizes: Sizes
    notices: list[str]


def read_half(
    labels: str | Path | Labels,
    images_dir: Path,
    settings: DataConfig,
    faults: Faults | None = None,
) -> HalfRead:
    """Read the labels of one half, and compare them with its pictures.

    ``faults`` collects the faults; None: raise all of them as one error.
    """
    collected = Faults() if faults is None else faults
    annotations, folder = _read(labels, images_dir, collected)
    pictures = find_pictures(folder, annotations, collected)
    present = [index for index, path in enumerate(pictures.paths) if path is not None]
    annotations = annotations.take(np.asarray(present, dtype=np.int64))
    paths = [path for path in pictures.paths if path is not None]
    sizes = fit_sizes(annotations, paths, collected)
    if settings.on_bad_image == "error":
        add_damaged(sizes.unreadable, collected)
    if settings.boxes == "auto":
        bad = np.asarray(list(sizes.unreadable), dtype=np.int64)
        readable = np.setdiff1d(np.arange(len(paths)), bad)
        box_formats.judge(annotations.take(readable), sizes.served_wh[readable], collected)
    else:
        annotations = box_formats.converted(annotations, sizes.served_wh, settings.boxes)
    if faults is None:
        collected.stop()
    return HalfRead(
        annotations,
        paths,
        [pictures.sizes_bytes[index] for index in present],
        sizes,
        [*annotations.notices, *pictures.notices, *sizes.notices],
    )


def add_damaged(bad: Mapping[int, str], faults: Faults) -> None:
    """Add pictures that can't be decoded as faults, with the remedy."""
    remedy = "To leave such pictures out, add --set data.on_bad_image=skip."
    for reason in bad.values():
        faults.add("picture", f"{reason} {remedy}")


def _read(
    labels: str | Path | Labels, images_dir: Path, faults: Faults
) -> tuple[Annotations, Path]:
    """Annotations of a COCO file or another format, and the folder of their images."""
    if isinstance(labels, (str, Path)):
        return parse.read(labels, faults), images_dir
    content = labels.read()
    text = json.dumps(content.coco, sort_keys=True)
    annotations = parse.parse_coco(
        content.coco,
        name=str(labels.path),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        faults=faults,
    )
    notices = (*content.notices, *annotations.notices)
    return replace(annotations, notices=notices), content.images_dir
