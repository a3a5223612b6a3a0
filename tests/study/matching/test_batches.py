"""The images that the microscope looks at: the first ones, unless they have no targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from deim_lab.data.coco import CocoDataset
from deim_lab.errors import DataError
from deim_lab.study import matching


def half(
    folder: Path, name: str, boxes: list[int], train: CocoDataset | None = None
) -> CocoDataset:
    """A half with ``boxes[i]`` boxes in picture i."""
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    (folder / name).mkdir()
    for index, count in enumerate(boxes):
        Image.new("RGB", (32, 32)).save(folder / name / f"{index}.png")
        size = {"width": 32, "height": 32}
        content["images"].append({"id": index, "file_name": f"{index}.png", **size})
        for _ in range(count):
            number = len(content["annotations"]) + 1
            row = {"id": number, "image_id": index, "category_id": 1, "bbox": [1, 1, 9, 9]}
            content["annotations"].append({**row, "area": 81, "iscrowd": 0})
    path = folder / f"{name}.json"
    categories_json = [{"id": 1, "name": "x"}]
    path.write_text(json.dumps({**content, "categories": categories_json}), encoding="utf-8")
    categories = None if train is None else train.categories
    return CocoDataset.load(folder / name, path, categories=categories, name=name)


def test_the_first_images_with_targets_are_taken(tmp_path: Path) -> None:
    train = half(tmp_path, "train", [1, 0, 2])
    usual = half(tmp_path, "usual", [0, 1, 0, 3], train)
    late = half(tmp_path, "late", [0, 0, 0, 1, 0, 2], train)
    empty = half(tmp_path, "empty", [0, 0], train)
    for sources, limit, source, positions in (
        ((usual, train), 32, usual, [0, 1, 2, 3]),
        ((usual, train), 2, usual, [0, 1]),
        ((late, train), 3, late, [3, 5]),
        ((late, train), 4, late, [0, 1, 2, 3]),
        ((empty, train), 2, train, [0, 1]),
    ):
        chosen, places = matching.with_targets(*sources, limit=limit)
        assert chosen is source
        assert list(places) == positions
    with pytest.raises(DataError, match="no image of empty has a box"):
        matching.with_targets(empty)
