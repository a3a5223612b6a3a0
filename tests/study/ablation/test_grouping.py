"""Runs on disk become arms: by the index of a sweep, or named after the keys that differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError
from deim_lab.runs import Run
from deim_lab.study import ablation
from deim_lab.study.ablation import grouping
from trained_runs import ARMS, PLAIN, grid, indexed, trained


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


@pytest.mark.parametrize("arm", ["plain", "MAL"])
def test_runs_of_a_preset_that_is_unknown_are_never_dense(arm: str) -> None:
    from deim_lab import config as configs

    flat = configs.flatten(preset("smoke", ARMS[arm]))
    assert grouping.uses_dense_o2o(flat, {}) is False
    assert grouping.uses_dense_o2o(configs.flatten(preset("smoke")), {}) is None
