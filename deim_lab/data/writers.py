"""Write the labels of a data set as COCO, YOLO or Pascal VOC, after ``data.convert``.

Each writer makes the label files in a folder, and yields every picture with its place there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import yaml

from deim_lab.data.annotations import Categories
from deim_lab.data.formats.yolo_files import label_of
from deim_lab.host import files


class Box(NamedTuple):
    """One labelled box: ``x, y, width, height`` and area in pixels."""

    category_id: int
    xywh: tuple[float, float, float, float]
    area: float
    crowd: bool


@dataclass(frozen=True)
class Picture:
    """A picture with its boxes. ``size_wh`` is the size that the boxes fit."""

    id: int
    path: Path
    file_name: str
    size_wh: tuple[int, int]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Half:
    """One half of a data set: ``train``, ``val`` or ``test``."""

    name: str
    categories: Categories
    pictures: tuple[Picture, ...]
    notices: tuple[str, ...] = ()


def write_coco(
    folder: Path, halves: Sequence[Half], categories: Categories
) -> Iterator[tuple[Path, Path]]:
    (folder / "annotations").mkdir()
    for half in halves:
        annotations = [
            {
                "image_id": picture.id,
                "category_id": box.category_id,
                "bbox": list(box.xywh),
                "area": box.area,
                "iscrowd": int(box.crowd),
            }
            for picture in half.pictures
            for box in picture.boxes
        ]
        content = {
            "images": [
                {
                    "id": picture.id,
                    "file_name": picture.file_name,
                    "width": picture.size_wh[0],
                    "height": picture.size_wh[1],
                }
                for picture in half.pictures
            ],
            "annotations": [{"id": place, **item} for place, item in enumerate(annotations, 1)],
            "categories": categories.as_list(),
        }
        files.write_json(folder / "annotations" / f"instances_{half.name}.json", content)
        for picture in half.pictures:
            yield picture.path, folder / "images" / half.name / picture.file_name


def write_yolo(
    folder: Path, halves: Sequence[Half], categories: Categories
) -> Iterator[tuple[Path, Path]]:
    content = {
        **{half.name: f"images/{half.name}" for half in halves},
        "nc": len(categories),
        "names": dict(enumerate(categories.names)),
    }
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    for half in halves:
        for picture in half.pictures:
            place = folder / "images" / half.name / picture.file_name
            label = label_of(place, folder)
            label.parent.mkdir(parents=True, exist_ok=True)
            width, height = picture.size_wh
            lines = []
            for box in picture.boxes:
                x, y, w, h = box.xywh
                values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                numbers = " ".join(f"{value:.10g}" for value in values)
                lines.append(f"{categories.index(box.category_id)} {numbers}\n")
            label.write_text("".join(lines), encoding="utf-8")
            yield picture.path, place


def write_voc(
    folder: Path, halves: Sequence[Half], categories: Categories
) -> Iterator[tuple[Path, Path]]:
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    text = "".join(f"{name}\n" for name in categories.names)
    (folder / "classes.txt").write_text(text, encoding="utf-8")
    for half in halves:
        stems: list[str] = []
        for picture in half.pictures:
            stem = PurePosixPath(picture.file_name).with_suffix("").as_posix()
            stems.append(stem)
            xml_file = folder / "Annotations" / f"{stem}.xml"
            xml_file.parent.mkdir(parents=True, exist_ok=True)
            root = _voc_xml(picture, categories)
            xml_file.write_bytes(ElementTree.tostring(root, encoding="utf-8"))
            yield picture.path, folder / "JPEGImages" / picture.file_name
        text = "".join(f"{stem}\n" for stem in stems)
        (lists / f"{half.name}.txt").write_text(text, encoding="utf-8")


def _voc_xml(picture: Picture, categories: Categories) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    path = PurePosixPath(picture.file_name)
    _add(root, folder=path.parent.name, filename=path.name)
    width, height = picture.size_wh
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    for box in picture.boxes:
        item = ElementTree.SubElement(root, "object")
        _add(item, name=categories.names[categories.index(box.category_id)], pose="Unspecified")
        _add(item, truncated=0, difficult=int(box.crowd))
        x, y, w, h = box.xywh
        xmin, xmax = _whole_pixels(x, x + w)
        ymin, ymax = _whole_pixels(y, y + h)
        _add(ElementTree.SubElement(item, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
    ElementTree.indent(root)
    return root


def _whole_pixels(start: float, end: float) -> tuple[int, int]:
    """First and last pixel of a span, counted from 1; at least the pixel of its middle."""
    first, last = round(start) + 1, round(end)
    if last < first:
        first = last = math.floor((start + end) / 2) + 1
    return first, last


def _add(parent: ElementTree.Element, **texts: str | int) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)
