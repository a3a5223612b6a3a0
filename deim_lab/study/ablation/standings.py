"""Standing of an arm against the baseline: its metric, its difference, whether it counts."""

from __future__ import annotations

import pandas as pd

from deim_lab.config.entries import COCO_METRICS, VALIDATION
from deim_lab.errors import ConfigError, nearest
from deim_lab.study.ablation.activity import doubts
from deim_lab.study.ablation.arms import Arm, Comparison
from deim_lab.study.ablation.statistics import Difference, difference

SCORES = ("AP", "AP50", "AP75", "best_f1")
METRICS = (*COCO_METRICS, "best_f1")


def check_metric(metric: str, comparison: Comparison | None = None) -> str:
    """Return ``metric``, or raise a ``ConfigError`` with the nearest valid name.

    Valid names are the entries of ``evaluation.VALIDATION`` and every numeric column that the runs
    of
    ``comparison`` logged at their validations.
    """
    metrics = dict.fromkeys(VALIDATION)
    for arm in () if comparison is None else comparison.arms:
        for trial in arm.trials:
            metrics |= dict.fromkeys(_numeric(trial.scores))
    if metric not in metrics:
        raise ConfigError(
            f"unknown metric {metric!r}{nearest(metric, metrics)}; known: {', '.join(metrics)}"
        )
    return metric


def higher_is_better(metric: str) -> bool | None:
    """The better direction that ``evaluation.VALIDATION`` declares; None if it declares none."""
    return VALIDATION[metric].higher_is_better if metric in VALIDATION else None


def _numeric(scores: pd.DataFrame) -> list[str]:
    """Numeric columns of the validation events, without the position in the run."""
    values = scores.drop(columns=["epoch", "step", "time"], errors="ignore")
    return [str(name) for name in values.select_dtypes("number")]


def standing(arm: Arm, comparison: Comparison) -> str:
    """Whether an arm counts in the conclusions, as one of six words.

    ``baseline``, ``counts``, ``no runs``, ``not active``, ``unsound baseline`` (the baseline's own
    learning rate never reached its target) or ``other budget``.
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
    """Compare the last evaluations of an arm and the baseline, by seed."""
    return difference(
        arm.final(check_metric(metric, comparison)), comparison.baseline.final(metric)
    )
