"""The tables of a comparison: means, differences, epochs to reach, price, what is missing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deim_lab.study import ablation
from deim_lab.study.ablation.statistics import difference
from trained_runs import ARMS, PLAIN, grid, trained


def test_runs_that_did_not_finish_are_in_no_mean(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.42], "DEIM": [0.5, 0.52]})
    trained(tmp_path, {}, 2, 0.9, end="failed")
    trained(tmp_path, {}, 3, 0.9, end="running")
    found = ablation.read(tmp_path)
    row = ablation.summary(found).set_index("arm").loc["DEIM"]
    assert (row["seeds"], row["failed"], row["unfinished"], row["AP"]) == (
        2,
        1,
        1,
        pytest.approx(0.51),
    )
    assert ablation.missing(found)["error"].tolist() == ["out of luck", ""]
    shown = ablation.readable(ablation.summary(found)).set_index("arm")
    assert shown.loc["DEIM", "seeds"] == "2, 1 failed, 1 unfinished"


def test_summary_has_means_spread_and_the_paired_difference(tmp_path: Path) -> None:
    scores = {"plain": [0.50, 0.52, 0.51], "DEIM": [0.55, 0.58, 0.56], "MAL": [0.49, 0.54, 0.51]}
    grid(tmp_path, scores)
    table = ablation.summary(ablation.read(tmp_path)).set_index("arm")
    for arm, finals in scores.items():
        row: Any = table.loc[arm]
        assert row[["AP", "AP_sd", "best_f1"]].tolist() == pytest.approx(
            [np.mean(finals), np.std(finals, ddof=1), 0.7]
        )
    expected = difference(dict(enumerate(scores["DEIM"])), dict(enumerate(scores["plain"])))
    paired: Any = table.loc["DEIM"]
    assert paired[["difference", "low", "high", "p", "smallest"]].tolist() == pytest.approx(
        [expected.mean, expected.low, expected.high, expected.p, expected.smallest]
    )
    assert math.isnan(table["difference"].loc["plain"])
    shown = ablation.readable(ablation.summary(ablation.read(tmp_path))).set_index("arm")
    assert shown.loc["DEIM", "AP"] == "0.563 ± 0.015"
    assert shown["in words"].to_dict() == {
        "plain": "baseline",
        "DEIM": "higher",
        "MAL": "not significant",
    }
    assert ablation.summary(ablation.read(tmp_path), "AP50").set_index("arm").loc[
        "DEIM", "difference"
    ] == pytest.approx(1.4 * expected.mean)


def test_an_undefined_metric_is_no_score_of_minus_one(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.5, 0.52], "DEIM": [0.55, 0.58]})
    table = ablation.summary(ablation.read(tmp_path), "APs")
    assert table[["APs", "difference"]].isna().all(axis=None)
    assert ablation.curves(ablation.read(tmp_path), "APs")["APs"].isna().all()


def test_epochs_to_reach_are_counted_at_evaluations_and_may_be_never(tmp_path: Path) -> None:
    trained(tmp_path, PLAIN, 0, [0.1, 0.2, 0.3, 0.40])
    trained(tmp_path, PLAIN, 1, [0.1, 0.45, 0.3, 0.42])  # passes its own end, then over-fits
    trained(tmp_path, {}, 0, [0.2, 0.40, 0.5, 0.5])
    trained(tmp_path, {}, 1, [0.2, 0.41, 0.3, 0.419])
    trained(tmp_path, {}, 5, [0.2, 0.405, 0.411, 0.5])  # no such baseline: its mean, 0.41
    found = ablation.read(tmp_path)
    table = ablation.reaching(found)
    assert table[["arm", "seed"]].to_numpy().tolist() == [
        ["plain", 0],
        ["plain", 1],
        ["DEIM", 0],
        ["DEIM", 1],
        ["DEIM", 5],
    ]
    assert table["epochs_to_reach"].fillna(-1).tolist() == [4, 2, 2, -1, 3]
    per_arm = ablation.reached(found).set_index("arm")
    row: Any = per_arm.loc["DEIM"]
    assert row[["reached", "mean"]].tolist() == [2, 2.5]
    assert math.isnan(row["speedup"])
    assert any(
        "with only 2 of 3 seeds, after 2.5 of 4 epochs" in sentence
        for sentence in ablation.verdicts(found)
    )


def test_gamma_density_and_price(tmp_path: Path) -> None:
    for gamma in (1.0, None, 2.0):
        for seed in (0, 1):
            trained(
                tmp_path, {"loss.gamma": gamma}, seed, 0.5 + 0.01 * (gamma or 1.5) + 0.001 * seed
            )
    trained(tmp_path, PLAIN, 0, 0.4)
    found = ablation.read(tmp_path)
    assert ablation.gammas(found)["gamma"].tolist() == [1.0, 1.0, 1.5, 1.5, 2.0, 2.0]
    assert ablation.gammas(found, "AP50")["AP50"].iloc[0] == pytest.approx(1.4 * 0.51)
    counted = ablation.densities(found).groupby("arm")["targets_per_image"].mean()
    assert counted["plain"] == pytest.approx(3.0)
    assert counted.drop("plain").tolist() == pytest.approx([3.0 * (3 + 2.5 * 1.5) / 4] * 3)
    cost = ablation.price(found)
    assert (cost["step_ms"] - 300).abs().max() < 1e-9
    assert cost["peak_memory_mib"].tolist() == [503.0] * 7
    grid(tmp_path / "few", {"plain": [0.4], "DEIM": [0.5]})
    assert ablation.gammas(ablation.read(tmp_path / "few")).empty
    assert list(ablation.halves(ablation.read(tmp_path / "few"))) == list(ablation.halves(found))


def test_views_are_frames_that_figures_can_take(tmp_path: Path) -> None:
    grid(tmp_path, {arm: [0.4, 0.45] for arm in ARMS})
    found = ablation.read(tmp_path)
    for view in (
        ablation.summary,
        ablation.per_run,
        ablation.curves,
        ablation.reaching,
        ablation.reached,
        ablation.densities,
        ablation.price,
    ):
        table = view(found)
        assert isinstance(table, pd.DataFrame)
        assert table["arm"].iloc[0] == "plain"
        assert set(table["arm"]) == set(ARMS)
