"""training/loop.py: seeds and workers, evaluation, overfitting, two processes, bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deim_lab
import short_runs
from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError, DataError
from deim_lab.runs import Run
from short_runs import FAST, losses_of, weights_of


def test_the_same_seed_gives_the_same_run_with_and_without_workers(
    small_set: Path, tmp_path: Path
) -> None:
    first = deim_lab.train(
        preset("smoke", FAST | {"train.epochs": 2}),
        small_set,
        runs_dir=tmp_path / "a",
        device="cpu",
    )
    second = deim_lab.train(
        preset("smoke", FAST | {"train.epochs": 2, "data.workers": 2}),
        small_set,
        runs_dir=tmp_path / "b",
        device="cpu",
    )
    other = deim_lab.train(
        preset("smoke", FAST | {"train.epochs": 2}),
        small_set,
        seed=1,
        runs_dir=tmp_path / "a",
        device="cpu",
    )
    assert losses_of(first) == losses_of(second)
    assert losses_of(first) != losses_of(other)


def test_eval_every_and_the_last_epoch(small_set: Path, tmp_path: Path) -> None:
    run = deim_lab.train(
        preset("smoke", FAST | {"train.eval_every": 3}), small_set, runs_dir=tmp_path, device="cpu"
    )
    assert [event["epoch"] for event in run.events() if event["kind"] == "val"] == [2, 3]


def test_bad_input_is_refused_before_a_run_folder_is_made(small_set: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        deim_lab.train(
            preset("smoke"), tmp_path / "absent", runs_dir=tmp_path / "runs", device="cpu"
        )
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            deim_lab.train(preset("smoke"), small_set, runs_dir=tmp_path / "runs", device="cuda")
    assert not list((tmp_path / "runs").glob("*_smoke_*"))


@pytest.mark.slow  # 150 epochs
def test_a_handful_of_images_is_learnt_by_heart(tmp_path: Path) -> None:
    train = short_runs.few_images(tmp_path / "set")
    config = preset(
        "smoke",
        short_runs.BY_HEART
        | {
            "schedule.lr_final_ratio": 0.05,
            "schedule.dense_share": 0.5,
        },
    )
    run = deim_lab.train(
        config, {"train": train, "val": train}, runs_dir=tmp_path / "runs", device="cpu"
    )
    (val,) = [event for event in run.events() if event["kind"] == "val"]
    assert val["AP"] > 0.9


@pytest.mark.slow  # three processes, each of which imports torch
def test_two_processes_train_as_one(small_set: Path, tmp_path: Path) -> None:
    code = (
        "import sys, json, deim_lab; from deim_lab.config.presets import preset\n"
        "deim_lab.train(preset('smoke', json.loads(sys.argv[1])), sys.argv[2], "
        "runs_dir=sys.argv[3], device='cpu')"
    )
    script = tmp_path / "worker.py"
    script.write_text(code, encoding="utf-8")
    settings = FAST | {
        "train.epochs": 3,
        "data.batch_size": 2,
        "train.checkpoint_every": 3,
        "train.eval_every": 1,
    }  # a best epoch is saved too
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            str(script),
            json.dumps(settings),
            str(small_set),
            str(tmp_path / "runs"),
        ],
        check=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    (folder,) = [path.parent for path in (tmp_path / "runs").glob("*/run.json")]
    run = Run.open(folder)
    assert run.status == "done"
    assert len([event for event in run.events() if event["kind"] == "step"]) == 3 * (18 // 4)
    assert all(torch.isfinite(value).all() for value in weights_of(run).values())
