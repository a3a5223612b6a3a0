"""training/resume.py: a cut run goes on to the last bit; which runs are the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import deim_lab
from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError, WeightsError
from deim_lab.runs import Run
from deim_lab.training import checkpoint
from short_runs import FAST, CutError, cut_at, losses_of, weights_of


@pytest.mark.parametrize(
    ("cut", "extra"),
    [
        (8, {}),  # between epochs
        (11, {"train.checkpoint_steps": 1}),  # inside an epoch
        (
            15,
            {
                "schedule.clean_epochs": 2,
                "schedule.unscaled": True,
                "schedule.restart_from_best": True,
                "schedule.lr_warmup_steps": 2,
            },
        ),  # in the clean tail
        (9, {"train.accumulate": 2, "train.checkpoint_steps": 1, "train.epochs": 8}),
    ],
)
def test_a_cut_run_resumes_to_the_last_bit(
    small_set: Path, whole: Run, tmp_path: Path, cut: int, extra: dict[str, Any]
) -> None:
    config = preset("smoke", FAST | extra)
    # More checkpoints change no number, so the run to compare with needs none.
    changed = {key: value for key, value in extra.items() if key != "train.checkpoint_steps"}
    if changed:
        plain = preset("smoke", FAST | changed)
        whole = deim_lab.train(plain, small_set, seed=1, runs_dir=tmp_path / "whole", device="cpu")
    with pytest.raises(CutError):
        deim_lab.train(
            config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu", on_event=cut_at(cut)
        )
    torch.manual_seed(12345)  # whatever happened in between must not matter
    resumed = deim_lab.train(config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu")
    assert len(list((tmp_path / "cut").glob("*_smoke_*"))) == 1, (
        "the cut run was continued, not started anew"
    )
    after = {step: rest for step, *rest in losses_of(resumed)}
    assert after == {step: rest for step, *rest in losses_of(whole)}
    before, now = weights_of(whole), weights_of(resumed)
    assert [name for name in before if not torch.equal(before[name], now[name])] == []
    assert resumed.status == "done"


@pytest.mark.slow  # another process, which waits after every step
def test_a_killed_process_resumes_to_the_last_bit(
    small_set: Path, whole: Run, tmp_path: Path
) -> None:
    config = preset("smoke", FAST)
    code = (
        "import sys, time, deim_lab; from deim_lab.config.presets import preset; import json\n"
        "slow = lambda event: time.sleep(0.2)\n"
        "deim_lab.train(preset('smoke', json.loads(sys.argv[1])), sys.argv[2], seed=1, "
        "runs_dir=sys.argv[3], device='cpu', on_event=slow)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(FAST), str(small_set), str(tmp_path / "cut")]
    )
    deadline = time.time() + 120
    while time.time() < deadline:
        found = list((tmp_path / "cut").glob("*/checkpoints/last.pt"))
        if found and checkpoint.read(found[0])["epoch"] >= 2:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = [path.parent for path in (tmp_path / "cut").glob("*/run.json")]
    assert Run.open(folder).status == "running"
    resumed = deim_lab.train(config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu")
    assert resumed.folder == folder
    assert set(losses_of(resumed)) == set(losses_of(whole)), (
        "steps that were done twice gave the same numbers twice"
    )


def test_a_finished_run_is_not_trained_again(small_set: Path, tmp_path: Path) -> None:
    config = preset("smoke", FAST | {"train.epochs": 1})
    first = deim_lab.train(config, small_set, runs_dir=tmp_path, device="cpu")
    assert deim_lab.train(config, small_set, runs_dir=tmp_path, device="cpu").folder == first.folder
    assert (
        deim_lab.train(config, small_set, runs_dir=tmp_path, device="cpu", resume="never").folder
        != first.folder
    )
    with pytest.raises(ConfigError, match="another experiment"):
        deim_lab.train(
            preset("smoke", FAST | {"train.epochs": 2}),
            small_set,
            runs_dir=tmp_path,
            device="cpu",
            resume=str(first.folder),
        )


def test_what_a_run_starts_from_and_is_scored_with_is_part_of_its_identity(
    small_set: Path, tmp_path: Path
) -> None:
    config = preset("smoke", FAST | {"train.epochs": 1})
    scratch = deim_lab.train(config, small_set, runs_dir=tmp_path / "runs", device="cpu")
    with pytest.raises(WeightsError, match="nowhere"):
        deim_lab.train(
            config,
            small_set,
            runs_dir=tmp_path / "runs",
            device="cpu",
            weights=tmp_path / "nowhere.pt",
        )
    assert len(list((tmp_path / "runs").glob("*_smoke_*"))) == 1, (
        "no run folder for weights that aren't there"
    )
    tuned = deim_lab.train(
        config, small_set, runs_dir=tmp_path / "runs", device="cpu", weights=scratch.folder
    )
    assert tuned.folder != scratch.folder
    assert len(tuned.info["weights"]["sha256"]) == 64
    assert (
        deim_lab.train(
            config, small_set, runs_dir=tmp_path / "runs", device="cpu", weights=scratch.folder
        ).folder
        == tuned.folder
    )
    other = shutil.copytree(small_set, tmp_path / "other")
    json_file = other / "annotations" / "instances_val.json"
    content = json.loads(json_file.read_text(encoding="utf-8"))
    content["annotations"] = content["annotations"][:1]
    json_file.write_text(json.dumps(content), encoding="utf-8")
    assert (
        deim_lab.train(config, other, runs_dir=tmp_path / "runs", device="cpu").folder
        != scratch.folder
    )


def test_a_run_that_kept_no_checkpoints_does_not_stand_for_one_that_should(
    small_set: Path, tmp_path: Path
) -> None:
    config = preset("smoke", FAST | {"train.epochs": 2})
    plain = deim_lab.train(config, small_set, runs_dir=tmp_path, device="cpu")
    keeping = preset("smoke", FAST | {"train.epochs": 2, "train.keep_checkpoints": "all"})
    kept = deim_lab.train(keeping, small_set, runs_dir=tmp_path, device="cpu")
    assert kept.folder != plain.folder
    assert len(list((kept.folder / "checkpoints").glob("epoch_*.pt"))) == 2
    assert deim_lab.train(keeping, small_set, runs_dir=tmp_path, device="cpu").folder == kept.folder


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["simota", "groups(3)"])
def test_a_run_trains_and_resumes_to_the_last_bit(
    kind: str, small_set: Path, tmp_path: Path
) -> None:
    settings = {
        "match.kind": kind,
        "train.epochs": 2,
        "train.eval_every": 2,
        "train.keep_checkpoints": "all",
        "augment.mosaic_prob": 0.0,
        "augment.mixup_prob": 0.0,
    }
    # More checkpoints change no number, so the run to compare with needs none.
    plain = preset("smoke", FAST | settings)
    whole = deim_lab.train(plain, small_set, runs_dir=tmp_path / "whole", device="cpu")
    config = preset("smoke", FAST | settings | {"train.checkpoint_steps": 1})
    with pytest.raises(CutError):
        deim_lab.train(
            config, small_set, runs_dir=tmp_path / "cut", device="cpu", on_event=cut_at(6)
        )
    resumed = deim_lab.train(config, small_set, runs_dir=tmp_path / "cut", device="cpu")
    assert resumed.status == "done"
    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    rows = whole.metrics(["train"])
    per_target = rows["positives_per_image"] / rows["targets_per_image"]
    assert (
        np.allclose(per_target, 3)
        if kind == "groups(3)"
        else ((per_target > 0.5) & (per_target < 10)).all()
    )
    kept = sorted(path.name for path in (whole.folder / "checkpoints").glob("epoch_*.pt"))
    assert kept == ["epoch_0000.pt", "epoch_0001.pt"]
