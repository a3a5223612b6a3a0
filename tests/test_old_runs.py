"""Runs of commit e8048b7: today's package opens, resumes, compares and exports them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import deim_lab
from deim_lab import evaluation, runs
from deim_lab.config import Config, OptimConfig, preset
from deim_lab.data import coco
from deim_lab.errors import ExportError
from deim_lab.runs import Run
from deim_lab.study import ablation
from deim_lab.training import checkpoint
from deim_lab.training.optimizer import build_optimizer, regroup
from deim_lab.weights.own import LoadedDetector, load_detector
from places import REFERENCE

FOLDER = REFERENCE / "runs_e8048b7"
DEIM, PLAIN = "5f44d574", "8606e762"  # fingerprints that e8048b7 gave
STEPS, CUT_STEPS = 24, 7  # in all, and in the last checkpoint of the run that was cut
SEED = 1


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the folder, with the empty folders that git left out."""
    folder = shutil.copytree(FOLDER, tmp_path / "old")
    for record in folder.glob("*/*/run.json"):
        for name in runs.SUBFOLDERS:
            (record.parent / name).mkdir(exist_ok=True)
    return folder


def run_of(folder: Path, fingerprint: str) -> Run:
    (found,) = folder.glob(f"*_{fingerprint}")
    return Run.open(found)


def config_of(run: Run) -> Config:
    """The config as a user writes it: the preset and what it overrides, not the file."""
    return preset(run.info["preset"], run.info["overrides"])


def vector(state: dict[str, Tensor]) -> Tensor:
    floats = [value.double().flatten() for value in state.values() if value.is_floating_point()]
    return torch.cat(floats)


def ema_of(run: Run) -> dict[str, Tensor]:
    last: dict[str, Tensor] = checkpoint.read(run.folder / "checkpoints" / "last.pt")["ema"][
        "module"
    ]
    return last


def equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[k], others[k]) for k in some)


def losses_of(run: Run) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in run.events() if event["kind"] == "step"}


def test_old_runs_open_with_their_config(old: Path) -> None:
    finished, cut = run_of(old / "finished", DEIM), run_of(old / "cut", DEIM)
    assert (finished.status, cut.status) == ("done", "running")
    assert finished.identity == cut.identity
    assert finished.config == cut.config == config_of(finished)
    assert [event["kind"] for event in finished.events()].count("step") == STEPS
    assert run_of(old / "finished", PLAIN).config.loss.classification == "vfl"


def test_old_runs_stand_in_the_table(old: Path) -> None:
    table = runs.table(old / "finished")
    assert set(table["fingerprint"]) == {DEIM, PLAIN}
    scored = table[(table["kind"] == "val") & (table["fingerprint"] == DEIM)]
    assert list(scored["epoch"]) == [1, 3, 5, 7]
    assert scored["AP"].max() > 0
    cut = runs.table(old / "cut", status=None)
    assert set(cut["status"]) == {"running"}
    assert list(cut["epoch"]) == [0, 1, 1]


@pytest.mark.parametrize("fingerprint", [DEIM, PLAIN])
def test_the_same_command_finds_an_old_finished_run(old: Path, fingerprint: str) -> None:
    finished = run_of(old / "finished", fingerprint)
    events: list[object] = []
    again = deim_lab.train(
        config_of(finished),
        old / "data",
        seed=SEED,
        runs_dir=old / "finished",
        device="cpu",
        on_event=events.append,
    )
    assert again.folder == finished.folder
    assert events == [], "nothing was trained"


def test_the_same_command_resumes_an_old_cut_run(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, cut = run_of(old / "finished", DEIM), run_of(old / "cut", DEIM)
    config, before = config_of(cut), ema_of(cut)
    saved = checkpoint.read(cut.folder / "checkpoints" / "last.pt")
    assert (saved["step"], saved["epoch"], saved["batch"]) == (CUT_STEPS, 2, 1)

    first: list[int] = []
    resumed = deim_lab.train(
        config,
        old / "data",
        seed=SEED,
        runs_dir=old / "cut",
        device="cpu",
        on_event=lambda event: first.append(event["step"]) if event["kind"] == "step" else None,
    )
    assert resumed.folder == cut.folder
    assert resumed.status == "done"
    new = checkpoint.read(resumed.folder / "checkpoints" / "last.pt")
    # every step seeds the generator anew, so its state is not kept any more
    assert saved.keys() - new.keys() == {"rng"}
    assert new.keys() <= saved.keys()
    assert first == list(range(CUT_STEPS + 1, STEPS + 1))

    def build_as_then(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
        """In that commit's groups: this backbone's norms, known by name then, decayed."""
        optimizer = build_optimizer(model, optim)
        regroup(optimizer, saved["optimizer"]["param_groups"])
        return optimizer

    monkeypatch.setattr("deim_lab.training.loop.build_optimizer", build_as_then)
    whole = deim_lab.train(config, old / "data", seed=SEED, runs_dir=old / "here", device="cpu")
    if equal(ema_of(whole), ema_of(finished)):  # a processor that rounds as the one of the old runs
        assert equal(ema_of(resumed), ema_of(finished))
        assert losses_of(resumed) == losses_of(finished)
        return
    way = vector(ema_of(finished)) - vector(before)
    gap = vector(ema_of(resumed)) - vector(ema_of(finished))
    soon = (
        CUT_STEPS + 1,
        CUT_STEPS + 2,
    )  # the weights count in the first, the optimizer in the next
    then, now = losses_of(finished), losses_of(resumed)
    assert [now[step] for step in soon] == pytest.approx([then[step] for step in soon], rel=1e-3)
    assert float(gap.norm() / way.norm()) < 0.25  # rounding grows from step to step


def detector_of(old: Path) -> LoadedDetector:
    return load_detector(run_of(old / "finished", DEIM).folder)


def test_an_old_run_scores_as_it_was_scored(old: Path) -> None:
    run, loaded = run_of(old / "finished", DEIM), detector_of(old)
    source = coco.resolve(old / "data", cache_dir=old)
    _, val_set = coco.open_source(source)
    result = evaluation.evaluate(loaded.model, val_set, loaded.config)
    recorded = max((e for e in run.events() if e["kind"] == "val"), key=lambda event: event["AP"])
    assert recorded["AP"] > 0.001
    for name, value in result.metrics.items():
        assert value == pytest.approx(recorded[name], abs=1e-6), name
    assert {row["category_id"] for row in result.detections} <= {3, 7, 20}
    assert run.save_evaluation("data", {"AP": result.metrics["AP"]}).is_file()


def test_old_runs_are_compared(old: Path) -> None:
    comparison = ablation.read(old / "finished")
    assert len(comparison.arms) == len(ablation.summary(comparison)) == 2
    recorded = [e["AP"] for e in run_of(old / "finished", DEIM).events() if e["kind"] == "val"]
    per_run = ablation.per_run(comparison)
    assert float(per_run["AP"].max()) == pytest.approx(recorded[-1])
    assert ablation.verdicts(comparison)


def test_an_old_run_is_written_in_the_official_layout(old: Path) -> None:
    loaded = detector_of(old)
    path = deim_lab.export_official(loaded.model, old / "official.pth", eval_size=(64, 64))
    again = deim_lab.build_detector(loaded.config, num_classes=3)
    deim_lab.load_official(again, path)
    assert equal(again.state_dict(), loaded.model.state_dict())


def test_an_old_run_is_written_as_onnx(old: Path) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    from deim_lab.inference.export import export_onnx

    pictures = sorted((old / "data" / "images" / "val").glob("*.png"))
    try:
        result = export_onnx(detector_of(old), old / "model.onnx", pictures=pictures)
    except ExportError as error:
        if "tie" not in str(error):
            raise
        pytest.skip(f"after 24 steps the choice of queries is a tie: {error}")
    assert result.compared > 0
    assert (old / "model.onnx").is_file()
