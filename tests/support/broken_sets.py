"""A small sound data set of photographs-like pictures, and copies of it with one fault each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Json = Any
SIZE_WH = (120, 80)
HALVES = {"train": 14, "val": 6}
CATEGORIES = [{"id": 1, "name": "cell"}, {"id": 2, "name": "dot"}]


def make(folder: Path, *, seed: int = 0) -> Path:
    """20 JPEGs of smooth noise, three boxes each, in COCO layout."""
    generator = np.random.default_rng(seed)
    width, height = SIZE_WH
    for half, count in HALVES.items():
        images = folder / "images" / half
        images.mkdir(parents=True)
        content: dict[str, Json] = {"images": [], "annotations": [], "categories": CATEGORIES}
        for number in range(count):
            coarse = generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize(SIZE_WH, Image.Resampling.BICUBIC)
            name = f"{half}{number}.jpg"
            picture.save(images / name, quality=92)
            content["images"].append(
                {"id": number + 1, "file_name": name, "width": width, "height": height}
            )
            for _ in range(3):
                box_wh = generator.integers(15, 45, 2)
                x, y = generator.integers(0, np.asarray(SIZE_WH) - box_wh + 1)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number + 1,
                        "category_id": int(generator.integers(1, 3)),
                        "bbox": [int(x), int(y), *map(int, box_wh)],
                        "area": int(box_wh.prod()),
                        "iscrowd": 0,
                    }
                )
        json_of(folder, half).parent.mkdir(exist_ok=True)
        json_of(folder, half).write_text(json.dumps(content), encoding="utf-8")
    return folder


def json_of(folder: Path, half: str) -> Path:
    return folder / "annotations" / f"instances_{half}.json"


def edit(folder: Path, change: Callable[[dict[str, Json]], None], *halves: str) -> Path:
    """Change the json of these halves (both by default) in place."""
    for half in halves or HALVES:
        content = json.loads(json_of(folder, half).read_text(encoding="utf-8"))
        change(content)
        json_of(folder, half).write_text(json.dumps(content), encoding="utf-8")
    return folder


def edit_boxes(folder: Path, change: Callable[[np.ndarray], np.ndarray], *halves: str) -> Path:
    """Replace every ``bbox`` by ``change`` of it, and drop the areas."""

    def changed(content: dict[str, Json]) -> None:
        for item in content["annotations"]:
            item["bbox"] = change(np.asarray(item["bbox"], dtype=float)).tolist()
            del item["area"]

    return edit(folder, changed, *halves)


def copied(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to)


def cut(path: Path, share: float = 0.6) -> None:
    """Truncate a file."""
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])


def save_anew(source: Path, target: Path, *, quality: int = 50) -> None:
    """A copy of a picture that is another file: re-encoded."""
    with Image.open(source) as picture:
        picture.convert("RGB").save(target, quality=quality)
