"""A COCO ground truth and result files of detectors, made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

Json = Any
WIDTH, HEIGHT = 320, 200


def truth(images: int = 12, boxes: int = 4) -> dict[str, Json]:
    """Images with boxes of many sizes, inside them; category ids with a gap."""
    draw = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(boxes):
            w, h = draw.uniform(10, 120), draw.uniform(10, 90)
            x, y = draw.uniform(0, WIDTH - w), draw.uniform(0, HEIGHT - h)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(draw.choice([1, 5])),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": image, "width": WIDTH, "height": HEIGHT, "file_name": f"{image}.png"}
            for image in range(1, images + 1)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": annotations,
    }


def found(content: dict[str, Json], noise_px: float, seed: int = 0) -> list[dict[str, Json]]:
    """The boxes moved a little, with scores."""
    draw = np.random.default_rng(seed)
    return [
        {
            "image_id": item["image_id"],
            "category_id": item["category_id"],
            "score": float(draw.uniform(0.2, 0.9)),
            "bbox": [
                float(value)
                for value in np.asarray(item["bbox"]) + draw.uniform(-noise_px, noise_px, 4)
            ],
        }
        for item in content["annotations"]
    ]


def write_files(folder: Path) -> dict[str, Path]:
    """A ground truth, a good detector's result file and a rough one's."""
    content = truth()
    written = {"gt": content, "good": found(content, 2), "rough": found(content, 6, seed=1)}
    for name, value in written.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return {name: folder / f"{name}.json" for name in written}
