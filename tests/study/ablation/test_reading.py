"""Arms from runs on disk: what is grouped, what is refused, what the statistics say and what the
words make of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from deim_lab.config.presets import PLAIN_RECIPE, preset
from deim_lab.errors import ConfigError, DataError
from deim_lab.runs import Run, write_json
from deim_lab.study import ablation
from deim_lab.study.ablation import grouping
from deim_lab.study.ablation.arms import BUDGET
from deim_lab.study.ablation.statistics import difference, first_reach, seeds_needed, spread

DATA = {"name": "toy", "fingerprint": "d" * 64}
BASE: dict[str, Any] = {"train.epochs": 4}
PLAIN = dict(PLAIN_RECIPE)
ARMS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "MAL": {"augment.mosaic_prob": 0.0, "augment.mixup_prob": 0.0},
    "Dense O2O": {"loss.classification": "vfl"},
    "DEIM": {},
}


@pytest.fixture(autouse=True)
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three git processes a run are most of the time that these tests would take."""
    monkeypatch.setattr(
        "deim_lab.runs.record.git_commit", lambda: {"commit": "c" * 40, "dirty": False}
    )


def trained(
    folder: Path,
    overrides: Mapping[str, Any],
    seed: int = 0,
    ap: float | Sequence[float] = 0.5,
    *,
    active: bool = True,
    lr: float | None = None,
    data: Mapping[str, Any] = DATA,
    end: str = "done",
    positives: float = 1.0,
    dense_epoch: int = 1,
    weights: Mapping[str, Any] | None = None,
    recipe: str = "smoke",
) -> Run:
    """A run folder as training leaves it: an epoch of Mosaic and MixUp where they are asked for,
    the APs given (or rising to one).
    """
    config = preset(recipe, BASE | dict(overrides))
    run = Run.start(
        folder,
        config,
        seed=seed,
        data=data,
        overrides=BASE | dict(overrides),
        device="cpu",
        weights=weights,
    )
    epochs = config.train.epochs
    scores = (
        [ap * (epoch + 1) / epochs for epoch in range(epochs)]
        if isinstance(ap, float)
        else list(ap)
    )
    for epoch in range(epochs):
        mosaic = config.augment.mosaic_prob if active and epoch == 1 else 0.0
        mixup = config.augment.mixup_prob if active and epoch == 1 else 0.0
        targets = 3.0 * (1 + 3 * mosaic) * (1 + mixup)
        run.log(
            "train",
            epoch=epoch,
            step=10 * (epoch + 1),
            phase="dense" if epoch == dense_epoch else "plain",
            lr_last=lr or config.optim.lr,
            targets_per_image=targets,
            positives_per_image=positives * targets,
            mosaic_share=mosaic,
            mixup_share=mixup,
            matched_iou=scores[min(epoch, len(scores) - 1)],
            seconds={"forward": 0.1, "backward": 0.2},
            peak_memory_mib=500.0 + epoch,
        )
        run.log(
            "val",
            epoch=epoch,
            step=10 * (epoch + 1),
            AP=scores[epoch],
            AP50=min(1.0, 1.4 * scores[epoch]),
            AP75=scores[epoch],
            APs=-1.0,
            best_f1=0.7,
            best_f1_threshold=0.4,
        )
    if end == "done":
        run.finish()
    elif end == "failed":
        run.fail(RuntimeError("out of luck\nsecond line"))
    return run


def grid(folder: Path, scores: Mapping[str, Sequence[float]], **options: Any) -> None:
    """Runs of several arms, a seed a score."""
    for arm, finals in scores.items():
        for seed, ap in enumerate(finals):
            trained(folder, ARMS[arm], seed, ap, **options)


def indexed(
    folder: Path,
    name: str,
    rows: Sequence[tuple[str, int, Run | None, str]],
    *,
    baseline: str,
    created: str = "2026-01-01",
) -> None:
    """The index that a sweep leaves."""
    (folder / "sweeps" / name).mkdir(parents=True)
    about = {
        "name": name,
        "grid": "g.yaml",
        "baseline": baseline,
        "created": created,
        "finished": None,
    }
    write_json(
        folder / "sweeps" / name / "index.json",
        about
        | {
            "runs": [
                {
                    "arm": arm,
                    "seed": seed,
                    "status": status,
                    "fingerprint": "f",
                    "data_fingerprint": "d",
                    "run": run.folder.name if run else None,
                    "overrides": {},
                    "seconds": 1.0,
                    "attempts": 1,
                    "notebook": None,
                    "error": {"type": "RuntimeError", "message": "no luck", "traceback": "…"}
                    if status == "failed"
                    else None,
                }
                for arm, seed, run, status in rows
            ]
        },
    )


# --- statistics
# --------------------------------------------------------------------------------------------------


def test_a_paired_difference_is_students() -> None:
    arm, base = {0: 0.583, 1: 0.589, 2: 0.571}, {0: 0.549, 1: 0.553, 2: 0.560}
    found = difference(arm, base)
    gaps = np.array([arm[seed] - base[seed] for seed in arm])
    expected = stats.ttest_1samp(gaps, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert (found.test, found.seeds, found.unpaired) == ("paired", 3, ())
    assert (found.mean, found.low, found.high, found.p) == pytest.approx(
        (gaps.mean(), low, high, expected.pvalue)
    )
    assert found.smallest == pytest.approx((high - low) / 2)
    assert found.significant == (low > 0)


def test_seeds_in_another_order_are_still_paired() -> None:
    arm, base = {0: 0.5, 1: 0.6, 2: 0.7}, {2: 0.68, 0: 0.48, 1: 0.585}
    assert difference(arm, base).mean == pytest.approx((0.02 + 0.02 + 0.015) / 3)
    assert (
        difference(arm, base).significant is True
    )  # the scores spread by 0.1, the differences by 0.003
    assert (
        difference(arm, {3: 0.48, 4: 0.585, 5: 0.68}).significant is False
    )  # what pairing was worth


def test_seeds_that_do_not_match_are_compared_by_welch() -> None:
    arm, base = {0: 0.52, 1: 0.55, 2: 0.53}, {7: 0.50, 8: 0.505}
    found = difference(arm, base)
    expected = stats.ttest_ind(list(arm.values()), list(base.values()), equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (found.test, found.seeds, found.sd) == ("Welch", 2, None)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue))


def test_partly_matching_seeds_are_paired_and_the_others_named() -> None:
    found = difference({0: 0.5, 1: 0.6, 3: 0.9}, {0: 0.4, 1: 0.45, 2: 0.1})
    assert (found.test, found.seeds, found.unpaired) == ("paired", 2, (2, 3))
    assert found.mean == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("arm", "base"),
    [({0: 0.6}, {0: 0.5}), ({0: 0.6}, {1: 0.5}), ({0: 0.6}, {0: 0.5, 1: 0.4}), ({}, {0: 0.5})],
)
def test_too_few_seeds_give_no_interval(arm: dict[int, float], base: dict[int, float]) -> None:
    found = difference(arm, base)
    assert (found.low, found.high, found.p, found.significant, found.smallest, found.test) == (
        None,
        None,
        None,
        None,
        None,
        "none",
    )
    assert math.isnan(found.mean) == (not arm)


def test_equal_differences_need_no_division_by_zero() -> None:
    assert difference({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6}).significant is False
    assert difference({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25}).significant is True


def test_bonferroni_asks_for_more() -> None:
    found = difference({0: 0.52, 1: 0.53, 2: 0.51}, {0: 0.5, 1: 0.5, 2: 0.5})
    assert found.p == pytest.approx(0.0742, abs=1e-4)
    sure = difference({0: 0.52, 1: 0.525, 2: 0.518}, {0: 0.5, 1: 0.5, 2: 0.5})
    assert sure.survives(1)
    assert sure.p is not None
    assert 5 * sure.p < 0.05 < 6 * sure.p
    assert sure.survives(5)
    assert not sure.survives(6)


def test_seeds_needed_gives_the_power_that_it_says() -> None:
    count = seeds_needed(0.01, 0.008)
    assert count is not None
    gaps = np.random.default_rng(0).normal(0.008, 0.01, (4000, count))
    found = (stats.ttest_1samp(gaps, 0.0, axis=1).pvalue < 0.05).mean()
    assert 0.78 < found < 0.86
    assert seeds_needed(0.01, 0.0) is None
    assert seeds_needed(0.1, 1e-4) is None


def test_spread_leaves_out_what_is_no_number() -> None:
    assert spread([0.5, math.nan, 0.7]) == pytest.approx((0.6, math.sqrt(0.02)))
    assert spread([0.5])[1] is None
    assert math.isnan(spread([])[0])


def test_first_reach_takes_the_first_evaluation_as_high() -> None:
    assert first_reach([6, 12, 18], [0.3, 0.5, 0.4], 0.4) == 12
    assert first_reach([6, 12], [0.3, 0.4], 0.4) == 12
    assert first_reach([6, 12], [0.3, 0.39], 0.4) is None


# --- arms
# --------------------------------------------------------------------------------------------------


def test_runs_become_arms_named_by_what_they_differ_in(tmp_path: Path) -> None:
    grid(tmp_path, {arm: [0.5, 0.6] for arm in ARMS})
    found = ablation.read(tmp_path)
    assert len(repr(found)) < 5_000  # typed into a cell, it can be read
    assert found.baseline.name == "plain"  # the baseline, where one is called so
    assert {arm.name for arm in found.arms} == set(ARMS)
    assert {arm.name: arm.changes for arm in found.arms}["MAL"] == {"loss.classification": "mal"}
    assert all([trial.seed for trial in arm.trials] == [0, 1] for arm in found.arms)
    assert found.source == "runs of smoke on toy"
    assert found.figures == tmp_path / "figures" / "ablation_toy_smoke"


def test_other_differences_give_other_names(tmp_path: Path) -> None:
    for overrides in (
        {},
        {"loss.gamma": 2.0},
        {"loss.gamma": 2.0, "train.epochs": 2},
        {"data.workers": 3, "train.device": "cpu"},
    ):
        trained(tmp_path, overrides, seed=len(overrides))
    found = ablation.read(tmp_path)
    assert {arm.name for arm in found.arms} == {
        "epochs=4",
        "gamma=2.0, epochs=4",
        "gamma=2.0",
    }  # the preset has 2 epochs; workers are no factor
    renamed = ablation.read(tmp_path, names={"gamma=2.0, epochs=4": "γ 2"}, baseline="γ 2")
    assert renamed.baseline.name == "γ 2"
    assert (
        ablation.read(
            tmp_path, names={"gamma=2.0, epochs=4": "γ 2"}, baseline="gamma=2.0, epochs=4"
        ).baseline.name
        == "γ 2"
    )


def test_a_sweep_names_its_own_arms_and_counts_what_failed(tmp_path: Path) -> None:
    made = [trained(tmp_path, PLAIN, 0), trained(tmp_path, PLAIN, 1), trained(tmp_path, {}, 0, 0.6)]
    stranger = trained(tmp_path, {"loss.gamma": 3.0}, 0)
    indexed(tmp_path, "old", [("z", 0, stranger, "done")], baseline="z", created="2025-01-01")
    indexed(
        tmp_path,
        "new",
        [
            ("off", 0, made[0], "done"),
            ("off", 1, made[1], "done"),
            ("on", 0, made[2], "done"),
            ("on", 1, None, "failed"),
            ("on", 2, None, "pending"),
        ],
        baseline="off",
    )
    gone = trained(tmp_path, {}, 3)
    assert ablation.sweeps(tmp_path) == ("old", "new")
    found = ablation.read(tmp_path)
    assert (found.sweep, found.baseline.name, found.figures) == (
        "new",
        "off",
        tmp_path / "sweeps" / "new" / "figures",
    )
    assert {arm.name: len(arm.trials) for arm in found.arms} == {"off": 2, "on": 1}
    table = ablation.missing(found)
    assert table[["arm", "seed", "status"]].to_numpy().tolist() == [
        ["on", 1, "failed"],
        ["on", 2, "pending"],
    ]
    assert table["error"][0] == "RuntimeError: no luck"
    row: Any = ablation.summary(found).set_index("arm").loc["on"]
    assert row[["seeds", "failed", "unfinished"]].tolist() == [1, 1, 1]
    assert any("1 failed, 1 pending" in sentence for sentence in ablation.verdicts(found))
    assert gone.folder.name not in {trial.run for arm in found.arms for trial in arm.trials}
    assert len(ablation.read(tmp_path, False).arms) == 3  # the runs themselves
    with pytest.raises(ConfigError, match=r"no sweep 'nwe' \(did you mean 'new'"):
        ablation.read(tmp_path, "nwe")


def test_a_run_of_the_index_that_is_gone_is_lost_and_not_forgotten(tmp_path: Path) -> None:
    import shutil

    made = [trained(tmp_path, PLAIN, 0), trained(tmp_path, {}, 0), trained(tmp_path, {}, 1)]
    indexed(
        tmp_path,
        "s",
        [("off", 0, made[0], "done"), ("on", 0, made[1], "done"), ("on", 1, made[2], "done")],
        baseline="off",
    )
    shutil.rmtree(made[2].folder)
    table = ablation.missing(ablation.read(tmp_path))
    assert table[["arm", "seed", "status"]].to_numpy().tolist() == [["on", 1, "lost"]]
    assert "does not exist" in table["error"][0]
    Run.open(made[1].folder).reopen()  # somebody goes on training it: its numbers are no final ones
    assert ablation.overview(tmp_path)["done"].tolist() == [1, 1]


def test_different_data_never_meet_unasked(tmp_path: Path) -> None:
    first = [trained(tmp_path, overrides, 0) for overrides in (PLAIN, {})]
    other = trained(tmp_path, {}, 1, data={"name": "toy", "fingerprint": "e" * 64})
    third = trained(tmp_path, {}, 2, data={"name": "else", "fingerprint": "a" * 64})
    indexed(
        tmp_path,
        "mixed",
        [
            ("off", 0, first[0], "done"),
            ("on", 0, first[1], "done"),
            ("on", 1, other, "done"),
            ("on", 2, third, "done"),
        ],
        baseline="off",
    )
    with pytest.raises(
        DataError, match=r"different data: toy d{12} \(2 runs\), toy e{12} \(1 runs\), else"
    ):
        ablation.read(tmp_path)
    by_name = ablation.read(tmp_path, data="toy")
    assert {arm.name: len(arm.trials) for arm in by_name.arms} == {"off": 1, "on": 2}
    assert any("share their name" in note for note in by_name.notes)
    assert {arm.name: len(arm.trials) for arm in ablation.read(tmp_path, data="dddddd").arms} == {
        "off": 1,
        "on": 1,
    }
    alone = ablation.read(
        tmp_path, False
    )  # without a sweep the largest group counts, and a note lists the others
    assert sum(len(arm.trials) for arm in alone.arms) == 2
    assert any(note.startswith("left out") for note in alone.notes)


def test_a_seed_that_was_trained_twice_counts_once(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4], "DEIM": [0.5]})
    trained(tmp_path, {}, 0, 0.6)
    found = ablation.read(tmp_path)
    assert ablation.summary(found)["AP"].tolist() == pytest.approx([0.4, 0.6])
    assert "DEIM: seed 0 was trained more than once; the latest run counts" in found.notes


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


def test_runs_of_an_older_lab_stand_at_todays_defaults(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4], "DEIM": [0.5]})
    old = trained(tmp_path, {}, 1, 0.5)
    config = json.loads((old.folder / "config.json").read_text(encoding="utf-8"))
    del config["match"]["simota_radius"]
    (old.folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert {arm.name: len(arm.trials) for arm in ablation.read(tmp_path).arms} == {
        "plain": 1,
        "DEIM": 2,
    }


def test_nothing_to_compare_says_what_makes_runs(tmp_path: Path) -> None:
    assert ablation.overview(tmp_path / "none").empty
    with pytest.raises(DataError, match="deim-lab sweep components"):
        ablation.read(tmp_path)
    trained(tmp_path, {}, 0)
    with pytest.raises(DataError, match="two arms"):
        ablation.read(tmp_path)
    assert ablation.overview(tmp_path)[["arms", "done", "failed"]].to_numpy().tolist() == [
        [1, 1, 0]
    ]
    assert "smoke on toy: smoke (1 done). A comparison needs finished runs of two arms" in str(
        ablation.lacking(tmp_path)
    )
    trained(tmp_path, PLAIN, 0, end="failed")
    assert "1 failed" in str(ablation.lacking(tmp_path))
    trained(tmp_path, PLAIN, 1)
    assert ablation.lacking(tmp_path) is None
    assert ablation.lacking(tmp_path, preset="cpu_demo") is not None


def test_wrong_names_are_refused_with_the_right_ones(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4], "DEIM": [0.5]})
    with pytest.raises(ConfigError, match=r"'DIEM' is not an arm.*did you mean 'DEIM'"):
        ablation.read(tmp_path, baseline="DIEM")
    with pytest.raises(ConfigError, match=r"unknown arm 'plan'.*did you mean 'plain'"):
        ablation.read(tmp_path, names={"plan": "x"})
    with pytest.raises(ConfigError, match="two arms would have the name 'DEIM'"):
        ablation.read(tmp_path, names={"plain": "DEIM"})
    with pytest.raises(ConfigError, match="unknown preset 'smok'"):
        ablation.read(tmp_path, preset="smok")
    with pytest.raises(ConfigError, match=r"unknown metric 'AP55'.*AP50"):
        ablation.summary(ablation.read(tmp_path), "AP55")
    (tmp_path / "sweeps" / "torn").mkdir(parents=True)
    (tmp_path / "sweeps" / "torn" / "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"index\.json is no readable JSON"):
        ablation.read(tmp_path)


# --- names of arms ------------------------------------------------------------------------------

MOSAIC, MIXUP = {"augment.mosaic_prob": 0.5}, {"augment.mixup_prob": 0.5}
NO_MOSAIC, NO_MIXUP = {"augment.mosaic_prob": 0.0}, {"augment.mixup_prob": 0.0}
MAL, VFL, FOCAL = ({"loss.classification": kind} for kind in ("mal", "vfl", "focal"))
SWITCHED_ON = MOSAIC | MIXUP | {"schedule.dense_share": 0.5}
ON = "dense_share=0.5"  # what the name of an arm adds where a plain preset got Dense O2O


@pytest.mark.parametrize(
    ("recipe", "arms"),
    [
        ("dfine_n", {"plain": {}, "MAL": MAL}),
        ("rtdetrv2_r18", {"plain": {}, "MAL": MAL}),
        (
            "dfine_n",
            {"plain": {}, f"Dense O2O, {ON}": SWITCHED_ON, f"DEIM, {ON}": MAL | SWITCHED_ON},
        ),
        ("rtdetrv2_r18", {"plain": {}, f"DEIM, {ON}": MAL | SWITCHED_ON}),
        (
            "dfine_n",
            {
                "plain": {},
                f"classification=focal, mosaic_prob=0.5, mixup_prob=0.5, {ON}": FOCAL | SWITCHED_ON,
            },
        ),
        # Without epochs for it (schedule.dense_share is 0 in the plain presets) Dense O2O is never
        # on.
        ("dfine_n", {"plain": {}, "mosaic_prob=0.5, mixup_prob=0.5": MOSAIC | MIXUP}),
        (
            "dfine_n",
            {"plain": {}, f"mosaic_prob=0.5, {ON}": MOSAIC | {"schedule.dense_share": 0.5}},
        ),
        ("dfine_n", {"plain": {}, f"mixup_prob=0.5, {ON}": MIXUP | {"schedule.dense_share": 0.5}}),
        ("dfine_n", {"plain": {}, "classification=focal": FOCAL}),
        (
            "deim_dfine_n",
            {"DEIM": {}, "plain": PLAIN, "MAL": NO_MOSAIC | NO_MIXUP, "Dense O2O": VFL},
        ),
        ("deim_rtdetrv2_r18", {"DEIM": {}, "plain": PLAIN}),
        ("deim_dfine_n", {"DEIM": {}, "mosaic_prob=0.0": NO_MOSAIC, "mixup_prob=0.0": NO_MIXUP}),
        (
            "deim_dfine_n",
            {
                "DEIM": {},
                "classification=focal": FOCAL,
                "classification=focal, mosaic_prob=0.0, mixup_prob=0.0": FOCAL
                | NO_MOSAIC
                | NO_MIXUP,
            },
        ),
        (
            "deim_dfine_n",
            {"MAL": NO_MOSAIC | NO_MIXUP, "dense_share=0.0": {"schedule.dense_share": 0.0}},
        ),
        # The smallest DEIMv2 recipes have Mosaic alone: there that is Dense O2O.
        (
            "deimv2_hgnetv2_atto",
            {"DEIM": {}, "plain": VFL | NO_MOSAIC, "MAL": NO_MOSAIC, "mixup_prob=0.5": MIXUP},
        ),
    ],
)
def test_arms_are_named_after_what_their_runs_saw(
    recipe: str, arms: Mapping[str, dict[str, Any]], tmp_path: Path
) -> None:
    for name, changes in arms.items():
        run = trained(tmp_path, changes, recipe=recipe, ap=0.1 * (1 + list(arms).index(name)))
        assert run.info["preset"] == recipe
    found = {arm.name: arm.final("AP")[0] for arm in ablation.read(tmp_path).arms}
    assert found == {name: pytest.approx(0.1 * (1 + index)) for index, name in enumerate(arms)}


def test_a_verdict_on_plain_runs_says_nothing_of_deim(tmp_path: Path) -> None:
    for seed, ap in enumerate((0.50, 0.52, 0.51)):
        trained(tmp_path, {}, seed, ap, recipe="dfine_n")
        trained(tmp_path, MAL, seed, ap + 0.05 + 0.001 * seed, recipe="dfine_n")
    found = ablation.read(tmp_path)
    assert found.baseline.name == "plain"
    said = ablation.verdicts(found)
    assert any(
        sentence.startswith("MAL: AP") and "significantly higher" in sentence for sentence in said
    )
    assert not any("DEIM" in sentence or "Dense O2O" in sentence for sentence in said)


@pytest.mark.parametrize("arm", ["plain", "MAL"])
def test_runs_of_a_preset_that_is_unknown_are_never_dense(arm: str) -> None:
    from deim_lab import config as configs

    flat = configs.flatten(preset("smoke", ARMS[arm]))
    assert grouping.uses_dense_o2o(flat, {}) is False
    assert grouping.uses_dense_o2o(configs.flatten(preset("smoke")), {}) is None


# --- was the factor active?
# --------------------------------------------------------------------------------------------------


def doubts_of(folder: Path, name: str) -> str:
    return str(ablation.proof(ablation.read(folder)).set_index("arm").loc[name, "doubts"])


def test_an_active_arm_has_its_proof_and_no_doubt(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.45], "DEIM": [0.5, 0.56]})
    row = ablation.proof(ablation.read(tmp_path)).set_index("arm").loc["DEIM"]
    assert (
        row["doubts"],
        row["loss"],
        row["matching"],
        row["lr_reached"],
        row["dense_epochs"],
    ) == ("", "MAL γ=1.5", "hungarian", 1.0, 1.0)
    assert row["targets_dense"] == pytest.approx(3 * 2.5 * 1.5)
    assert (
        row["mosaic_share"] == row["mixup_share"] == pytest.approx(0.125)
    )  # one epoch of four at a half


def test_an_arm_whose_dense_o2o_never_came_is_left_out(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.45], "MAL": [0.42, 0.44]})
    grid(tmp_path, {"DEIM": [0.6, 0.66]}, active=False)
    found = ablation.read(tmp_path)
    assert "Mosaic was requested (augment.mosaic_prob 0.5) but never happened" in doubts_of(
        tmp_path, "DEIM"
    )
    assert ablation.summary(found).set_index("arm")["standing"].to_dict() == {
        "plain": "baseline",
        "MAL": "counts",
        "DEIM": "not active",
    }
    said = [sentence for sentence in ablation.verdicts(found) if sentence.startswith("DEIM")]
    assert len(said) == 1  # neither a difference nor epochs saved
    assert "left out because its factor was not active" in said[0]


def test_one_run_without_its_factor_is_enough_to_doubt_the_arm(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.45], "DEIM": [0.5]})
    trained(tmp_path, {}, 1, 0.5, active=False)
    assert "never happened" in doubts_of(tmp_path, "DEIM")


def test_a_learning_rate_that_never_came_is_found(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.45]})
    trained(tmp_path, {}, 0, 0.5, lr=1e-5)
    assert "left its warm-up: the highest was" in doubts_of(tmp_path, "DEIM")
    for seed in (0, 1):
        trained(
            tmp_path, PLAIN, seed, 0.4, lr=1e-5
        )  # now the baseline's too, and the latest run counts
    found = ablation.read(tmp_path)
    trained(tmp_path, {}, 0, 0.5)
    assert ablation.summary(ablation.read(tmp_path))["standing"].tolist() == [
        "baseline",
        "unsound baseline",
    ]
    assert any(
        "no arm can be compared with this baseline" in sentence
        for sentence in ablation.verdicts(found)
    )
    trained(tmp_path, {"train.epochs": 2}, 0, [0.4, 0.6])
    trained(tmp_path, {"train.epochs": 2}, 1, [0.4, 0.62])
    found = ablation.read(tmp_path, baseline="plain, epochs=4")
    assert ablation.halves(found)["standing"].tolist() == ["unsound baseline"]
    assert not any("Half the epochs" in sentence for sentence in ablation.verdicts(found))


@pytest.mark.parametrize(
    ("base", "changed", "said"),
    [
        ({}, {"loss.gamma": 1.5}, "loss.gamma only repeat the value in force"),
        (
            PLAIN,
            PLAIN | {"augment.mosaic_scale": [0.8, 1.6]},
            "augment.mosaic_scale changed nothing: Mosaic never happened",
        ),
        (
            {},
            {"schedule.dense_share": 0.49},
            "schedule.dense_share changed nothing: every epoch has the same phase",
        ),
        (
            {},
            {"schedule.warmup_epochs": 3},
            "schedule.warmup_epochs changed nothing: every epoch has the same phase",
        ),
        (
            {},
            {"match.kind": "groups(4)"},
            "match.kind groups(4) never gave a target more than one query",
        ),
        ({}, {"match.kind": "simota"}, "SimOTA never gave a target more than one query"),
    ],
)
def test_a_change_without_effect_is_found(
    tmp_path: Path, base: dict[str, Any], changed: dict[str, Any], said: str
) -> None:
    for seed, ap in enumerate((0.4, 0.5)):
        trained(tmp_path, base, seed, ap)
        trained(tmp_path, changed, seed, ap + 0.01 * (seed + 1))
    other = next(arm for arm in ablation.read(tmp_path).arms if arm.changes)
    proof = ablation.proof(
        ablation.read(tmp_path, baseline=ablation.read(tmp_path).baseline.name)
    ).set_index("arm")
    assert said in proof["doubts"].loc[other.name]


def test_lengths_of_phases_that_differ_are_no_doubt_unless_the_phase_is_empty(
    tmp_path: Path,
) -> None:
    for seed, ap in enumerate((0.4, 0.5)):
        trained(tmp_path / "dense", {}, seed, ap)
        trained(tmp_path / "dense", {"schedule.dense_share": 0.3}, seed, ap + 0.01, dense_epoch=2)
        trained(tmp_path / "plain", PLAIN, seed, ap)
        trained(
            tmp_path / "plain",
            PLAIN | {"schedule.dense_share": 0.3},
            seed,
            ap + 0.01,
            dense_epoch=2,
        )
    assert ablation.proof(ablation.read(tmp_path / "dense"))["doubts"].tolist() == ["", ""]
    assert (
        "changed no image, only the learning rate: neither Mosaic nor MixUp ever happened"
        in ablation.proof(ablation.read(tmp_path / "plain"))["doubts"].str.cat()
    )


def test_weights_of_a_backbone_are_a_change_by_their_content(tmp_path: Path) -> None:
    rows = []
    for arm, path, content in (
        ("scratch", None, None),
        ("one", "a.pth", "1" * 64),
        ("same file elsewhere", "b.pth", "1" * 64),
    ):
        own = {} if path is None else {"model.backbone_weights": path}
        rows.append(
            (
                arm,
                0,
                trained(
                    tmp_path,
                    own,
                    0,
                    0.4,
                    weights=None
                    if path is None
                    else {"path": path, "sha256": content, "part": "backbone"},
                ),
                "done",
            )
        )
    indexed(tmp_path, "starts", rows, baseline="scratch")
    assert ablation.proof(ablation.read(tmp_path))["changes"].tolist() == [
        "(baseline)",
        "model.backbone_weights=a.pth",
        "model.backbone_weights=b.pth",
    ]
    assert [arm.changes for arm in ablation.read(tmp_path, baseline="one").arms][-1] == {}


def test_simota_with_more_positives_than_targets_is_active(tmp_path: Path) -> None:
    trained(tmp_path, {}, 0, 0.4)
    trained(tmp_path, {"match.kind": "simota"}, 0, 0.41, positives=2.5)
    assert ablation.proof(ablation.read(tmp_path))["doubts"].tolist() == ["", ""]


def test_equal_numbers_betray_a_factor_without_effect(tmp_path: Path) -> None:
    for seed, ap in enumerate((0.4, 0.5)):
        trained(tmp_path, {}, seed, ap)
        trained(tmp_path, {"augment.zoom_out_max": 3.0}, seed, ap)
    assert any(
        "to the last digit" in doubt for doubt in ablation.proof(ablation.read(tmp_path))["doubts"]
    )


# --- views and words
# --------------------------------------------------------------------------------------------------


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


def test_nothing_is_said_of_a_metric_that_is_undefined(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.5], "DEIM": [0.5, 0.6]})
    found = ablation.read(tmp_path)
    assert ablation.per_run(found, "APs")["APs"].isna().all()
    said = " ".join(ablation.verdicts(found, "APs"))
    assert "APs is undefined in every run of plain" in said
    assert "nan" not in said
    assert "reaches" not in said


def test_words_say_significant_only_where_the_numbers_do(tmp_path: Path) -> None:
    grid(
        tmp_path,
        {"plain": [0.50, 0.52, 0.51], "DEIM": [0.55, 0.572, 0.561], "MAL": [0.49, 0.54, 0.51]},
    )
    said = ablation.verdicts(ablation.read(tmp_path))
    deim, mal = (
        next(sentence for sentence in said if sentence.startswith(f"{arm}: AP"))
        for arm in ("DEIM", "MAL")
    )
    assert "significantly higher, also when corrected for 2 comparisons" in deim
    assert "not significant, the interval holds 0" in mal
    assert "3 seeds could show a mean difference of" in mal
    assert any(f"misleads in up to {1 - 0.95**2:.0%}" in sentence for sentence in said)
    assert any("3 seeds the spread itself is a rough guess" in sentence for sentence in said)
    assert not any(
        "significantly" in sentence for sentence in said if not sentence.startswith("DEIM")
    )


def test_one_seed_is_a_direction(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.50], "DEIM": [0.60]})
    said = ablation.verdicts(ablation.read(tmp_path))
    assert any(
        "DEIM: AP 0.600, +0.100 against plain with 1 seed: a direction at most" in sentence
        for sentence in said
    )
    assert not any("significant" in sentence for sentence in said)
    assert ablation.readable(ablation.summary(ablation.read(tmp_path)))["in words"].tolist() == [
        "baseline",
        "too few seeds for an interval",
    ]


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


def test_another_budget_is_flagged_and_goes_to_the_half_epochs_view(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.50, 0.52, 0.51]})
    for seed, ap in enumerate((0.55, 0.572, 0.561)):
        trained(tmp_path, {"train.epochs": 2}, seed, [ap - 0.1, ap])
        trained(tmp_path, {"data.batch_size": 2, "train.epochs": 2}, seed, [ap - 0.1, ap])
    found = ablation.read(tmp_path, baseline="plain, epochs=4")
    assert set(ablation.summary(found)["standing"]) == {"baseline", "other budget"}
    table = ablation.halves(found)
    assert table[["arm", "epochs", "baseline_epochs"]].to_numpy().tolist() == [
        ["DEIM", 2.0, 4.0]
    ]  # the other differs in its batch as well
    assert table["low"][0] > 0
    said = ablation.verdicts(found)
    half = next(sentence for sentence in said if sentence.startswith("Half the epochs"))
    assert half.startswith("Half the epochs: DEIM at 2 against plain, epochs=4 at 4: AP +0.051")
    assert "significantly higher" in half
    assert sum("another budget than" in sentence for sentence in said) == 2
    assert not any("reaches" in sentence for sentence in said)
    assert "train.epochs" in BUDGET


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


def test_unlike_circumstances_are_noted(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4], "DEIM": [0.5]})
    run = trained(tmp_path, {}, 1, 0.5)
    info = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    (run.folder / "run.json").write_text(
        json.dumps(info | {"device": "cuda:0", "git": {"commit": "0" * 40, "dirty": False}}),
        encoding="utf-8",
    )
    notes = ablation.read(tmp_path).notes
    assert any(
        note.startswith("runs of 2 kinds of device: cpu (2 runs), cuda (1 runs)") for note in notes
    )
    assert any("commits of the lab" in note for note in notes)


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
