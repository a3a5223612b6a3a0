"""How an arm stands against the baseline: its metric, the difference, whether it counts."""

from __future__ import annotations

from deim_lab.errors import ConfigError, nearest
from deim_lab.runs.frame import METRICS as LOGGED
from deim_lab.study.ablation.activity import doubts
from deim_lab.study.ablation.arms import Arm, Comparison
from deim_lab.study.ablation.statistics import Difference, difference

SCORES = ("AP", "AP50", "AP75", "best_f1")
METRICS = (*LOGGED, "best_f1")


def check_metric(metric: str) -> str:
    """``metric``, or a ``ConfigError`` with the nearest right name."""
    if metric not in METRICS:
        raise ConfigError(
            f"unknown metric {metric!r}{nearest(metric, METRICS)}; known: {', '.join(METRICS)}"
        )
    return metric


def standing(arm: Arm, comparison: Comparison) -> str:
    """Whether an arm counts in the conclusions: ``baseline``, ``counts``, ``no runs``,
    ``not active``, ``unsound baseline`` (the baseline's own learning rate never arrived) or
    ``other budget``.
    """
    if arm is comparison.baseline:
        return "baseline"
    if not arm.trials:
        return "no runs"
    if doubts(arm, comparison.baseline):
        return "not active"
    if doubts(comparison.baseline, comparison.baseline):
        return "unsound baseline"
    return "other budget" if comparison.budget(arm) else "counts"


def against_baseline(arm: Arm, comparison: Comparison, metric: str = "AP") -> Difference:
    """The arm's last evaluation against the baseline's, by seed."""
    return difference(arm.final(check_metric(metric)), comparison.baseline.final(metric))
