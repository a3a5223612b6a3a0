"""The ready grids: each is read, its arms differ in what they are about, and the budget is long
enough for the factor to be active.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deim_lab import config as configs, schedule
from deim_lab.config import Config
from deim_lab.config.presets import PLAIN_RECIPE, PRESETS, preset
from deim_lab.schedule import Schedule
from deim_lab.sweep import grid
from deim_lab.sweep.grid import Grid
from places import ROOT

FOLDER = ROOT / "grids"
NAMES = ("components", "density", "gamma", "half_epochs", "one_to_many", "schedule")
FILES = [f"{name}{size}" for name in NAMES for size in ("", "_gpu")]
IMAGES = 300  # of the embedded set; the sets that the GPU size is meant for are as large
RUNS = {
    "components": 12,
    "density": 18,
    "gamma": 12,
    "half_epochs": 12,
    "one_to_many": 12,
    "schedule": 21,
}


def read(name: str) -> Grid:
    return grid.read(FOLDER / f"{name}.yaml")


def plan(config: Config) -> Schedule:
    return schedule.build(config, IMAGES // config.data.batch_size)


def plans(name: str) -> dict[str, Schedule]:
    found = read(name)
    return {arm: plan(found.config(arm)) for arm in found.arms}


def asks_dense(config: Config) -> bool:
    return config.augment.mosaic_prob > 0 or config.augment.mixup_prob > 0


def test_these_are_all_the_grids() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_grid_resolves_and_says_what_it_costs(name: str) -> None:
    found = read(name)
    assert found.preset == ("deim_dfine_n" if name.endswith("_gpu") else "cpu_demo")
    assert found.data == "embedded"
    assert len(found.seeds) >= 3
    runs = len(found.arms) * len(found.seeds)
    assert runs == RUNS[name.removesuffix("_gpu")]
    assert f"{runs} runs" in found.about
    assert Path(found.notebook).is_file()
    fingerprints = {configs.fingerprint(found.config(arm)) for arm in found.arms}
    assert len(fingerprints) == len(found.arms)


@pytest.mark.parametrize("preset_name", PRESETS)
@pytest.mark.parametrize("name", FILES)
def test_every_preset_is_taken_and_every_factor_is_active(name: str, preset_name: str) -> None:
    found = grid.read(FOLDER / f"{name}.yaml", preset=preset_name)
    for arm in found.arms:
        config = found.config(arm)
        built = plan(config)
        assert built.dense_end > built.dense_start or not asks_dense(config), arm
        assert not [
            notice for notice in built.notices if "never" in notice or "no effect" in notice
        ], arm
    dense = {asks_dense(found.config(arm)) for arm in found.arms}
    assert dense == (
        {True} if name.removesuffix("_gpu") in ("gamma", "schedule") else {True, False}
    )
    if "components" in name or "half" in name:
        assert {found.config(arm).loss.classification for arm in found.arms} == {"vfl", "mal"}


@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_size_asks_the_same_question(name: str) -> None:
    small, large = read(name), read(f"{name}_gpu")
    assert list(small.arms) == list(large.arms)
    assert small.baseline == large.baseline
    assert small.seeds == large.seeds
    for arm in small.arms:
        assert set(small.arms[arm]) == set(large.arms[arm])
        if name not in ("schedule", "half_epochs"):  # epochs are the budget's
            assert small.arms[arm] == large.arms[arm]


@pytest.mark.parametrize("name", FILES)
def test_the_budget_lets_everything_be_reached(name: str) -> None:
    found = read(name)
    for arm in found.arms:
        config, built = found.config(arm), plan(found.config(arm))
        assert not [
            notice
            for notice in built.notices
            if "never" in notice or "rounds to no epoch" in notice
        ], arm
        assert built.lr_warmup_steps <= 0.1 * built.steps
        assert built.dense_end - built.dense_start >= 0.2 * built.epochs
        # Where Dense O2O is on, enough epochs follow it to overtake (docs/experiments.md).
        assert not asks_dense(config) or built.epochs - built.dense_end >= 0.25 * built.epochs
        evaluations = -(-config.train.epochs // config.train.eval_every)
        assert evaluations >= 5


@pytest.mark.parametrize("size", ["", "_gpu"])
def test_components_are_the_summary_s_ablation(size: str) -> None:
    found = read(f"components{size}")
    active = {
        arm: (found.config(arm).loss.classification == "mal", asks_dense(found.config(arm)))
        for arm in found.arms
    }
    assert active == {
        "baseline": (False, False),
        "+ Dense O2O": (False, True),
        "+ MAL": (True, False),
        "+ both": (True, True),
    }
    assert found.arms["baseline"] == PLAIN_RECIPE
    assert found.arms["+ both"] == {}


@pytest.mark.parametrize("size", ["", "_gpu"])
def test_gamma_changes_the_loss_alone(size: str) -> None:
    found = read(f"gamma{size}")
    made = [found.config(arm) for arm in found.arms]
    assert [config.loss.effective_gamma for config in made] == [1.0, 1.5, 2.0, 2.5]
    assert all(set(configs.diff(made[0], other)) <= {"loss.gamma"} for other in made)
    assert all(config.loss.classification == "mal" and asks_dense(config) for config in made)
    assert found.config(found.baseline).loss.gamma == 1.5


@pytest.mark.parametrize("size", ["", "_gpu"])
def test_density_spans_the_plain_image_and_more_than_the_recipe(size: str) -> None:
    found = read(f"density{size}")
    points = {
        (found.config(arm).augment.mosaic_prob, found.config(arm).augment.mixup_prob)
        for arm in found.arms
    }
    assert points == {(mosaic, mixup) for mosaic in (0.0, 0.5, 1.0) for mixup in (0.0, 0.5)}
    assert not asks_dense(found.config(found.baseline))


LENGTHS: dict[str, Callable[[Schedule], int]] = {
    "warm-up": lambda built: built.dense_start,
    "dense": lambda built: built.dense_end - built.dense_start,
    "clean tail": lambda built: built.epochs - built.clean_start,
}


@pytest.mark.parametrize("size", ["", "_gpu"])
def test_schedule_changes_one_length_at_a_time(size: str) -> None:
    built = plans(f"schedule{size}")
    own = {arm: {name: of(plan) for name, of in LENGTHS.items()} for arm, plan in built.items()}
    recipe = own.pop("recipe")
    for arm, lengths in own.items():
        how, what = arm.split(" ", 1)
        assert [name for name in LENGTHS if lengths[name] != recipe[name]] == [what], arm
        if how == "no":
            assert lengths[what] == 0
        elif how == "short":
            assert lengths[what] <= 0.6 * recipe[what]
        else:
            assert lengths[what] >= 1.5 * recipe[what]


@pytest.mark.parametrize("size", ["", "_gpu"])
def test_half_epochs_are_half(size: str) -> None:
    found = read(f"half_epochs{size}")
    for kind, changes in {"baseline": PLAIN_RECIPE, "DEIM": {}}.items():
        whole, half = found.config(f"{kind}, E"), found.config(f"{kind}, E/2")
        assert half.train.epochs * 2 == whole.train.epochs
        assert set(configs.diff(whole, half)) == {"train.epochs"}
        assert whole == configs.override(
            preset(found.preset, {**found.base, "train.epochs": whole.train.epochs}), changes
        )


@pytest.mark.parametrize("size", ["", "_gpu"])
def test_one_to_many_gets_its_positives_in_three_ways(size: str) -> None:
    found = read(f"one_to_many{size}")
    ways = {
        arm: (found.config(arm).match.kind, asks_dense(found.config(arm))) for arm in found.arms
    }
    assert ways == {
        "one-to-one": ("hungarian", False),
        "Dense O2O": ("hungarian", True),
        "SimOTA": ("simota", False),
        "4 query groups": ("groups(4)", False),
    }
    assert {found.config(arm).loss for arm in found.arms} == {found.config(found.baseline).loss}


def test_what_two_grids_ask_for_is_trained_once() -> None:
    """Grids of one size and data share runs: a run is its config, data and seed."""
    for size in ("", "_gpu"):
        one, other = read(f"components{size}"), read(f"half_epochs{size}")
        assert one.config("baseline") == other.config("baseline, E")
        assert (
            one.config("+ both")
            == other.config("DEIM, E")
            == read(f"schedule{size}").config("recipe")
        )
        assert one.config("+ MAL") == read(f"one_to_many{size}").config("one-to-one")


def test_the_gpu_size_scales_batch_and_learning_rate() -> None:
    recipe = preset("deim_dfine_n")
    for name in NAMES:
        found = read(f"{name}_gpu")
        config = found.config(found.baseline)
        shrink = (config.data.batch_size / recipe.data.batch_size) ** 0.5
        assert config.optim.lr == pytest.approx(recipe.optim.lr * shrink)
        assert config.optim.backbone_lr == pytest.approx(recipe.optim.backbone_lr * shrink)
        memory_steps = 1 / (1 - config.ema.decay)
        assert (
            0.05 < memory_steps / plan(config).steps < 0.15
        )  # the recipe's on COCO: 10,000 of 147,000
