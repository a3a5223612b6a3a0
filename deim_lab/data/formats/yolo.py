"""Read YOLO data sets: ``data.yaml``, pictures, and one text file of boxes per picture.

A line is ``class cx cy w h`` as fractions of the picture, or ``class x1 y1 x2 y2 …`` of a polygon,
which becomes its bounding box. The category id is the class number.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from deim_lab.data.formats.content import (
    Box,
    Content,
    Halves,
    Labelled,
    Pictures,
    build,
    counted,
    pictures_under,
    read_text,
    shown_size,
)
from deim_lab.data.formats.yolo_files import NAME_FILES, Names, YoloFiles, find_files, label_of
from deim_lab.data.images import SUFFIXES
from deim_lab.errors import DataError, first_few
from deim_lab.host import files

FORMAT = "YOLO"
LOOKED_FOR = (
    "YOLO: data.yaml (or one other *.yaml) with names and train, or images/train + labels/train, "
    "or train/images + train/labels, or pictures with .txt files of the same name"
)

_MARGIN = 0.01  # of the picture: rounding of other tools; larger values are an error
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class YoloLabels:
    """YOLO labels of one half.

    Attributes:
        path: the yaml, or the data folder if there is none.
        root: the data folder. Below it, a label lies in ``labels`` where its picture lies in
            ``images``.
        images_dir: file names are relative to this folder.
        sources: folders of pictures, or text files that list pictures.
        names: class number and class name; None: classes are named by their numbers.
        keypoint_numbers: numbers of a line that follow the box and are skipped.
    """

    path: Path
    root: Path
    images_dir: Path
    sources: tuple[Path, ...]
    names: Names | None = None
    keypoint_numbers: int = 0
    format: str = field(default=FORMAT, init=False)

    def read(self) -> Content:
        """Read every label file. An empty or absent file is a picture without boxes."""
        names = self._file_names()
        if not names:
            raise DataError(
                f"{', '.join(map(str, self.sources))}: there is no picture. Looked for files that "
                f"end in {', '.join(SUFFIXES)}."
            )
        counts = _Counts([], [], [], [])
        class_names = None if self.names is None else dict(self.names)
        pictures: list[Labelled] = []
        label_files: dict[Path, str] = {}
        for file_name in names:
            picture = self.images_dir / file_name
            label = label_of(picture, self.root)
            if label in label_files:
                counts.shared.append(file_name)
            label_files[label] = file_name
            size = shown_size(picture)
            if label.is_file():
                lines = _parse(label, class_names, self.keypoint_numbers, counts)
                boxes = [_pixels(line, size) for line in lines]
            else:
                counts.absent.append(file_name)
                boxes = []
            pictures.append(Labelled(file_name, size, boxes))
        if len(counts.absent) == len(names):
            first = label_of(self.images_dir / names[0], self.root)
            raise DataError(
                f"{self.images_dir}: none of {len(names)} pictures has a label file. Looked for "
                f"{first}{files.nearest_beside(first)} and so on. Put the labels there. "
                f"A picture without boxes may have an empty file."
            )
        if class_names is None:
            classes = {box.category_id for picture in pictures for box in picture.boxes}
            class_names = {number: str(number) for number in range(max(classes, default=-1) + 1)}
        counts.orphans.extend(_orphans(label_files, self.images_dir, self.root))
        return build(self.images_dir, pictures, class_names, counts.notices())

    def _file_names(self) -> list[str]:
        names: list[str] = []
        for source in self.sources:
            if source.is_dir():
                below = source.relative_to(self.images_dir)
                names += [(below / name).as_posix() for name in pictures_under(source)]
            else:
                names += _listed(source, Pictures(self.images_dir))
        return sorted(set(names))


class _Counts(NamedTuple):
    """Files of each thing that a notice counts."""

    polygons: list[str]
    absent: list[str]
    shared: list[str]
    orphans: list[str]

    def notices(self) -> list[str]:
        return [
            *counted("yolo-polygons", "polygons were read as their bounding boxes", self.polygons),
            *counted(
                "yolo-no-label-file",
                "pictures have no label file; read as pictures without boxes",
                self.absent,
            ),
            *counted(
                "yolo-shared-label-file",
                "pictures share their label file with a picture of another suffix",
                self.shared,
            ),
            *counted("yolo-no-picture", "label files have no picture; not read", self.orphans),
        ]


class _Line(NamedTuple):
    """One line of a label file: centre and size as fractions of the picture."""

    category: int
    cx: float
    cy: float
    width: float
    height: float


def find(folder: Path) -> Halves:
    """The halves of a YOLO data set: name → (folder of pictures, labels); ``{}`` for others.

    Raises ``DataError`` for a ``data.yaml`` that is faulty or names absent folders.
    """
    located = find_files(folder)
    return {
        split: _half(folder, located, sources, located.names[split])
        for split, sources in located.sources.items()
    }


def _half(
    root: Path, located: YoloFiles, sources: Sequence[Path], names: Names | None
) -> tuple[Path, YoloLabels]:
    folders = [source if source.is_dir() else root for source in sources]
    images_dir = folders[0]
    if len(set(folders)) > 1:
        folders = [Path(os.path.abspath(item)) for item in folders]
        sources = [Path(os.path.abspath(item)) for item in sources]
        root = Path(os.path.abspath(root))
        images_dir = Path(os.path.commonpath(folders))
    labels = YoloLabels(
        located.path, root, images_dir, tuple(sources), names, located.keypoint_numbers
    )
    return images_dir, labels


def _listed(path: Path, pictures: Pictures) -> list[str]:
    """Pictures that a text file lists, one a line, found in the data folder by their tails."""
    names: list[str] = []
    absent: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        located = pictures.locate(line.strip())
        if len(located) > 1:
            raise DataError(
                f"{path}, line {number}: {line.strip()!r} may be {first_few(located, 3)}. "
                f"Write more of the path."
            )
        if located:
            names.append(located[0])
        else:
            absent.append(f"line {number} ({line.strip()!r})")
    if absent:
        raise DataError(
            f"{path}: {len(absent)} of {len(absent) + len(names)} listed pictures are not in "
            f"{pictures.folder}: {first_few(absent, 3)}. Restore them or remove their lines."
        )
    return names


def _parse(
    path: Path, names: dict[int, str] | None, keypoint_numbers: int, counts: _Counts
) -> list[_Line]:
    boxes: list[_Line] = []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        tokens = text.split()
        if not tokens:
            continue
        where = f"{path}, line {number}"
        values = [_number(token, where) for token in tokens]
        _check_count(len(values), keypoint_numbers, where)
        if keypoint_numbers:
            values = values[:5]
        category = _category(values[0], tokens[0], names, where)
        for value, token in zip(values[1:], tokens[1:], strict=False):
            if not -_MARGIN <= value <= 1 + _MARGIN:
                raise DataError(
                    f"{where}: {token} is outside [0, 1]. Expected fractions of the picture's "
                    f"width and height, not pixels. Divide x by the width and y by the height."
                )
        if len(values) == 5:
            boxes.append(_Line(category, *values[1:]))
        else:
            boxes.append(_bounding(category, values[1::2], values[2::2]))
            counts.polygons.append(path.name)
    return boxes


def _number(token: str, where: str) -> float:
    value = float(token) if _NUMBER.fullmatch(token) else math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{where}: {token[:40]!r} is not a number. Expected 'class cx cy w h', separated by "
            f"spaces."
        )
    return value


def _check_count(count: int, keypoint_numbers: int, where: str) -> None:
    if keypoint_numbers and count not in (5, 5 + keypoint_numbers):
        raise DataError(
            f"{where} has {count} numbers. Expected 5 (class cx cy w h) and {keypoint_numbers} "
            f"numbers of keypoints, as kpt_shape in the yaml says."
        )
    if count in (5, 5 + keypoint_numbers) or (count >= 7 and count % 2 == 1):
        return
    hint = "Expected 5 (class cx cy w h), or a class and the x and y of at least 3 points."
    if count == 6:
        hint = "Predictions have a confidence as the sixth, labels don't. Remove the last column."
    raise DataError(f"{where} has {count} numbers. {hint}")


def _category(value: float, token: str, names: dict[int, str] | None, where: str) -> int:
    if value != int(value) or value < 0:
        raise DataError(f"{where}: class {token} is not a whole number from 0.")
    if names is not None and int(value) not in names:
        listed = first_few((f"{key} {name}" for key, name in names.items()), 6)
        raise DataError(
            f"{where}: class {token} is none of the {len(names)} classes ({listed}). Classes count "
            f"from 0. Correct the line or add the class to the names."
        )
    return int(value)


def _bounding(category: int, xs: Sequence[float], ys: Sequence[float]) -> _Line:
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return _Line(category, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _pixels(line: _Line, size_wh: tuple[int, int]) -> Box:
    width, height = size_wh
    left, top = line.cx - line.width / 2, line.cy - line.height / 2
    return Box(
        line.category, (left * width, top * height, line.width * width, line.height * height)
    )


def _orphans(label_files: Iterable[Path], images_dir: Path, root: Path) -> list[str]:
    """Text files in the folders of labels that belong to no picture of any half."""
    belonging = {label_of(images_dir / name, root) for name in pictures_under(images_dir)}
    picture_folders = {(images_dir / name).parent for name in pictures_under(images_dir)}
    return [
        path.name
        for folder in sorted({path.parent for path in label_files} - picture_folders)
        for path in sorted(folder.glob("*.txt"))
        if path not in belonging and path.name not in NAME_FILES
    ]
