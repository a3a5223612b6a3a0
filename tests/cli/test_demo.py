"""The demo in small: two arms are compared, drawn and reported; a failing arm is named."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from deim_lab import cli
from deim_lab.cli import demo
from deim_lab.data import synthetic
from deim_lab.errors import ConfigError, RunFailedError
from deim_lab.runs import Run, all_runs
from deim_lab.study import ablation
from deim_lab.sweep import Sweep, grid, loop

TINY = {
    "data.input_size": 64,
    "train.epochs": 2,
    "model.num_queries": 20,
    "model.num_denoising": 8,
    "train.eval_every": 2,
}

# What notebook 03 does, without its figures: those have tests of their own.
PARAMETERS = """
preset = "smoke"
overrides = {}
data = None
seed = 0
device = "cpu"
runs_dir = "runs"
"""

TRAINING = """
import deim_lab
from deim_lab.config.presets import preset as recipe
deim_lab.train(recipe(preset, overrides), data, seed=seed, runs_dir=runs_dir, device=device)
"""


@pytest.fixture
def small_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder of a demo that has little to do: its set is small, its notebook trains only."""
    folder = synthetic.make(tmp_path / "set", train_images=12, val_images=4, size_px=(64, 64))
    data = {
        half: {
            "images": str(folder / "images" / half),
            "annotations": str(folder / f"annotations/instances_{half}.json"),
        }
        for half in ("train", "val")
    }
    monkeypatch.setattr(demo, "DATA", data)
    cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, TRAINING)]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "training.ipynb")
    monkeypatch.setattr(grid, "NOTEBOOK", str(tmp_path / "training.ipynb"))
    return tmp_path / "runs"


@pytest.mark.slow
def test_two_arms_from_one_seed_are_compared_and_drawn(small_embedded: Path) -> None:
    def run() -> ablation.Comparison:
        return demo.main(small_embedded, preset_name="smoke", overrides=TINY, seed=4, notebook=None)

    comparison = run()
    assert [arm.name for arm in comparison.arms] == ["plain D-FINE", "DEIM"]
    plain, deim = (
        Run.open(small_embedded / trial.run) for arm in comparison.arms for trial in arm.trials
    )
    assert plain.info["seed"] == deim.info["seed"] == 4
    assert plain.config.loss.classification == "vfl"
    assert plain.config.augment.mosaic_prob == 0
    assert deim.config.loss.classification == "mal"
    assert deim.config.augment.mosaic_prob == 0.5
    assert plain.info["device"] == deim.info["device"] == "cpu"
    out = small_embedded / "demo"
    assert {path.suffix for path in out.glob("plain_against_deim.*")} == {
        ".png",
        ".svg",
        ".pdf",
        ".csv",
    }
    report = (out / "report.md").read_text(encoding="utf-8")
    rows = {
        cells[1]: cells[2:6]
        for line in report.splitlines()
        if len(cells := [cell.strip() for cell in line.split("|")]) == 7
    }
    targets = {}
    for name, own in (("plain D-FINE", plain), ("DEIM", deim)):
        last = own.metrics(["val"]).iloc[-1]
        targets[name] = own.metrics(["train"])["targets_per_image"].mean()
        minutes = own.info["seconds"] / 60
        numbers = (last["AP"], last["AP50"], targets[name], minutes)
        assert rows[name] == [
            f"{value:.{digits}f}" for value, digits in zip(numbers, (3, 3, 2, 1), strict=True)
        ]
        assert str(own.folder) in report
    assert targets["DEIM"] > targets["plain D-FINE"]
    ratio = targets["DEIM"] / targets["plain D-FINE"]
    assert f"DEIM saw {ratio:.1f} times the targets per image" in report
    for sentence in ablation.verdicts(comparison):
        assert f"- {sentence}" in report
    run()
    assert len(all_runs(small_embedded)) == 2, "finished arms are not trained again"


def test_a_failing_arm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"type": "NonFiniteError", "message": "loss mal is not finite", "traceback": ""}
    rows = (
        {"arm": "plain D-FINE", "status": "done", "error": None},
        {"arm": "DEIM", "status": "failed", "error": error},
    )
    monkeypatch.setattr(
        loop, "run", lambda *_, **values: Sweep(values["name"], tmp_path, "plain D-FINE", rows)
    )
    with pytest.raises(
        RunFailedError, match=r"^arm 'DEIM' failed: NonFiniteError: loss mal is not finite$"
    ):
        demo.main(tmp_path, preset_name="smoke", notebook=None)


def test_a_wrong_setting_of_an_arm_is_said_before_anything_is_trained(
    small_embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(demo.ARMS, "DEIM", {"loss.gamma": "high"})
    with pytest.raises(ConfigError, match=r"arm 'DEIM': loss\.gamma"):
        demo.main(small_embedded, preset_name="smoke", overrides=TINY, notebook=None)
    assert not small_embedded.exists()


def test_another_seed_or_setting_is_another_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def stop(*_: object, name: str, **__: object) -> None:
        names.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "run", stop)
    for seed, overrides in ((0, {}), (1, {}), (0, TINY), (0, {})):
        with pytest.raises(KeyboardInterrupt):
            demo.main(tmp_path, preset_name="smoke", overrides=overrides, seed=seed, notebook=None)
    assert len(set(names)) == 3
    assert names[0] == names[3]


def test_an_absent_notebook_is_said_before_anything_is_trained(small_embedded: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        demo.main(small_embedded, notebook="nowhere.ipynb")
    assert not small_embedded.exists()


def test_demo_is_handed_its_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deim_lab.cli import demo

    seen: list[object] = []

    def main(runs: Path, **options: object) -> None:
        seen.extend([runs, options])
        (runs / "demo").mkdir()
        (runs / "demo" / "report.md").write_text("the table", encoding="utf-8")

    monkeypatch.setattr(demo, "main", main)
    assert (
        cli.main(
            [
                "demo",
                "--runs",
                str(tmp_path),
                "--preset",
                "smoke",
                "--set",
                "train.epochs=1",
                "--seed",
                "2",
                "--no-notebook",
            ]
        )
        == 0
    )
    assert seen == [
        tmp_path,
        {"preset_name": "smoke", "overrides": {"train.epochs": 1}, "seed": 2, "notebook": None},
    ]
    assert capsys.readouterr().out.strip() == "the table"
