"""Small data sets on disk for tests of readers: pictures, text files, boxes of a half."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deim_lab.data.formats.content import Content, Halves
from deim_lab.data.parse import parse_coco

TURNED = 6  # the EXIF orientation of a picture that a viewer turns by a quarter


def picture(path: Path, size: tuple[int, int] = (40, 30), *, orientation: int = 1) -> Path:
    """Write a picture of random pixels; ``size`` is the width and height as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size[::-1], 3), np.uint8)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def text(path: Path, content: str) -> Path:
    """Write a text file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def read(halves: Halves, split: str = "train") -> Content:
    """Read one half; its labels survive pickling, and its content is good COCO."""
    images_dir, labels = halves[split]
    content: Content = pickle.loads(pickle.dumps(labels)).read()
    assert content.images_dir == images_dir
    for item in content.coco["images"]:
        assert (images_dir / item["file_name"]).is_file()
    parse_coco(content.coco, name=str(labels.path))
    return content


def boxes(content: Content) -> dict[str, list[tuple[Any, ...]]]:
    """File name → its boxes as (class name, x, y, w, h), rounded to 1e-6."""
    names = {item["id"]: item["name"] for item in content.coco["categories"]}
    files = {item["id"]: item["file_name"] for item in content.coco["images"]}
    table: dict[str, list[tuple[Any, ...]]] = {name: [] for name in files.values()}
    for item in content.coco["annotations"]:
        box = [round(value, 6) for value in item["bbox"]]
        table[files[item["image_id"]]].append((names[item["category_id"]], *box))
    return table


def names(content: Content) -> list[str]:
    """Class names in the order of the content."""
    return [item["name"] for item in content.coco["categories"]]


def size(content: Content, file_name: str) -> tuple[int, int]:
    """The stated width and height of a picture."""
    item = next(item for item in content.coco["images"] if item["file_name"] == file_name)
    return item["width"], item["height"]


def notices(content: Content) -> list[str]:
    """Names of the notices."""
    return [notice.partition(":")[0] for notice in content.notices]
