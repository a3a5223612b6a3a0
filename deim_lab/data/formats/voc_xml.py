"""Read one xml file of Pascal VOC, without ever expanding an entity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from deim_lab.errors import DataError, nearest

_SIDES = ("xmin", "ymin", "xmax", "ymax")


class LabelledObject(NamedTuple):
    name: str
    xywh: tuple[float, float, float, float]
    difficult: bool
    from_zero: bool


class Document(NamedTuple):
    """Content of one xml file. ``size_wh`` has a 0 if the file states no size."""

    size_wh: tuple[int, int]
    file_name: str
    objects: tuple[LabelledObject, ...]


def parse(path: Path) -> Document:
    """Read one xml file. Raises ``DataError`` with the file, the object and the value."""
    root = _tree(path)
    if root.tag != "annotation":
        raise DataError(
            f"{path}: the root is <{root.tag[:40]}>. Expected <annotation>, as Pascal VOC has. "
            f"Export the labels as COCO, YOLO or Pascal VOC."
        )
    size = root.find("size")
    size_wh = (0, 0)
    if size is not None:
        size_wh = (_side(size, "width", path), _side(size, "height", path))
    objects = [
        _object(item, f"{path}, object {number}")
        for number, item in enumerate(root.iterfind("object"), 1)
    ]
    return Document(size_wh, (root.findtext("filename") or "").strip(), tuple(objects))


def _tree(path: Path) -> Element:
    """The elements of an xml file. A DTD is refused: its entities can grow without end."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise DataError(
            f"{path}, line {parser.CurrentLineNumber}: the xml has a DTD or entities. "
            f"Remove the <!DOCTYPE …> part; labels need none."
        )

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except DataError:
        raise
    except expat.ExpatError as error:
        raise DataError(
            f"{path}, line {error.lineno}: {expat.ErrorString(error.code)}. Expected complete XML. "
            f"Write the file again."
        ) from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, LookupError, AssertionError) as error:  # encodings that expat lacks
        raise DataError(f"{path}: {error}. Save the file as UTF-8.") from error


def _side(size: Element, key: str, path: Path) -> int:
    """A stated width or height; 0 if it is absent or empty, as some tools write."""
    text = (size.findtext(key) or "").strip() or "0"
    value = _float(text)
    if value != value or value < 0 or value != int(value):
        raise DataError(f"{path}: {key} {text!r} of <size> is not a whole number of pixels.")
    return int(value)


def _object(item: Element, where: str) -> LabelledObject:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where} has no <name>. Every object needs the name of its class.")
    where = f"{where} ({name!r})"
    box = item.find("bndbox")
    if box is None:
        raise DataError(f"{where} has no <bndbox>. Expected {', '.join(_SIDES)} in pixels.")
    xmin, ymin, xmax, ymax = (_coordinate(box, key, where) for key in _SIDES)
    if xmax < xmin or ymax < ymin:
        raise DataError(
            f"{where}: the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g} has xmax < xmin or "
            f"ymax < ymin. Expected {', '.join(_SIDES)}. Exchange the corners."
        )
    return LabelledObject(
        name,
        (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1),
        _flag(item, "difficult", where),
        xmin == 0 or ymin == 0,
    )


def _coordinate(box: Element, key: str, where: str) -> float:
    text = box.findtext(key)
    if text is None:
        raise DataError(
            f"{where}: <bndbox> has no <{key}>{nearest(key, [item.tag for item in box])}. "
            f"Expected {', '.join(_SIDES)}."
        )
    value = _float(text)
    if value != value:
        raise DataError(f"{where}: {key} {text.strip()[:40]!r} is not a number of pixels.")
    return value


def _flag(item: Element, key: str, where: str) -> bool:
    text = (item.findtext(key) or "").strip().casefold() or "0"
    if text not in ("0", "1", "false", "true"):
        raise DataError(f"{where}: {key} {text[:40]!r} is not 0 or 1.")
    return text in ("1", "true")


def _float(text: str) -> float:
    """The finite number that a text stands for; NaN for any other text."""
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
