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
    """F1 of all classes together (micro) at IoU 0.5, if only detections of at least each threshold
    were kept.

    ``thresholds`` are the distinct scores, falling; ``precision``, ``recall`` and ``f1_at`` belong
    to them. ``threshold`` is the best one and ``f1`` its F1; without detections 1.0 and 0.0.
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
    """F1 at every threshold, and the best: MAL's confidences are lower than VFL's, so a fixed
    threshold would compare thresholds.

    COCO's matching goes from high to low score, so what a detection is matched to doesn't depend on
    where the list is cut: one matching at IoU 0.5 serves all thresholds. Crowds and what lies in
    them count neither way.
    """
    truth = read_truth(gt_json, image_ids)
    return f1_curve(truth, read_detections(detections_json, truth), resolve_backend(backend))


def score_with_f1(
    gt_json: Source, detections_json: Source, *, backend: str = "auto"
) -> tuple[Scores, F1Curve]:
    """``score`` and ``best_f1`` from one reading of both."""
    truth = read_truth(gt_json, None)
    rows = read_detections(detections_json, truth)
    chosen = resolve_backend(backend)
    return score_checked(truth, rows, chosen), f1_curve(truth, rows, chosen)


def f1_curve(truth: dict[str, Json], rows: list[dict[str, Json]], backend: str) -> F1Curve:
    """``best_f1`` of ground truth and detections that were read and checked."""
    scores, hits = _hits_at_iou50(truth, rows, backend)
    positives = sum(not item["iscrowd"] for item in truth["annotations"])
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    if not len(scores):
        return F1Curve(scores, scores, scores, scores, threshold=1.0, f1=0.0)
    last = np.flatnonzero(
        np.append(scores[1:] != scores[:-1], True)
    )  # equal scores are kept or dropped together
    kept, true = last + 1, np.cumsum(hits)[last]
    f1 = 2 * true / (kept + positives)
    best = int(f1.argmax())
    return F1Curve(
        scores[last],
        true / kept,
        true / max(positives, 1),
        f1,
        threshold=float(scores[last][best]),
        f1=float(f1[best]),
    )


def _hits_at_iou50(
    truth: dict[str, Json], rows: list[dict[str, Json]], backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """Score ``[N]`` and whether it found a box ``[N]`` of each detection that counts.

    At most 100 an image and class count, and none that lies in a crowd.
    """
    scores: list[np.ndarray] = [np.zeros(0)]
    hits: list[np.ndarray] = [np.zeros(0, dtype=bool)]
    for item in backends.matched(truth, rows, backend, iou=0.5):
        scores.append(item.scores[~item.ignored])
        hits.append(item.hits[~item.ignored])
    return np.concatenate(scores), np.concatenate(hits)
