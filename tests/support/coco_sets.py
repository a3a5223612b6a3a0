"""Ground truth and detections to score, stored and generated, and the bare pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deim_lab.evaluation import (
    BACKENDS as ALL_BACKENDS,
    METRICS,
    resolve_backend,
)
from places import REFERENCE

FOLDER = REFERENCE / "evaluator"
GT = FOLDER / "instances_val2014_100_bbox.json"
DETECTIONS = FOLDER / "instances_val2014_fakebbox100_results.json"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
BACKENDS = [
    name for name in ALL_BACKENDS if name == "pycocotools" or resolve_backend() == "hotcoco"
]


def bare_pycocotools(gt: dict, rows: list[dict]) -> dict[str, float]:
    """The reference without anything of this package in between."""
    coco = COCO()
    coco.dataset = copy.deepcopy(gt)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(rows)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(METRICS, evaluator.stats.tolist(), strict=True))


def generated(seed: int, *, images: int = 24, classes: int = 5) -> tuple[dict, list[dict]]:
    """Gapped ids, crowds, images without boxes, a class without boxes, noisy detections with tied
    scores, more than 100 in one image.
    """
    random = np.random.default_rng(seed)
    image_ids = sorted(random.choice(10**6, images, replace=False).tolist())
    category_ids = sorted(random.choice(90, classes, replace=False).tolist())
    gt: dict[str, Any] = {
        "images": [{"id": i, "width": 640, "height": 480} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
        "annotations": [],
    }
    rows: list[dict] = []
    for index, image_id in enumerate(image_ids):
        for _ in range(0 if index % 5 == 0 else int(random.integers(1, 12))):
            draw = random.random()
            if draw < 0.7 or not gt["annotations"] or gt["annotations"][-1]["image_id"] != image_id:
                size = np.exp(random.uniform(np.log(8), np.log(300), 2))
                box = [*(random.uniform(0, 1, 2) * (640 - size[0], 480 - size[1])), *size]
                category = int(
                    random.choice(category_ids[:-1])
                )  # the last class has no ground truth
            else:  # a neighbour over the last box, in part or wholly: several candidates, and ties
                size = size * random.uniform(0.8, 1.2, 2) if draw < 0.9 else size
                box = [*box[:2], *size]
            crowd = int(random.random() < 0.12)
            gt["annotations"].append(
                {
                    "id": 7 + 3 * len(gt["annotations"]),
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [float(v) for v in box],
                    "area": float(size.prod() * random.uniform(0.5, 1)),
                    "iscrowd": crowd,
                }
            )
            for _ in range(int(random.integers(0, 4))):
                shaken = np.asarray(box) + random.normal(0, 0.06, 4) * np.tile(size, 2)
                rows.append(
                    {
                        "image_id": image_id,
                        "category_id": category
                        if random.random() < 0.8
                        else int(random.choice(category_ids)),
                        "bbox": [float(v) for v in shaken],
                        "score": round(float(random.random()), 2),
                    }
                )
    full = image_ids[1]
    rows += [
        {
            "image_id": full,
            "category_id": category_ids[0],
            "score": float(random.random()),
            "bbox": [float(v) for v in (*random.uniform(0, 400, 2), *random.uniform(5, 90, 2))],
        }
        for _ in range(150)
    ]
    return gt, rows
