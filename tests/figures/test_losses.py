"""Loss figures draw the closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from closed_forms import bce
from deim_lab.figures import losses
from drawn import xs, ys

P = losses.SCORES


def test_overview_draws_positives_above_and_negatives_below() -> None:
    fig = losses.overview(0.5, 1.5, alpha=0.5)
    drawn = [
        {str(line.get_label()): ys(line) for line in ax.lines if len(xs(line)) == losses.POINTS}
        for ax in fig.axes
    ]
    assert [sorted(panel) for panel in drawn] == [["MAL", "VFL", "focal"]] * 4
    assert drawn[0]["MAL"] == pytest.approx(bce(P, 0.5**1.5))
    assert drawn[1]["VFL"] == pytest.approx(0.5 * (P - 0.5))
    assert drawn[3]["MAL"] == pytest.approx(0.5 * P**2.5)
    marks = sorted(
        float(xs(line)[0])
        for line in fig.axes[1].lines
        if len(xs(line)) == 1 and line.get_visible()
    )
    assert marks == pytest.approx([0.5**1.5, 0.5, 1.0])
    assert not [line for line in fig.axes[3].lines if len(xs(line)) == 1 and line.get_visible()]


def test_the_paper_panels_show_both_ends() -> None:
    fig = losses.paper_panels((0.05, 0.95), 1.5)
    for ax, iou in zip(fig.axes, (0.05, 0.95), strict=True):
        lines = {line.get_label(): ys(line) for line in ax.lines}
        assert lines["VFL"] == pytest.approx(iou * bce(P, iou))
        assert lines["MAL"] == pytest.approx(bce(P, iou**1.5))


def test_ratio_figure_dots_where_directions_differ() -> None:
    fig = losses.ratio((0.3,), 1.5)
    solid, dotted = fig.axes[0].lines[:2]
    score, opposite = (
        xs(dotted),
        np.isfinite(ys(dotted).astype(float)),
    )
    assert dotted.get_linestyle() == ":"
    assert score[opposite].min() == pytest.approx(0.3**1.5, abs=0.005)
    assert score[opposite].max() == pytest.approx(0.3, abs=0.006)
    assert not (opposite & np.isfinite(ys(solid).astype(float))).any()


def test_gamma_panel_has_a_line_for_each_gamma() -> None:
    fig = losses.gamma_panel()
    assert [line.get_label() for line in fig.axes[0].lines] == [
        f"γ = {gamma:g}" for gamma in (1.0, 1.3, 1.5, 1.8, 2.0, 2.5)
    ]
    for line, gamma in zip(fig.axes[0].lines, losses.GAMMAS, strict=True):
        assert ys(line) == pytest.approx(xs(line) ** gamma, abs=1e-9)
    assert ys(fig.axes[2].lines[-1]) == pytest.approx(P**3.5)


def test_minima_figure() -> None:
    lines = {line.get_label(): line for line in losses.minima((1.5, 2.0)).axes[0].lines}
    assert ys(lines["MAL, γ = 2"]) == pytest.approx(np.linspace(0, 1, 101) ** 2, abs=1e-9)
    assert ys(lines["VFL"])[1:] == pytest.approx(np.linspace(0, 1, 101)[1:], abs=1e-9)
