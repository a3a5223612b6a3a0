"""training/record.py: what a run records of its steps and epochs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import deim_lab
from deim_lab.config.presets import preset
from deim_lab.training import record
from deim_lab.training.tally import Tally
from short_runs import FAST


def test_steps_of_several_batches_log_their_mean(small_set: Path, tmp_path: Path) -> None:
    run = deim_lab.train(
        preset("smoke", FAST | {"train.epochs": 1, "train.accumulate": 2}),
        small_set,
        runs_dir=tmp_path,
        device="cpu",
    )
    steps = [event["loss"] for event in run.events() if event["kind"] == "step"]
    (train_row,) = [event for event in run.events() if event["kind"] == "train"]
    assert sum(steps) / len(steps) == pytest.approx(train_row["loss"], rel=1e-6)


def test_a_run_records_the_proof_of_its_factors(small_set: Path, tmp_path: Path) -> None:
    run = deim_lab.train(
        preset(
            "smoke",
            FAST | {"augment.mosaic_prob": 1.0, "augment.mixup_prob": 1.0, "train.eval_every": 1},
        ),
        small_set,
        runs_dir=tmp_path,
        device="cpu",
    )
    table = run.metrics()
    train_rows = table[table["kind"] == "train"].set_index("epoch")
    dense = train_rows[train_rows["phase"] == "dense"]
    rest = train_rows[train_rows["phase"] != "dense"]
    assert len(dense) >= 1
    assert (dense["mosaic_share"] == 1).all()
    assert (dense["mixup_share"] == 1).all()
    assert (rest["mosaic_share"] == 0).all()
    assert dense["targets_per_image"].mean() > 3 * rest["targets_per_image"].mean()
    assert (train_rows["positives_per_image"] <= 20).all()
    for name in (
        "seconds/data",
        "seconds/forward",
        "seconds/match",
        "seconds/loss",
        "seconds/backward",
        "seconds/step",
        "peak_memory_mib",
        "lr",
        "matched_iou",
        "loss",
    ):
        assert (train_rows[name] >= 0).all(), name
    assert all(sum(histogram) > 0 for histogram in train_rows["matched_iou_histogram"])
    val = table[table["kind"] == "val"]
    assert val["epoch"].tolist() == [0, 1, 2, 3]
    assert {"AP", "AP50", "AR100", "best_f1", "best_f1_threshold", "backend"} <= set(val.columns)
    assert (run.folder / "checkpoints" / "best.pt").exists()


def test_the_logged_matched_iou_is_the_mean_itself() -> None:
    """A histogram of 20 bins would say .525."""
    events: list[dict[str, Any]] = []
    tally = Tally()
    for values in ([0.501, 0.501], [0.501]):
        tally.add_matched_iou(torch.tensor(values))
    state: Any = SimpleNamespace(
        tally=Tally(tally.state_dict()),  # as a checkpoint inside the epoch carries it
        schedule=SimpleNamespace(phase=lambda epoch: "dense"),
        optimizer=SimpleNamespace(param_groups=[{"lr": 0.1}]),
        compute=SimpleNamespace(is_main=False, peak_memory_mib=lambda: 1.0),
        config=SimpleNamespace(train=SimpleNamespace(epochs=1)),
        emit=events.append,
        epoch=0,
        step=2,
    )
    record.epoch(state)
    assert events[0]["matched_iou"] == pytest.approx(0.501, rel=1e-6)
    assert Tally().matched_iou is None, "no pairs, no mean"


def test_factors_switched_off_are_off(small_set: Path, tmp_path: Path) -> None:
    run = deim_lab.train(
        preset(
            "smoke",
            FAST | {"augment.mosaic_prob": 0.0, "augment.mixup_prob": 0.0, "train.epochs": 2},
        ),
        small_set,
        runs_dir=tmp_path,
        device="cpu",
    )
    table = run.metrics()
    rows = table[table["kind"] == "train"]
    assert (rows["mosaic_share"] == 0).all()
    assert (rows["mixup_share"] == 0).all()
