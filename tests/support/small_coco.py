"""A data set of two images in COCO layout, whole or with one value changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deim_lab.data.coco import CocoDataset

Json = dict[str, Any]


def write(folder: Path, content: Json | str, split: str = "train") -> Path:
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def content_of(category_ids: tuple[int, ...] = (1, 2, 3)) -> Json:
    """Two images (the second a negative), three boxes, categories listed out of order."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.png", "width": 20, "height": 20},
        ],
        "annotations": [
            {"id": 100 + k, "image_id": 7, "category_id": category_id, "bbox": [2 + k, 3, 10.5, 8]}
            for k, category_id in enumerate(category_ids)
        ],
        "categories": [
            {"id": category_id, "name": f"class {k}"}
            for k, category_id in reversed(list(enumerate(category_ids)))
        ],
    }


def load(folder: Path, content: Json | str | None = None, **options: Any) -> CocoDataset:
    path = write(folder, content if content is not None else content_of())
    return CocoDataset.load(folder / "images" / "train", path, **options)


def changed(*path_and_value: Any) -> Json:
    """The good content with one value replaced: ``changed("images", 0, "id", 9)``; ``...`` deletes
    the key.
    """
    content: Any = content_of()
    *path, last, value = path_and_value
    at = content
    for step in path:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return content
