"""evaluation/thresholds.py: the best F1, and the matching behind it."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco_sets import BACKENDS, DETECTIONS, GT, generated
from deim_lab.boxes import paired_iou
from deim_lab.evaluation import (
    best_f1,
    thresholds,
)
from deim_lab.evaluation.scores import read_truth


def naive_best_f1(gt: dict, rows: list[dict]) -> tuple[float, float]:
    """F1 with the list really cut at each score, matched anew each time; no crowds."""
    best = (0.0, 1.0)
    for threshold in sorted({row["score"] for row in rows}, reverse=True):
        kept = sorted(
            (row for row in rows if row["score"] >= threshold), key=lambda row: -row["score"]
        )
        free, hits = {id(item): item for item in gt["annotations"]}, 0
        for row in kept:
            same = [
                item
                for item in free.values()
                if (item["image_id"], item["category_id"]) == (row["image_id"], row["category_id"])
            ]
            ious = [
                float(
                    paired_iou(
                        *(
                            torch.tensor(
                                [b[0], b[1], b[0] + b[2], b[1] + b[3]], dtype=torch.float64
                            )
                            for b in (item["bbox"], row["bbox"])
                        )
                    )
                )
                for item in same
            ]
            if ious and max(ious) >= 0.5:
                hits += 1
                del free[id(same[int(np.argmax(ious))])]
        f1 = 2 * hits / (len(kept) + len(gt["annotations"]))
        best = max(best, (f1, threshold), key=lambda pair: pair[0])
    return best


def test_best_f1_equals_cutting_the_list_at_every_score() -> None:
    gt, rows = generated(4, images=8)
    gt["annotations"] = [item for item in gt["annotations"] if not item["iscrowd"]]
    rows = rows[:-150]
    for number, row in enumerate(rows):
        row["score"] = round(0.1 + 0.8 * row["score"], 1) if number % 3 else 0.05 * (number % 20)
    curve = best_f1(gt, rows)
    f1, threshold = naive_best_f1(gt, rows)
    assert f1 > 0.2
    assert curve.f1 == pytest.approx(f1, abs=1e-12)
    assert curve.threshold == pytest.approx(threshold)
    assert (np.diff(curve.thresholds) < 0).all()
    assert (np.diff(curve.recall) >= 0).all()
    harmonic = (
        2 * curve.precision * curve.recall / np.maximum(curve.precision + curve.recall, 1e-12)
    )
    assert curve.f1_at == pytest.approx(harmonic)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["published", *range(6)])
def test_the_matching_behind_f1_is_that_of_pycocotools(case: str | int, backend: str) -> None:
    published = (json.loads(path.read_text(encoding="utf-8")) for path in (GT, DETECTIONS))
    gt, rows = published if case == "published" else generated(int(case))
    coco = COCO()
    coco.dataset = copy.deepcopy(gt)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(rows)), "bbox")
        evaluator.evaluate()
    counted: list[tuple[float, bool]] = []
    for item in evaluator.evalImgs:
        if item is not None and item["aRng"] == [0, 1e10]:
            ignored = item["dtIgnore"][0].astype(bool)
            pairs = zip(item["dtScores"], item["dtMatches"][0] > 0, ignored, strict=True)
            counted += [(score, bool(match)) for score, match, outside in pairs if not outside]
    scores, hits = thresholds._hits_at_iou50(read_truth(gt, None), rows, backend)
    assert case == "published" or len(counted) < len(rows)  # some lie in crowds or are beyond 100
    assert sorted(zip(scores.tolist(), hits.tolist(), strict=True)) == sorted(counted)
