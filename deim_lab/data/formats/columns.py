"""Find what the columns of a table of boxes mean, from their names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deim_lab.errors import DataError, nearest

# Meaning → usual names, in lower case without blanks, hyphens and underscores, best first.
USUAL = {
    "file": [
        "filename",
        "file",
        "imagename",
        "imagefile",
        "imagepath",
        "filepath",
        "path",
        "image",
        "img",
        "imageid",
    ],
    "class": [
        "class",
        "label",
        "category",
        "classname",
        "labelname",
        "categoryname",
        "name",
        "classid",
        "labelid",
        "categoryid",
    ],
    "xmin": ["xmin", "x1", "left", "bboxxmin"],
    "ymin": ["ymin", "y1", "top", "bboxymin"],
    "xmax": ["xmax", "x2", "right", "bboxxmax"],
    "ymax": ["ymax", "y2", "bottom", "bboxymax"],
    "x": ["x", "bboxx", "boxx", "left", "xmin"],
    "y": ["y", "bboxy", "boxy", "top", "ymin"],
    "box_width": ["w", "boxwidth", "bboxwidth", "bboxw", "boxw", "width"],
    "box_height": ["h", "boxheight", "bboxheight", "bboxh", "boxh", "height"],
    "bbox": ["bbox", "box", "boundingbox"],
    "width": ["imagewidth", "imgwidth", "imgw", "imagew", "width"],
    "height": ["imageheight", "imgheight", "imgh", "imageh", "height"],
    "split": ["split", "set", "subset", "partition"],
}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SIDES = ("x", "y", "box_width", "box_height")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Columns:
    """Names of the columns by meaning; None or empty if the table has none.

    Attributes:
        box: four columns, or one with ``[x, y, width, height]``.
        corners: the four columns are two corners, not a corner, width and height.
        size: width and height of the picture.
    """

    file: str | None
    label: str | None
    box: tuple[str, ...]
    corners: bool
    size: tuple[str, ...]
    split: str | None


def match(header: Sequence[str], explicit: Mapping[str, str] | None, name: str) -> Columns:
    """Give each meaning its column. ``explicit`` names (meaning → column) come first.

    ``width`` and ``height`` belong to the picture if other columns make up the box.
    """
    explicit = dict(explicit or {})
    _check_explicit(explicit, header, name)
    plain = {re.sub(r"[\s_\-]+", "", column).casefold(): column for column in header}

    def column(meaning: str) -> str | None:
        if meaning in explicit:
            return explicit[meaning]
        return next((plain[usual] for usual in USUAL[meaning] if usual in plain), None)

    def group(meanings: Sequence[str]) -> tuple[str, ...]:
        names = [column(meaning) for meaning in meanings]
        return tuple(item for item in names if item is not None) if all(names) else ()

    boxes = [group(meanings) for meanings in (_CORNERS, _SIDES, ("bbox",))]
    stated = [bool(set(meanings) & set(explicit)) for meanings in (_CORNERS, _SIDES, ("bbox",))]
    order = sorted(range(3), key=lambda place: not stated[place])
    chosen = next((place for place in order if boxes[place]), None)
    box = () if chosen is None else boxes[chosen]
    size = group(("width", "height"))
    return Columns(
        file=column("file"),
        label=column("class"),
        box=box,
        corners=chosen == 0,
        size=() if set(size) & set(box) else size,
        split=column("split"),
    )


def misses(columns: Columns, header: Sequence[str]) -> str:
    """What a table lacks, for a message; "" if nothing."""
    lacks = []
    if columns.file is None:
        lacks.append(f"column of pictures{_nearest('file', header)}")
    if columns.label is None:
        lacks.append(f"column of classes{_nearest('class', header)}")
    if not columns.box:
        close = "".join(_nearest(meaning, header) for meaning in _CORNERS)
        lacks.append(f"columns of boxes{close}")
    if not lacks:
        return ""
    return (
        f"the table has no {', no '.join(lacks)}. The columns of its first row are "
        f"{', '.join(header)}. Needed: filename, class, and xmin, ymin, xmax, ymax or x, y, "
        f"width, height or bbox. Rename the columns, or give Table(path, columns={{'class': …}})."
    )


def _nearest(meaning: str, header: Sequence[str]) -> str:
    """ " (is it 'x'?)" for the column whose name is most similar to a usual name."""
    for usual in USUAL[meaning]:
        hint = nearest(usual, header)
        if hint:
            return hint
    return ""


def _check_explicit(explicit: Mapping[str, str], header: Sequence[str], name: str) -> None:
    for meaning, column in explicit.items():
        if meaning not in USUAL:
            raise DataError(
                f"{name}: columns has the meaning {meaning!r}{nearest(meaning, USUAL)}. Expected "
                f"{', '.join(USUAL)}."
            )
        if column not in header:
            raise DataError(
                f"{name}: there is no column {column!r} for {meaning!r}{nearest(column, header)}. "
                f"The columns are {', '.join(header)}."
            )


def number_of(text: str, column: str, where: str) -> float:
    """The finite number of a cell."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} {text[:40]!r} is not a number of pixels.")
    return value


def with_decimal_point(text: str) -> str:
    """``"12,5"`` as ``"12.5"``; any other text as it is."""
    return text.replace(",", ".") if re.fullmatch(r"[+-]?\d+,\d+", text) else text


def numbers_of(text: str, column: str, where: str) -> list[float]:
    """The four numbers of a cell such as ``[10, 20, 30.5, 40]``."""
    parts = re.split(r"[\s,;]+", text.strip("[](){} "))
    if len(parts) != 4:
        raise DataError(f"{where}: {column} {text[:60]!r} is not [x, y, width, height].")
    return [number_of(part, column, where) for part in parts]
