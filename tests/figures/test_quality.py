"""Matched IoUs under the curves, and F1 over thresholds, read back from the artists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deim_lab import figures
from deim_lab.figures import quality
from drawn import xs, ys
from f1_curves import curve_of


def test_matches_lie_under_the_curves() -> None:
    histogram = np.arange(20) + 1.0
    fig = quality.matches_under_curves(histogram, gamma=2.0)
    bars = fig.axes[0].containers[0]
    assert [bar.get_height() for bar in bars] == pytest.approx(
        (histogram / histogram.sum()).tolist()
    )
    sizes = {line.get_label(): line for line in fig.axes[2].lines}
    iou = xs(sizes["VFL, p = 0.5"])
    assert ys(sizes["VFL, p = 0.5"]) == pytest.approx(iou * abs(0.5 - iou))
    assert ys(sizes["MAL, p = 0.1"]) == pytest.approx(abs(0.1 - iou**2))
    shown = {line.get_label(): line for line in fig.axes[1].lines}
    expected = (
        quality.share_of_gradient(histogram, gamma=2.0).query("kind == 'mal'")["share"].to_numpy()
    )
    assert ys(shown["MAL"]) == pytest.approx(expected)


def test_f1_of_two_runs_side_by_side(tmp_path: Path) -> None:
    curves = {
        "a": curve_of([(0.9, 0.2), (0.6, 0.5), (0.3, 0.7)]),
        "b": curve_of([(0.8, 0.65), (0.4, 0.6)]),
    }
    fig = quality.f1_over_thresholds(curves, methods={"a": "mal", "b": "vfl"})
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["a", "b"]
    marks = [
        {line.get_label(): (xs(line)[0], ys(line)[0]) for line in ax.lines if len(xs(line)) == 1}
        for ax in fig.axes
    ]
    assert marks[0] == {"0.500 at a fixed 0.5": (0.5, 0.5), "0.700 at its own 0.30": (0.3, 0.7)}
    assert marks[1] == {"0.650 at a fixed 0.5": (0.5, 0.65), "0.650 at its own 0.80": (0.8, 0.65)}
    assert quality.f1_table(curves)["f1_at_fixed"].tolist() == [0.5, 0.65]
    assert {path.suffix for path in figures.save(fig, tmp_path / "f1")} == {
        ".png",
        ".svg",
        ".pdf",
        ".csv",
    }
    with pytest.raises(ValueError, match="no run"):
        quality.f1_over_thresholds({})


def test_f1_steps_are_those_of_f1_at() -> None:
    curve = curve_of([(0.9, 0.2), (0.6, 0.5), (0.3, 0.7), (0.1, 0.4)])
    line = next(
        line
        for line in quality.f1_over_thresholds({"a": curve}).axes[0].lines
        if line.get_drawstyle() == "steps-pre"
    )
    x, y = xs(line), ys(line)
    for t in (0.05, 0.2, 0.45, 0.75):
        assert y[np.searchsorted(x, t)] == quality.f1_at(
            curve, t
        )  # "pre": a value holds up to its point
