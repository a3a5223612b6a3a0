"""COCO's numbers (``scores``)."""

from __future__ import annotations

from deim_lab.evaluation.scores import (
    BACKENDS,
    METRICS,
    Evaluation,
    F1Curve,
    Scores,
    Source,
    best_f1,
    coco_metrics,
    evaluate,
    per_class,
    resolve_backend,
    score,
    score_with_f1,
)

__all__ = [
    "BACKENDS",
    "METRICS",
    "Evaluation",
    "F1Curve",
    "Scores",
    "Source",
    "best_f1",
    "coco_metrics",
    "evaluate",
    "per_class",
    "resolve_backend",
    "score",
    "score_with_f1",
]
