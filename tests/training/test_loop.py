"""Training: exact resume, overfitting a handful of images, bad numbers, data-parallel processes,
what a run records.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import deim_lab
from deim_lab.config.presets import preset
from deim_lab.data import synthetic
from deim_lab.errors import ConfigError, DataError, NonFiniteError, WeightsError
from deim_lab.losses import terms
from deim_lab.runs import Run
from deim_lab.training import checkpoint, record
from deim_lab.training.tally import Tally

FAST = {
    "data.batch_size": 4,
    "data.input_size": 64,
    "model.num_queries": 20,
    "model.num_denoising": 8,
    "train.epochs": 4,
    "train.log_every": 1,
    "train.eval_every": 4,
    "schedule.warmup_epochs": 0,
    "train.threads": 1,
}


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("data") / "set",
        train_images=18,
        val_images=6,
        size_px=(64, 64),
        seed=3,
    )


def losses_of(run: Run) -> list[tuple[int, float, float]]:
    return [
        (event["step"], event["loss"], event["grad_norm"])
        for event in run.events()
        if event["kind"] == "step"
    ]


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return checkpoint.read(run.folder / "checkpoints" / checkpoint.LAST)["ema"]["module"]


class CutError(Exception):
    """Raised by a listener to stop a run in the middle."""


def cut_at(step: int) -> Any:
    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] >= step:
            raise CutError

    return listen


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
    small_set: Path, tmp_path: Path, cut: int, extra: dict[str, Any]
) -> None:
    config = preset("smoke", FAST | extra)
    whole = deim_lab.train(config, small_set, seed=1, runs_dir=tmp_path / "whole", device="cpu")
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


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_last_bit(small_set: Path, tmp_path: Path) -> None:
    config = preset("smoke", FAST)
    whole = deim_lab.train(config, small_set, seed=2, runs_dir=tmp_path / "whole", device="cpu")
    code = (
        "import sys, time, deim_lab; from deim_lab.config.presets import preset; import json\n"
        "slow = lambda event: time.sleep(0.2)\n"
        "deim_lab.train(preset('smoke', json.loads(sys.argv[1])), sys.argv[2], seed=2, "
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
    resumed = deim_lab.train(config, small_set, seed=2, runs_dir=tmp_path / "cut", device="cpu")
    assert resumed.folder == folder
    assert set(losses_of(resumed)) == set(losses_of(whole)), (
        "steps that were done twice gave the same numbers twice"
    )


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


def test_a_truncated_checkpoint_costs_one_interval(small_set: Path, tmp_path: Path) -> None:
    config = preset("smoke", FAST)
    whole = deim_lab.train(config, small_set, runs_dir=tmp_path / "whole", device="cpu")
    with pytest.raises(CutError):
        deim_lab.train(
            config, small_set, runs_dir=tmp_path / "cut", device="cpu", on_event=cut_at(10)
        )
    (last,) = (tmp_path / "cut").glob("*/checkpoints/last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    resumed = deim_lab.train(config, small_set, runs_dir=tmp_path / "cut", device="cpu")
    assert {s: r for s, *r in losses_of(resumed)} == {s: r for s, *r in losses_of(whole)}
    for path in (last, last.with_name(checkpoint.PREVIOUS)):
        path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match=r"last\.pt"):
        checkpoint.read_last(last.parent)


def test_a_non_finite_loss_names_images_and_term_and_leaves_a_repro(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = terms.giou
    calls: list[int] = []

    def spoiled(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args, **kwargs) * (float("nan") if len(calls) > 4 else 1.0)

    monkeypatch.setattr(terms, "giou", spoiled)
    with pytest.raises(NonFiniteError) as caught:
        deim_lab.train(preset("smoke", FAST), small_set, runs_dir=tmp_path, device="cpu")
    assert "giou" in caught.value.term
    assert len(caught.value.image_ids) == 4
    assert caught.value.repro is not None
    repro = checkpoint.read(Path(caught.value.repro))
    assert repro["images"].shape == (4, 3, 64, 64)
    assert repro["image_ids"] == list(caught.value.image_ids)
    (folder,) = [path.parent for path in tmp_path.glob("*/run.json")]
    assert Run.open(folder).status == "failed"
    assert "giou" in Run.open(folder).info["error"]["message"]


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


def test_a_tally_of_an_older_checkpoint_continues() -> None:
    older = {"steps": 1, "iou_histogram": [0.0] * 10 + [4.0] + [0.0] * 9}
    assert Tally(older).matched_iou == pytest.approx(0.525)


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


@pytest.mark.slow
def test_a_handful_of_images_is_learnt_by_heart(tmp_path: Path) -> None:
    folder = synthetic.make(
        tmp_path / "set", train_images=4, val_images=1, size_px=(96, 96), seed=5
    )
    train = {
        "images": str(folder / "images" / "train"),
        "annotations": str(folder / "annotations" / "instances_train.json"),
    }
    config = preset(
        "smoke",
        {
            "train.epochs": 300,
            "train.eval_every": 300,
            "train.checkpoint_every": 300,
            "augment.mosaic_prob": 0.0,
            "augment.mixup_prob": 0.0,
            "augment.photometric_prob": 0.0,
            "augment.flip_prob": 0.0,
            "schedule.lr_final_ratio": 0.05,
            "schedule.dense_share": 0.5,
        },
    )
    run = deim_lab.train(
        config, {"train": train, "val": train}, runs_dir=tmp_path / "runs", device="cpu"
    )
    (val,) = [event for event in run.events() if event["kind"] == "val"]
    assert val["AP"] > 0.9


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("visible", "refused"), [("97", True), ("GPU-1,2", True), ("", False), ("-1", False)]
)
def test_auto_does_not_take_the_cpu_where_a_gpu_was_given(
    visible: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deim_lab.training import compute

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.resolve("cpu", "auto").device.type == "cpu"
    with (
        pytest.raises(ConfigError, match=f"CUDA_VISIBLE_DEVICES={visible} assigns")
        if refused
        else contextlib.nullcontext()
    ):
        assert compute.resolve("auto", "auto").device.type == "cpu"
