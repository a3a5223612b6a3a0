"""F1 at a threshold keeps the scores at or above it."""

from __future__ import annotations

from deim_lab.study.gradients import thresholds
from f1_curves import curve_of


def test_f1_at_a_threshold_keeps_the_scores_at_or_above_it() -> None:
    curve = curve_of([(0.9, 0.2), (0.6, 0.5), (0.3, 0.7), (0.1, 0.4)])
    assert [thresholds.f1_at(curve, t) for t in (0.95, 0.9, 0.61, 0.6, 0.5, 0.0)] == [
        0.0,
        0.2,
        0.2,
        0.5,
        0.5,
        0.4,
    ]
