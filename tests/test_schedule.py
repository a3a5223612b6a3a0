"""Schedule: the official numbers, and runs that are too short for them."""

from __future__ import annotations

import json
import math
from itertools import groupby, pairwise

import pytest

from deim_lab import schedule
from deim_lab.config import override
from deim_lab.config.presets import PRESETS, preset
from deim_lab.errors import ConfigError
from deim_lab.schedule import Phase, Schedule
from places import REFERENCE

CASES = json.loads((REFERENCE / "schedules.json").read_text(encoding="utf-8"))
OFFICIAL = {
    "deim_l": "deim_dfine_l",
    "deim_m": "deim_dfine_m",
    "deim_s": "deim_dfine_s",
    "deim_n": "deim_dfine_n",
    "dfine_l": "dfine_l",
    "deim_rtdetrv2_r18": "deim_rtdetrv2_r18",
    "deim_rtdetrv2_r50": "deim_rtdetrv2_r50",
}


@pytest.mark.parametrize("case", CASES["flat_cosine"], ids=lambda case: case["tag"])
def test_learning_rate_is_the_official_flat_cosine(case: dict) -> None:
    built = Schedule(
        epochs=case["total_epochs"],
        steps_per_epoch=case["iter_per_epoch"],
        dense_start=0,
        dense_end=case["flat_epochs"],
        clean_start=case["total_epochs"] - case["no_aug_epochs"],
        lr_warmup_steps=case["warmup_iter"],
        lr_final_ratio=case["lr_gamma"],
    )
    for step, expected in zip(case["iters"], case["lr"], strict=True):
        if (
            expected == "ZeroDivisionError"
        ):  # no warm-up at step 0: the full rate, where the official code fails
            expected = case["base_lr"]
        assert case["base_lr"] * built.lr_factor(step) == pytest.approx(
            expected, rel=1e-9, abs=1e-15
        ), step


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("deim_l", "deim_dfine_l"),
        ("deim_m", "deim_dfine_m"),
        ("deim_s", "deim_dfine_s"),
        ("deim_rtdetrv2_r18", "deim_rtdetrv2_r18"),
        ("deim_rtdetrv2_r50", "deim_rtdetrv2_r50"),
    ],
)
def test_preset_follows_the_official_learning_rate(tag: str, name: str) -> None:
    case = next(item for item in CASES["flat_cosine"] if item["tag"] == tag)
    built = schedule.build(preset(name), case["iter_per_epoch"])
    for step, expected in zip(case["iters"], case["lr"], strict=True):
        assert case["base_lr"] * built.lr_factor(step) == pytest.approx(expected, rel=1e-9), step
    assert built.notices == ()


def test_the_flat_part_includes_its_last_step_even_without_a_cosine() -> None:
    """Dense O2O ends where the clean tail begins. The official code tests ``<= flat`` first."""
    built = Schedule(
        epochs=4,
        steps_per_epoch=10,
        dense_start=0,
        dense_end=3,
        clean_start=3,
        lr_warmup_steps=0,
        lr_final_ratio=0.5,
    )
    assert [built.lr_factor(step) for step in (29, 30, 31)] == [1.0, 1.0, 0.5]


def test_the_names_of_the_phases_are_those_in_run_logs_and_added_operations() -> None:
    assert [str(phase) for phase in Phase] == ["warm_up", "dense", "plain", "clean"]


@pytest.mark.parametrize("key", CASES["scales"])
def test_multiscale_sizes_are_the_official_ones(key: str) -> None:
    base, repeat = (int(item.split("=")[1]) for item in key.split(","))
    assert list(schedule.multiscale_sizes(base, repeat)) == CASES["scales"][key]


@pytest.mark.parametrize(("tag", "name"), OFFICIAL.items())
def test_phases_change_at_the_official_epochs(tag: str, name: str) -> None:
    case = CASES["augment"][tag]
    built = schedule.build(preset(name), 1000)
    assert built.epochs == case["epochs"]
    runs = [(next(epochs), phase) for phase, epochs in groupby(range(built.epochs), built.phase)]
    assert [first for first, _ in runs] == [run["first_epoch"] for run in case["runs"]]
    assert [phase for _, phase in runs] == [
        _phase_of(run, last=run is case["runs"][-1]) for run in case["runs"]
    ]


def _phase_of(run: dict, *, last: bool) -> Phase:
    """The phase in which the official pipeline runs these operations. Warm-up and clean tail run
    the same: their place tells them apart.
    """
    if "Mosaic" in run["state"]["coin_low"]["ops"]:
        return Phase.DENSE
    if "RandomIoUCrop" in run["state"]["coin_low"]["ops"]:
        return Phase.PLAIN
    return Phase.CLEAN if last else Phase.WARM_UP


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("epochs", range(1, 13))
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_short_runs_are_rescaled(name: str, epochs: int, steps: int) -> None:
    config = override(preset(name), {"train.epochs": epochs})
    built = schedule.build(config, steps)
    phases = [built.phase(epoch) for epoch in range(epochs)]
    assert phases.count(Phase.WARM_UP) <= 0.1 * epochs
    assert phases.count(Phase.CLEAN) <= 0.2 * epochs
    assert built.lr_warmup_steps <= 0.1 * epochs * steps
    if config.augment.mosaic_prob > 0 and config.schedule.dense_share > 0:
        assert Phase.DENSE in phases
    factors = [built.lr_factor(step) for step in range(epochs * steps + 1)]
    assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)
    assert max(factors[:-1]) == pytest.approx(1.0)
    after = factors[built.lr_warmup_steps :]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after)), (
        "only falls after the warm-up"
    )


def test_each_change_is_noticed_once_by_its_key() -> None:
    built = schedule.build(override(preset("deim_dfine_s"), {"train.epochs": 12}), 50)
    assert [notice.split()[0] for notice in built.notices] == [
        "schedule.warmup_epochs",
        "schedule.clean_epochs",
        "schedule.lr_warmup_steps",
    ]
    assert "4 → 1: at most 10% of 12 epochs" in built.notices[0]
    assert "12 → 2: at most 20% of 12 epochs" in built.notices[1]
    assert "2000 → 60: at most 10% of 600 steps" in built.notices[2]


def test_unscaled_keeps_the_numbers_and_says_what_is_never_reached() -> None:
    config = override(preset("deim_dfine_l"), {"train.epochs": 12, "schedule.unscaled": True})
    built = schedule.build(config, 10)
    assert (built.dense_start, built.clean_start, built.lr_warmup_steps) == (4, 4, 2000)
    assert [built.phase(epoch) for epoch in range(12)] == [Phase.WARM_UP] * 4 + [Phase.CLEAN] * 8
    assert any("Dense O2O is never on" in notice for notice in built.notices)
    # The last of 120 steps has the factor (119 / 2000)².
    assert any(
        "never leaves its warm-up of 2000 steps: 0.4% of optim.lr after 120 steps" in notice
        for notice in built.notices
    )


def test_unscaled_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"do not fit into train\.epochs 6"):
        schedule.build(
            override(preset("deim_dfine_l"), {"train.epochs": 6, "schedule.unscaled": True}), 10
        )


def test_no_dense_phase_where_none_is_asked_for() -> None:
    for overrides in (
        {"augment.mosaic_prob": 0.0, "augment.mixup_prob": 0.0, "train.epochs": 1},
        {"schedule.dense_share": 0.0},
    ):
        built = schedule.build(override(preset("deim_dfine_s"), overrides), 10)
        assert Phase.DENSE not in {built.phase(epoch) for epoch in range(built.epochs)}


def test_a_set_that_makes_no_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="must give one batch"):
        schedule.build(preset("smoke"), 0)


@pytest.mark.numeric
@pytest.mark.parametrize(("size", "first"), [("atto", 450), ("n", 136)])
def test_late_matching_begins_at_the_official_epoch(size: str, first: int) -> None:
    plan = schedule.build(preset(f"deimv2_hgnetv2_{size}"), 900)
    assert next(epoch for epoch in range(plan.epochs) if plan.matches_late(epoch)) == first
    never = schedule.build(preset("deim_dfine_n"), 900)
    assert not any(never.matches_late(epoch) for epoch in range(never.epochs))
    simota = schedule.build(preset(f"deimv2_hgnetv2_{size}", {"match.kind": "simota"}), 900)
    assert not simota.matches_late(plan.epochs - 1)
    assert any("match.iou_power has no effect" in notice for notice in simota.notices)
    brief = schedule.build(preset(f"deimv2_hgnetv2_{size}", {"train.epochs": 2}), 900)
    assert any("match.iou_power is never used" in notice for notice in brief.notices)


@pytest.mark.numeric
def test_the_learning_rate_has_a_tail_of_its_own() -> None:
    """The official flat cosine of 500 epochs: flat to 250, half a cosine to 468, then half the
    rate.
    """
    plan = schedule.build(preset("deimv2_hgnetv2_femto"), 100)
    assert plan.lr_factor(4000) == 1.0
    assert plan.lr_factor(25_000) == 1.0
    assert plan.lr_factor((25_000 + 46_800) // 2) == pytest.approx(0.75)
    assert plan.lr_factor(40_000) == pytest.approx(
        0.5 + 0.25 * (1 + math.cos(math.pi * 15_000 / 21_800))
    )
    assert plan.lr_factor(46_800) == plan.lr_factor(49_999) == 0.5
    short = schedule.build(preset("deimv2_hgnetv2_femto", {"train.epochs": 20}), 100)
    assert short.lr_tail_start == 16
    assert any(notice.startswith("schedule.lr_clean_epochs 32 → 4") for notice in short.notices)
