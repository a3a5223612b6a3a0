"""``docs/extending.md`` does what it says: its examples are executed, as they stand on the page."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import deim_lab
from deim_lab import augment, config as configs, detector, evaluation, losses, matching, sweep
from deim_lab.config import Config, plugins, preset
from deim_lab.data import synthetic
from deim_lab.errors import ConfigError
from deim_lab.figures import losses as loss_figures
from deim_lab.runs import Run
from deim_lab.study import ablation
from deim_lab.training import checkpoint
from places import ROOT

PAGE = ROOT / "docs" / "extending.md"
FAST = {
    "train.epochs": 2,
    "data.input_size": 64,
    "data.batch_size": 4,
    "model.num_queries": 12,
    "schedule.warmup_epochs": 0,
    "train.threads": 1,
}
ALL = {
    "loss.classification": "qfl",
    "match.kind": "nearest(3)",
    "augment.extra": ["dark"],
    "model.backbone": "plain",
}
TABLES: tuple[Any, ...] = (
    losses.CLASSIFICATION,
    matching.KINDS,
    augment.OPERATIONS,
    detector.BACKBONES,
    evaluation.VALIDATION,
)


def blocks() -> list[tuple[str, str, str]]:
    """Language, file and text of each example; the examples of one file belong together."""
    return re.findall(
        r"```(\w+)(?: file=(\S+))?\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )


def write_files(folder: Path) -> None:
    """The files of the page, as a reader saves them."""
    for _, name, text in blocks():
        if name:
            with (folder / name).open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def forget() -> None:
    """Take every added entry out, as in a fresh process."""
    for table in TABLES:
        for name in [name for name in table if table.is_added(name)]:
            del table[name]
    for name in ("my_ideas", "other_ideas"):
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the files of the page, as the current one."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield tmp_path
    forget()


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("data") / "set"
    return synthetic.make(target, train_images=18, val_images=6, size_px=(64, 64), seed=3)


def chosen(**overrides: Any) -> Config:
    return preset("smoke", FAST | {"train.plugins": "my_ideas"} | ALL | overrides)


def test_each_example_is_short() -> None:
    assert len([name for _, name, _ in blocks() if name == "my_ideas.py"]) == 5
    for _, name, text in blocks():
        assert len(text.splitlines()) < 30, name


def test_the_whole_page_trains(folder: Path, small_set: Path) -> None:
    run = deim_lab.train(chosen(), small_set, runs_dir="runs", device="cpu")
    assert run.status == "done"
    recorded = {(row["table"], row["name"]): row for row in run.info["plugins"]}
    assert set(recorded) == {
        ("losses.CLASSIFICATION", "qfl"),
        ("matching.KINDS", "nearest"),
        ("augment.OPERATIONS", "dark"),
        ("detector.BACKBONES", "plain"),
        ("evaluation.VALIDATION", "confident"),
    }
    assert {row["module"] for row in recorded.values()} == {"my_ideas"}
    train, val = (run.metrics([kind]) for kind in ("train", "val"))
    assert 0 < train["applied/dark"].max() <= 1
    assert (train["applied/mosaic"] == train["mosaic_share"]).all()
    assert val["confident"].notna().all()
    # A target has three queries, except where two targets share one.
    last = train.iloc[-1]
    assert 1.5 < last["positives_per_image"] / last["targets_per_image"] <= 3


def test_the_cell_of_the_page(folder: Path) -> None:
    cell = next(text for language, name, text in blocks() if language == "python" and not name)
    made: dict[str, Any] = {"__name__": "__main__"}
    path = folder / "cell.py"  # inspect reads the source of a cell from Python's line cache
    path.write_text(cell, encoding="utf-8")
    exec(compile(cell, str(path), "exec"), made)
    assert made["chosen"].loss.options == {"gamma": 1.0}
    (row,) = plugins.record(made["chosen"])
    assert row["module"] == "__main__"
    assert row["entry"]["label"] == "MAL of √IoU"
    logits, target, iou = torch.randn(3, 2, 4, 5).sigmoid()
    mine = losses.CLASSIFICATION.callable("mine")(logits, target, iou, gamma=1.0)
    torch.testing.assert_close(mine, losses.mal(logits, target, iou**0.5, gamma=1.0))


def test_figures_draw_an_added_loss(folder: Path) -> None:
    plugins.load(["my_ideas"])
    figure = loss_figures.overview(0.5, kinds=("vfl", "mal", "qfl"))
    lines = {str(line.get_label()): line for line in figure.axes[1].lines}
    assert {"VFL", "MAL", "QFL"} <= set(lines)
    assert len({lines[name].get_color() for name in ("VFL", "MAL", "QFL")}) == 3
    assert len({str(lines[name].get_linestyle()) for name in ("MAL", "QFL")}) == 2
    score = 0.3
    _, gradient = loss_figures.loss_and_gradient("qfl", score, 0.5)
    logit = torch.tensor(score).logit().double().requires_grad_()
    iou = torch.tensor(0.5, dtype=torch.float64)
    losses.CLASSIFICATION.callable("qfl")(logit, iou, iou, gamma=2.0).backward()
    assert float(gradient) == pytest.approx(float(logit.grad or 0), abs=1e-6)


@pytest.mark.slow
def test_the_grid_of_the_page_in_processes(
    folder: Path, small_set: Path, own_kernel: Callable[..., Any]
) -> None:
    """Trains four runs with notebook 03 in processes of their own, then compares them."""
    with own_kernel(folder / "jupyter"):
        result = sweep.run(
            "my_grid.yaml",
            folder / "runs",
            data=str(small_set),
            overrides=FAST,
            parameters={"device": "cpu", "examples": 1},
            workers=2,
        )
    assert [row["error"] for row in result.rows] == [None] * 4
    forget()
    comparison = ablation.read(folder / "runs", sweep="my_grid")
    proof: dict[str, dict[Any, Any]] = {
        str(row["arm"]): row for row in ablation.proof(comparison).to_dict("records")
    }
    assert proof["QFL"]["loss"] == "QFL γ=2"
    assert proof["nearest"]["matching"] == "nearest(3)"
    assert 0 < proof["all of it"]["applied/dark"] <= 1
    positives = {arm: row["positives_per_image"] for arm, row in proof.items()}
    assert positives["nearest"] > 1.2 * positives["MAL"]
    # Metrics: one of the page, whose direction is not declared, and a column of the log.
    for metric in ("confident", "seconds"):
        assert ablation.summary(comparison, metric)[metric].notna().all()
    assert ablation.reached(comparison, "confident")["reached"].sum() == 0
    assert ablation.reached(comparison, "seconds")["reached"].iloc[0] == 1
    with pytest.raises(ConfigError, match="did you mean 'confident'"):
        ablation.summary(comparison, "confidant")


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_the_grid_of_the_page_under_ray(
    folder: Path, small_set: Path, own_kernel: Callable[..., Any]
) -> None:
    """Trains two runs with notebook 03 under Ray, which starts its own processes."""
    from deim_lab.sweep.on_ray import RayExecutor

    with own_kernel(folder / "jupyter"):
        result = sweep.run(
            {
                "preset": "smoke",
                "plugins": "my_ideas",
                "base": FAST,
                "arms": {"MAL": {}, "all": ALL},
                "parameters": {"device": "cpu", "examples": 1},
            },
            folder / "runs",
            data=str(small_set),
            executor=RayExecutor(workers=2),
            name="rayed",
        )
    assert [row["error"] for row in result.rows] == [None, None]
    run = Run.open(folder / "runs" / result.rows[1]["run"])
    assert {row["name"] for row in run.info["plugins"]} == {
        "qfl",
        "nearest",
        "dark",
        "plain",
        "confident",
    }


def test_a_killed_run_goes_on_and_an_edited_module_is_another_run(
    folder: Path, small_set: Path
) -> None:
    code = (
        "import json, os, signal, sys, deim_lab; from deim_lab.config import preset\n"
        "def end(event):\n"
        "    if event['kind'] == 'step' and event['epoch'] == 1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "deim_lab.train(preset('smoke', json.loads(sys.argv[1])), sys.argv[2], runs_dir='runs', "
        "device='cpu', on_event=end)"
    )
    overrides = FAST | {"train.plugins": "my_ideas", "train.epochs": 3} | ALL
    command = [sys.executable, "-c", code, json.dumps(overrides), str(small_set)]
    assert subprocess.run(command, cwd=folder, timeout=120).returncode == -signal.SIGKILL
    (saved,) = Path("runs").glob("*/checkpoints/last.pt")
    assert checkpoint.read(saved)["epoch"] == 1
    (cut,) = Path("runs").glob("*/run.json")
    config = preset("smoke", overrides)
    resumed = deim_lab.train(config, small_set, runs_dir="runs", device="cpu")
    assert resumed.folder == cut.parent
    assert resumed.info["resumed"]
    trained = [event["epoch"] for event in resumed.events() if event["kind"] == "train"]
    assert trained == [0, 1, 2], "the first epoch is not trained again"

    module = folder / "my_ideas.py"
    module.write_text(
        module.read_text(encoding="utf-8").replace("gamma=2.0", "gamma=1.9"), encoding="utf-8"
    )
    forget()
    edited = preset("smoke", overrides)
    assert configs.fingerprint(edited) != resumed.info["fingerprint"]
    again = deim_lab.train(edited, small_set, runs_dir="runs", device="cpu")
    assert again.folder != resumed.folder
    hashes = {row["name"]: row["sha256"] for row in resumed.info["plugins"]}
    assert all(row["sha256"] != hashes[row["name"]] for row in again.info["plugins"])


def test_a_run_is_read_without_its_module(folder: Path, small_set: Path) -> None:
    run = deim_lab.train(chosen(), small_set, runs_dir="runs", device="cpu")
    (folder / "my_ideas.py").rename(folder / "moved.py")
    forget()
    read = Run.open(run.folder)
    assert read.config.loss.classification == "qfl"
    assert losses.CLASSIFICATION["qfl"].function is None
    assert losses.CLASSIFICATION.label("qfl") == "QFL"
    assert configs.fingerprint(read.config) == run.info["fingerprint"]
    assert "my_ideas" not in sys.modules
    with pytest.raises(ConfigError, match="no module 'my_ideas'"):
        deim_lab.train(read.config, small_set, runs_dir="runs", device="cpu")
    assert len(list(Path("runs").iterdir())) == 1, "nothing was made of the refused run"


def test_what_is_not_used_changes_no_fingerprint(folder: Path) -> None:
    before = configs.fingerprint(preset("smoke"))
    plugins.load(["my_ideas"])
    assert configs.fingerprint(preset("smoke")) == before
    assert configs.fingerprint(preset("smoke", {"train.plugins": "my_ideas"})) == before
    assert plugins.record(preset("smoke"))[0]["name"] == "confident"
