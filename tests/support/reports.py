"""Small data sets for the tests of public bug reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deim_lab.data import coco

Json = Any
Edit = Callable[[Json, str, Path], None]

TRAIN = ("train", "--preset", "smoke", "--device", "cpu")
ONE_EPOCH = ("--set", "data.workers=0", "--set", "train.epochs=1")
COLOURS = ((230, 40, 40), (40, 230, 40), (40, 40, 230))


def made(
    folder: Path,
    counts: tuple[int, int] = (8, 4),
    categories: tuple[tuple[int, str], ...] = ((1, "cell"), (2, "dot")),
    edit: Edit | None = None,
) -> Path:
    """A small sound set in COCO layout, then ``edit(json, half, folder)``."""
    draw = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for half, count in zip(("train", "val"), counts, strict=True):
        pictures = folder / "images" / half
        pictures.mkdir(parents=True)
        named = [{"id": number, "name": name} for number, name in categories]
        content: Json = {"images": [], "annotations": [], "categories": named}
        for index in range(count):
            pixels = draw.integers(0, 90, (64, 96, 3)).astype("uint8")
            for _ in range(2):
                width, height = int(draw.integers(12, 32)), int(draw.integers(12, 32))
                x, y = int(draw.integers(0, 96 - width)), int(draw.integers(0, 64 - height))
                kind = int(draw.integers(len(categories)))
                pixels[y : y + height, x : x + width] = COLOURS[kind]
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": index + 1,
                        "category_id": categories[kind][0],
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
            name = f"{half}{index}.png"
            Image.fromarray(pixels).save(pictures / name)
            content["images"].append(
                {"id": index + 1, "file_name": name, "width": 96, "height": 64}
            )
        if edit is not None:
            edit(content, half, folder)
        text = json.dumps(content, ensure_ascii=False)
        (folder / "annotations" / f"instances_{half}.json").write_text(text, encoding="utf-8")
    return folder


def opened(folder: Path) -> coco.CocoDataset:
    return coco.open_source(coco.resolve(folder))[0]
