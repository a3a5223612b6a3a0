"""Read boxes from a CSV table with a header row, one box a row.

Coordinates are pixels from 0, without an offset. A row whose box cells are all empty is a picture
without boxes. The delimiter is a comma, a semicolon (then ``12,5`` is a number) or a tab.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deim_lab.data.formats.columns import (
    Columns,
    match,
    misses,
    number_of,
    numbers_of,
    with_decimal_point,
)
from deim_lab.data.formats.content import (
    SPLITS,
    Box,
    Content,
    Halves,
    Labelled,
    Pictures,
    build,
    counted,
    read_text,
    shown_size,
    split_of,
)
from deim_lab.errors import DataError, first_few

FORMAT = "CSV"
LOOKED_FOR = (
    "CSV: train.csv and val.csv, or train/*.csv and valid/*.csv, or one *.csv (with a split "
    "column for halves), with columns such as filename, class, xmin, ymin, xmax, ymax"
)


@dataclass(frozen=True)
class Table:
    """Labels of one half in a CSV file.

    Attributes:
        path: the file.
        columns: meaning → name of a column, where the usual names don't fit. The meanings are
            file, class, xmin, ymin, xmax, ymax, x, y, box_width, box_height, bbox, width, height,
            split.
        images_dir: folder of the pictures; None: the folder of the file.
        split: read only the rows of this half; None: all rows.
        all_paths: files of all halves; the classes are the names in all of them, sorted.
    """

    path: Path
    columns: Mapping[str, str] | None = field(default=None, hash=False)
    images_dir: Path | None = None
    split: str | None = None
    all_paths: tuple[Path, ...] = ()
    format: str = field(default=FORMAT, init=False)

    def read(self) -> Content:
        """Read the table and find its pictures by name, or by the end of their paths."""
        folder = self.images_dir or self.path.parent
        rows = list(_rows(self.path, self.columns))
        names = {row.name for row in rows if row.name}
        for other in self.all_paths:
            if other != self.path:
                names |= {row.name for row in _rows(other, self.columns) if row.name}
        categories = dict(enumerate(sorted(names, key=_natural), 1))
        ids = {name: category_id for category_id, name in categories.items()}
        pictures = Pictures(folder)
        labelled: dict[str, list[_Row]] = {}
        in_other_half: set[str] = set()
        located: dict[str, str] = {}
        for row in rows:
            if self.split is not None and row.split != self.split:
                in_other_half.add(row.file_name)
                continue
            if row.file_name not in located:
                located[row.file_name] = _one(pictures, row)
            labelled.setdefault(located[row.file_name], []).append(row)
        if not labelled:
            raise DataError(f"{self.path}: this half has no row. Add at least one picture.")
        elsewhere = {name for other in in_other_half for name in pictures.locate(other)}
        elsewhere |= self._listed_elsewhere(pictures)
        unlisted = [name for name in pictures.names if name not in labelled.keys() | elsewhere]
        items = [
            Labelled(
                file_name,
                _size(rows, folder / file_name),
                [Box(ids[row.name], row.xywh) for row in rows if row.xywh is not None],
            )
            for file_name, rows in labelled.items()
        ]
        text = "pictures of the folder have no row; left out (a row without a box keeps one)"
        return build(folder, items, categories, counted("csv-unlisted", text, unlisted))

    def _listed_elsewhere(self, pictures: Pictures) -> set[str]:
        """Pictures of this folder in the tables of other halves."""
        return {
            name
            for other in self.all_paths
            if other != self.path and other.parent == self.path.parent
            for row in _rows(other, self.columns)
            for name in pictures.locate(row.file_name)
        }


class _Row(NamedTuple):
    """One row; ``xywh`` is None if the box cells are empty."""

    where: str
    file_name: str
    name: str
    xywh: tuple[float, float, float, float] | None
    size_wh: tuple[int, int] | None
    split: str | None


def find(folder: Path) -> Halves:
    """The halves of a CSV data set: name → (folder of pictures, labels); ``{}`` for others."""
    if not folder.is_dir():
        return {}
    tables: dict[str, Path] = {}
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*/*.csv")]):
        split = _split_of_path(path.relative_to(folder))
        if split is not None and _is_table(path):
            tables.setdefault(split, path)
    if tables:
        return {
            split: _half(folder, tables[split], tables.values())
            for split in SPLITS
            if split in tables
        }
    paths = [path for path in sorted(folder.glob("*.csv")) if _is_table(path)]
    if len(paths) > 1:
        raise DataError(
            f"{folder} has {len(paths)} tables of boxes: {first_few((p.name for p in paths), 5)}. "
            f"Name them train.csv and val.csv, or leave one."
        )
    if not paths:
        return {}
    splits = _splits(paths[0])
    if not splits:
        return {"train": (folder, Table(paths[0], images_dir=folder))}
    return {split: (folder, Table(paths[0], None, folder, split)) for split in splits}


def _half(folder: Path, path: Path, paths: Iterable[Path]) -> tuple[Path, Table]:
    images_dir = folder if path.parent == folder else path.parent
    return images_dir, Table(path, None, images_dir, None, tuple(paths))


def _split_of_path(path: Path) -> str | None:
    """The half of ``train.csv``, ``train_boxes.csv`` or ``train/boxes.csv``; else None."""
    if len(path.parts) > 1:
        return split_of(path.parts[0])
    words = re.split(r"[^a-z]+", path.stem.casefold())
    splits = {split_of(word) for word in words} - {None}
    return splits.pop() if len(splits) == 1 else None


def _is_table(path: Path) -> bool:
    """Whether the header has a column of pictures or columns of boxes."""
    try:
        header, _ = _header(path)
        columns = match(header, None, str(path))
    except DataError:
        return False
    return columns.file is not None or bool(columns.box)


def _splits(path: Path) -> list[str]:
    """Halves in the split column, in the order train, val, test; empty without such a column."""
    header, _ = _header(path)
    if match(header, None, str(path)).split is None:
        return []
    present = {row.split for row in _rows(path, None)}
    return [split for split in SPLITS if split in present]


def _header(path: Path) -> tuple[list[str], str]:
    """Names of the columns, and the delimiter that gives most of them."""
    first = next((line for line in read_text(path).splitlines() if line.strip()), "")
    if not first:
        raise DataError(f"{path} is empty. Expected a header row.")
    rows = {mark: next(csv.reader([first], delimiter=mark)) for mark in (",", ";", "\t")}
    delimiter = max(rows, key=lambda mark: len(rows[mark]))
    header = [name.strip() for name in rows[delimiter]]
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise DataError(f"{path}: two columns are named {twice[0]!r}. Rename one of them.")
    return header, delimiter


def _rows(path: Path, explicit: Mapping[str, str] | None) -> Iterator[_Row]:
    header, delimiter = _header(path)
    columns = match(header, explicit, str(path))
    problem = misses(columns, header)
    if problem:
        raise DataError(f"{path}: {problem}")
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    seen_header = False
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not seen_header:
                seen_header = True
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise DataError(
                    f"{where} has {len(cells)} cells, but the header has {len(header)}. Put cells "
                    f"that contain {delimiter!r} in quotes."
                )
            values = dict(zip(header, map(str.strip, cells), strict=True))
            if delimiter == ";":
                for name in (*columns.box, *columns.size):
                    values[name] = with_decimal_point(values[name])
            yield _row(values, columns, where)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}. Expected CSV.") from error


def _row(cells: dict[str, str], columns: Columns, where: str) -> _Row:
    file_name = cells[columns.file or ""]
    if not file_name:
        raise DataError(f"{where}: {columns.file} is empty. Every row needs its picture.")
    box = [cells[name] for name in columns.box]
    xywh = None
    name = cells[columns.label or ""]
    if any(box):
        xywh = _xywh(box, columns, where)
        if not name:
            raise DataError(f"{where}: {columns.label} is empty. Every box needs its class.")
    size_wh = None
    if columns.size and all(cells[name] for name in columns.size):
        width, height = (number_of(cells[name], name, where) for name in columns.size)
        size_wh = (int(width), int(height))
        if min(size_wh) < 0 or size_wh != (width, height):
            raise DataError(f"{where}: the size {width:g}×{height:g} is not in whole pixels.")
    split = None
    if columns.split is not None:
        split = split_of(cells[columns.split])
        if split is None:
            raise DataError(
                f"{where}: {columns.split} {cells[columns.split]!r} is none of train, val and test."
            )
    return _Row(where, file_name, name if xywh is not None else "", xywh, size_wh, split)


def _xywh(box: Sequence[str], columns: Columns, where: str) -> tuple[float, float, float, float]:
    if len(box) == 1:
        left, top, width, height = numbers_of(box[0], columns.box[0], where)
        return left, top, width, height
    values = [number_of(text, name, where) for text, name in zip(box, columns.box, strict=True)]
    if not columns.corners:
        return values[0], values[1], values[2], values[3]
    left, top, right, bottom = values
    if right < left or bottom < top:
        raise DataError(
            f"{where}: the box {left:g}, {top:g}, {right:g}, {bottom:g} ends before it starts. "
            f"Expected {', '.join(columns.box)} with the upper left corner first."
        )
    return left, top, right - left, bottom - top


def _one(pictures: Pictures, row: _Row) -> str:
    located = pictures.locate(row.file_name)
    if len(located) == 1:
        return located[0]
    if located:
        raise DataError(
            f"{row.where}: {row.file_name!r} may be {first_few(located, 3)}. "
            f"Write more of the path."
        )
    last = PurePosixPath(row.file_name.replace("\\", "/")).name
    raise DataError(
        f"{row.where}: there is no picture {row.file_name!r} in {pictures.folder}"
        f"{pictures.nearest(last)}. Restore it or remove the row."
    )


def _size(rows: Sequence[_Row], path: Path) -> tuple[int, int]:
    """The stated size of a picture, else the size of its file as a viewer shows it."""
    stated = {row.size_wh: row.where for row in rows if row.size_wh is not None}
    if len(stated) > 1:
        (first, second), where = list(stated)[:2], list(stated.values())[1]
        raise DataError(
            f"{where}: the size of {rows[0].file_name} is {second[0]}×{second[1]}, but "
            f"{first[0]}×{first[1]} in another row. Correct one of them."
        )
    size = next(iter(stated), (0, 0))
    return shown_size(path) if 0 in size else size


def _natural(name: str) -> tuple[int, int, str]:
    """Order of classes: numbers by value, then other names."""
    if name.isdecimal() and len(name) < 19:
        return 0, int(name), name
    return 1, 0, name
