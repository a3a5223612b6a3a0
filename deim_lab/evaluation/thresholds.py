"""F1 over score thresholds, from COCO's own matching at IoU 0.5."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from deim_lab.evaluation import backends
from deim_lab.evaluation.backends import Json, resolve_backend
from deim_lab.evaluation.scores import (
    Scores,
    Source,
    read_detections,
    read_truth,
    score_checked,
)


@dataclass(frozen=True)
class F1Curve:
    """F1 of all classes together (micro) at IoU 0.5, for every score threshold.

    At each threshold, only detections with at least that score count. ``thresholds`` are the
    distinct scores in descending order; ``precision``, ``recall`` and ``f1_at`` belong to them.
    ``threshold`` is the best threshold and ``f1`` its F1; without detections 1.0 and 0.0.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1_at: np.ndarray
    threshold: float
    f1: float


def best_f1(
    gt_json: Source,
    detections_json: Source,
    *,
    backend: str = "auto",
    image_ids: Iterable[int] | None = None,
) -> F1Curve:
    """F1 at every threshold, and the threshold with the best F1.

    MAL's confidences are lower than VFL's, so a fixed threshold would not compare the detectors
    fairly. COCO's matching goes from high to low score, so the match of a detection doesn't depend
    on lower scores. One matching at IoU 0.5 therefore serves all thresholds. Crowds, and detections
    inside crowds, are ignored.
    """
    truth = read_truth(gt_json, image_ids)
    return f1_curve(truth, read_detections(detections_json, truth), resolve_backend(backend))


def score_with_f1(
    gt_json: Source, detections_json: Source, *, backend: str = "auto"
) -> tuple[Scores, F1Curve]:
    """``score`` and ``best_f1`` together; reads ground truth and detections only once."""
    truth = read_truth(gt_json, None)
    rows = read_detections(detections_json, truth)
    chosen = resolve_backend(backend)
    return score_checked(truth, rows, chosen), f1_curve(truth, rows, chosen)


def f1_curve(truth: dict[str, Json], rows: list[dict[str, Json]], backend: str) -> F1Curve:
    """Compute ``best_f1`` from ground truth and detections that were read and checked."""
    scores, hits = _hits_at_iou50(truth, rows, backend)
    positives = sum(not item["iscrowd"] for item in truth["annotations"])
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    if not len(scores):
        return F1Curve(scores, scores, scores, scores, threshold=1.0, f1=0.0)
    # Detections of equal score pass or fail a threshold together.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    num_detections, true = last + 1, np.cumsum(hits)[last]
    f1 = 2 * true / (num_detections + positives)
    best = int(f1.argmax())
    return F1Curve(
        scores[last],
        true / num_detections,
        true / max(positives, 1),
        f1,
        threshold=float(scores[last][best]),
        f1=float(f1[best]),
    )


def _hits_at_iou50(
    truth: dict[str, Json], rows: list[dict[str, Json]], backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[N]`` of all counted detections, and whether each matched a box ``[N]``.

    Up to 100 detections per image and class count; detections in a crowd do not count.
    """
    scores: list[np.ndarray] = [np.zeros(0)]
    hits: list[np.ndarray] = [np.zeros(0, dtype=bool)]
    for item in backends.matched(truth, rows, backend, iou=0.5):
        scores.append(item.scores[~item.ignored])
        hits.append(item.hits[~item.ignored])
    return np.concatenate(scores), np.concatenate(hits)
