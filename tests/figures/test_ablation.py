"""Ablation figures read back through their artists: what is drawn is what the tables say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from deim_lab import figures
from deim_lab.figures import ablation, style
from drawn import dots, xs, ys

GREY = "#8a8a8a"


@pytest.fixture
def summary() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": "plain", "standing": "baseline"},
            {
                "arm": "DEIM",
                "difference": 0.03,
                "low": 0.01,
                "high": 0.05,
                "p": 0.02,
                "test": "paired",
                "pairs": 2,
                "standing": "counts",
            },
            {
                "arm": "MAL",
                "difference": 0.01,
                "low": -0.02,
                "high": 0.04,
                "p": 0.3,
                "test": "paired",
                "pairs": 2,
                "standing": "counts",
            },
            {
                "arm": "Dense O2O",
                "difference": 0.02,
                "low": 0.01,
                "high": 0.03,
                "p": 0.01,
                "test": "paired",
                "pairs": 2,
                "standing": "not active",
            },
            {
                "arm": "new",
                "difference": -0.01,
                "low": math.nan,
                "high": math.nan,
                "p": math.nan,
                "test": "none",
                "pairs": 1,
                "standing": "counts",
            },
        ]
    )


@pytest.fixture
def per_run() -> pd.DataFrame:
    scores = {
        "plain": (0.50, 0.52),
        "DEIM": (0.52, 0.56),
        "MAL": (0.53, 0.51),
        "Dense O2O": (0.52, 0.54),
        "new": (0.49,),
    }
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "AP": score}
            for arm, finals in scores.items()
            for seed, score in enumerate(finals)
        ]
    )


def test_differences_stand_where_the_table_says(
    summary: pd.DataFrame, per_run: pd.DataFrame
) -> None:
    fig = ablation.differences(summary, per_run)
    ax = fig.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "new",
        "Dense O2O",
        "MAL",
        "DEIM",
    ]  # from below
    intervals = {
        round(ys(line)[0]): line
        for line in ax.lines
        if len(xs(line)) == 2 and line.get_linestyle() == "-" and ys(line)[0] == ys(line)[1]
    }
    assert {place: tuple(xs(line)) for place, line in intervals.items()} == {
        1: (0.01, 0.03),
        2: (-0.02, 0.04),
        3: (0.01, 0.05),
    }
    means = {ys(line)[0]: line for line in ax.lines if line.get_marker() == "s"}
    assert {place: xs(line)[0] for place, line in means.items()} == {
        0: -0.01,
        1: 0.02,
        2: 0.01,
        3: 0.03,
    }
    seeds = {round(ys(line)[0]): sorted(xs(line)) for line in ax.lines if line.get_marker() == "o"}
    assert seeds[3] == pytest.approx([0.02, 0.04])
    assert seeds[0] == pytest.approx([-0.01])
    remarks = [text.get_text() for text in ax.texts]
    assert remarks == ["no interval: one seed", "not active", "not significant", "higher"]
    table = figures.numbers(fig)
    assert set(table["panel"]) == {"differences", "seeds"}


def test_only_what_is_sure_has_a_colour(summary: pd.DataFrame, per_run: pd.DataFrame) -> None:
    ax = ablation.differences(summary, per_run).axes[0]
    means = {ys(line)[0]: line for line in ax.lines if line.get_marker() == "s"}
    colours = {place: to_hex(line.get_color()) for place, line in means.items()}
    assert colours[2] == colours[1] == colours[0] == GREY  # holds 0; not active; no interval
    assert colours[3] != GREY
    assert means[1].get_markerfacecolor() == "white"


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


def test_never_stands_apart_and_has_no_mean() -> None:
    table = pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "target": 0.5,
                "epochs_to_reach": reached,
                "epochs": 36,
                "every": 6,
                "standing": standing,
            }
            for arm, seed, reached, standing in (
                ("plain", 0, 24, "baseline"),
                ("plain", 1, 30, "baseline"),
                ("DEIM", 0, 12, "counts"),
                ("DEIM", 1, math.nan, "counts"),
                ("off", 0, 6, "not active"),
            )
        ]
    )
    ax = ablation.reaching(table).axes[0]
    places = {
        round(ys(line).mean()): sorted(xs(line)) for line in ax.lines if line.get_marker() == "o"
    }
    assert places[2] == [24, 30]
    assert places[1][0] == 12
    assert places[1][1] > 36
    texts = [text.get_text() for text in ax.texts]
    assert "never" in texts
    assert "27.0" in texts
    assert "12.0" not in texts  # a mean over those that did would flatter
    hollow = {
        round(ys(line).mean()): line.get_markerfacecolor()
        for line in ax.lines
        if line.get_marker() == "o"
    }
    assert hollow[0] == "white"
    assert "never" not in [
        text.get_text() for text in ablation.reaching(table[table["seed"] == 0]).axes[0].texts
    ]


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


def test_half_the_epochs_say_how_many() -> None:
    table = pd.DataFrame(
        [
            {
                "arm": "DEIM",
                "epochs": 18.0,
                "baseline_epochs": 36.0,
                "difference": 0.01,
                "low": -0.01,
                "high": 0.03,
                "standing": "counts",
            }
        ]
    )
    ax = ablation.halves(table).axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["DEIM (18)"]
    assert [text.get_text() for text in ax.texts] == ["not significant"]
    assert "36 epochs" in ax.get_xlabel()


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


def test_saved_figures_come_with_their_numbers(
    summary: pd.DataFrame, per_run: pd.DataFrame, tmp_path: Path
) -> None:
    paths = figures.save(ablation.differences(summary, per_run), tmp_path / "differences")
    assert [path.suffix for path in paths] == [".png", ".svg", ".pdf", ".csv"]
    assert all(path.stat().st_size > 500 for path in paths[:3])
    assert set(pd.read_csv(paths[3])["arm"]) == {"DEIM", "MAL", "Dense O2O", "new"}
