"""Differences, half budgets and epochs to reach: a row an arm, where the tables say."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from deim_lab import figures
from deim_lab.figures import ablation
from drawn import xs, ys

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


def test_saved_figures_come_with_their_numbers(
    summary: pd.DataFrame, per_run: pd.DataFrame, tmp_path: Path
) -> None:
    paths = figures.save(ablation.differences(summary, per_run), tmp_path / "differences")
    assert [path.suffix for path in paths] == [".png", ".svg", ".pdf", ".csv"]
    assert all(path.stat().st_size > 500 for path in paths[:3])
    assert set(pd.read_csv(paths[3])["arm"]) == {"DEIM", "MAL", "Dense O2O", "new"}
