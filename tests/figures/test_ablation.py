"""Curves, gammas, densities and prices of arms stand where the tables say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from deim_lab.figures import ablation, style
from drawn import dots, xs, ys


def test_no_two_arms_share_a_colour() -> None:
    names = ["plain", "MAL", "Dense O2O", "DEIM", *(f"arm {number}" for number in range(8))]
    tints = ablation.colours(names)
    assert len(set(tints.values())) == len(names)
    half = pd.DataFrame(
        [
            {
                "arm": "arm 2",
                "epochs": 1.0,
                "baseline_epochs": 2.0,
                "difference": 0.1,
                "low": 0.05,
                "high": 0.15,
                "standing": "counts",
            }
        ]
    )
    drawn = ablation.halves(half, tints=tints).axes[0].lines[0]
    assert (
        to_hex(drawn.get_color())
        == tints["arm 2"].lower()
        != to_hex(ablation.halves(half).axes[0].lines[0].get_color())
    )
    assert (tints["plain"], tints["MAL"], tints["Dense O2O"]) == (
        style.COLOURS["plain"],
        style.COLOURS["mal"],
        style.COLOURS["dense"],
    )


def test_curves_are_means_with_the_range_of_the_seeds() -> None:
    rows = [
        {"arm": arm, "seed": seed, "epochs_done": epoch, "AP": base * epoch + 0.1 * seed}
        for arm, base, seeds in (("plain", 0.1, (0, 1)), ("DEIM", 0.2, (0,)))
        for seed in seeds
        for epoch in (1, 2, 3)
    ]
    fig = ablation.curves(pd.DataFrame(rows), target=0.35, baseline="plain")
    ax = fig.axes[0]
    lines = {
        line.get_label(): list(ys(line))
        for line in ax.lines
        if not str(line.get_label()).startswith("_")
    }
    assert lines["plain (2 seeds)"] == pytest.approx([0.15, 0.25, 0.35])
    assert lines["DEIM (1 seed)"] == pytest.approx([0.2, 0.4, 0.6])
    assert len(ax.collections) == 1  # one seed has no band
    heights = np.asarray(ax.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.1, 0.4))
    assert any(list(ys(line)) == [0.35, 0.35] for line in ax.lines)
    assert ax.texts[0].get_text() == "plain's end: 0.350"
    hollow = ablation.curves(pd.DataFrame(rows), left_out=["DEIM"]).axes[0].lines[1]
    assert (hollow.get_label(), hollow.get_markerfacecolor()) == (
        "DEIM (1 seed), left out",
        "white",
    )


def test_curves_leave_out_epochs_that_not_every_seed_has() -> None:
    rows = [
        {"arm": "plain", "seed": seed, "epochs_done": epoch, "AP": 0.1 * epoch}
        for seed, last in ((0, 3), (1, 2))
        for epoch in range(1, last + 1)
    ]
    assert list(xs(ablation.curves(pd.DataFrame(rows)).axes[0].lines[0])) == [1, 2]


def test_gamma_curve_goes_through_the_means() -> None:
    table = pd.DataFrame(
        [
            {"gamma": gamma, "seed": seed, "AP": gamma / 10 + seed / 100, "arm": f"γ {gamma}"}
            for gamma in (1.0, 1.5, 2.0)
            for seed in (0, 1)
        ]
    )
    ax = ablation.gammas(table).axes[0]
    mean = next(line for line in ax.lines if line.get_marker() == "s")
    assert xs(mean).tolist() == [1.0, 1.5, 2.0]
    assert ys(mean).tolist() == pytest.approx([0.105, 0.155, 0.205])
    assert len(xs(ax.lines[0])) == 6


def test_density_marks_runs_and_means_and_what_does_not_count() -> None:
    table = pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "targets_per_image": x + seed,
                "AP": 0.5 + seed / 10,
                "standing": standing,
            }
            for arm, x, standing in (("plain", 3.0, "baseline"), ("DEIM", 9.0, "not active"))
            for seed in (0, 1)
        ]
    )
    ax = ablation.density(table).axes[0]
    small, large = ax.collections[0], ax.collections[1]
    assert dots(small).tolist() == [[3.0, 0.5], [4.0, 0.6]]
    assert dots(large).tolist() == [[3.5, pytest.approx(0.55)]]
    assert len(np.asarray(ax.collections[3].get_facecolor())) == 0  # hollow
    assert len(np.asarray(large.get_facecolor())) == 1


def test_price_has_time_and_memory() -> None:
    table = pd.DataFrame(
        [
            {
                "arm": "plain",
                "seed": seed,
                "minutes": 1.0 + seed,
                "peak_memory_mib": 500.0,
                "AP": 0.5,
            }
            for seed in (0, 1)
        ]
    )
    left, right = ablation.price(table).axes
    assert dots(left.collections[1]).tolist() == [[1.5, 0.5]]
    assert dots(right.collections[1]).tolist() == [[500.0, 0.5]]
    unlogged = ablation.price(table.assign(peak_memory_mib=math.nan)).axes[1]
    assert [text.get_text() for text in unlogged.texts] == ["not in the log"]


def test_empty_tables_say_what_is_missing() -> None:
    halves = pd.DataFrame(
        columns=["arm", "epochs", "baseline_epochs", "difference", "low", "high", "standing"]
    )
    assert "grids/half_epochs" in ablation.halves(halves).axes[0].texts[0].get_text()
    assert (
        "grids/gamma"
        in ablation.gammas(pd.DataFrame(columns=["gamma", "seed", "AP", "arm"]))
        .axes[0]
        .texts[0]
        .get_text()
    )
