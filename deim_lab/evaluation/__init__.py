"""Evaluation: COCO's metrics, F1 over thresholds, and scoring a detector on a data set.

``VALIDATION`` has the metrics of each validation. To add a metric, add an entry
(docs/extending.md).
"""

from __future__ import annotations

from deim_lab.config.entries import VALIDATION, Metric
from deim_lab.evaluation.backends import BACKENDS, resolve_backend
from deim_lab.evaluation.detector import Evaluation, evaluate
from deim_lab.evaluation.scores import METRICS, Scores, Source, coco_metrics, per_class, score
from deim_lab.evaluation.thresholds import F1Curve, best_f1, score_with_f1

__all__ = [
    "BACKENDS",
    "METRICS",
    "VALIDATION",
    "Evaluation",
    "F1Curve",
    "Metric",
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
