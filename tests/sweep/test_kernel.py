"""A notebook in a kernel of its own: the channel, and notebook 03 at its smallest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import deim_lab
from deim_lab import runs, sweep
from deim_lab.config import fingerprint, preset
from deim_lab.data import synthetic
from deim_lab.sweep import kernel
from places import ROOT
from sweeps import Json, plain_specs, write_notebook

NOTEBOOK = ROOT / "notebooks" / "03_train.ipynb"

SMALLEST = {
    "train.epochs": 1,
    "data.batch_size": 32,
    "data.input_size": 64,
    "model.num_queries": 20,
}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    return synthetic.make(folder, train_images=24, val_images=6, size_px=(64, 64))


@pytest.fixture
def environment(
    own_kernel: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A kernel of this interpreter under the name python3, for papermill, which looks it up."""
    with own_kernel(tmp_path_factory.mktemp("jupyter")):
        yield


def test_braces_in_a_path_are_no_gaps_for_papermill_to_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import papermill.parameterize

    def execute(notebook: str, executed: str, parameters: Json, **_: Json) -> None:
        write_notebook(Path(papermill.parameterize.parameterize_path(executed, parameters)))

    monkeypatch.setattr("papermill.execute_notebook", execute)
    folder = tmp_path / "{mine} {}"
    folder.mkdir()
    record = sweep.run_one(plain_specs(folder, folder / "n.ipynb", 1)[0])
    assert (record.status, record.error) == ("done", None)


def test_a_kernel_does_not_talk_over_tcp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A kernel on TCP writes a warning about encryption into the output of every run."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = write_notebook(tmp_path / "n.ipynb", "print(seed)")
    target = tmp_path / "executed.ipynb"
    kernel.execute(notebook, target, parameters={"seed": 7}, cwd=tmp_path)
    answer = capfd.readouterr()
    assert "TCP" not in answer.out + answer.err
    assert "7" in target.read_text(encoding="utf-8")


def test_a_temporary_folder_of_a_long_name_goes_without_unix_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    with kernel.private_channel() as channel:
        assert channel.transport == "ipc"
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv(kernel.FOLDER, str(long))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    with kernel.private_channel() as channel:
        assert channel.transport == "tcp"
    assert not channel.folder.exists()
    record = sweep.run_one(
        plain_specs(tmp_path, write_notebook(tmp_path / "n.ipynb", "print(seed)"), 1)[0]
    )
    assert (record.status, record.error) == ("done", None)
    assert (long / kernel.PID_FILE).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_notebook_03_by_a_sweep(tmp_path: Path, small_set: Path) -> None:
    grid = {
        "notebook": str(NOTEBOOK),
        "data": str(small_set),
        "preset": "smoke",
        "base": SMALLEST,
        "parameters": {"device": "cpu", "examples": 1},
        "arms": {"plain": {"loss.classification": "vfl"}, "MAL": {}},
    }
    result = sweep.run(grid, tmp_path, workers=2, name="smallest")
    assert [row["error"] for row in result.rows] == [None, None]
    for row in result.rows:
        run = runs.Run.open(tmp_path / row["run"])
        assert (run.status, run.config.loss.classification) == (
            "done",
            {"plain": "vfl", "MAL": "mal"}[row["arm"]],
        )
        assert run.identity == {
            key: row[key] for key in ("fingerprint", "seed", "data_fingerprint")
        }
        executed = run.folder / "notebook.ipynb"
        assert executed.stat().st_size < 1_000_000
        content = json.loads(executed.read_text(encoding="utf-8"))
        assert "widgets" not in content["metadata"]
        kinds = {
            kind
            for cell in content["cells"]
            for output in cell.get("outputs", [])
            for kind in output.get("data", {})
        }
        assert "image/png" in kinds
        assert not [kind for kind in kinds if "widget" in kind or "plotly" in kind]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    again = sweep.prepare(grid, tmp_path, name="smallest")
    assert [item.state for item in again.runs] == ["done", "done"]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    longer = sweep.prepare(
        {**grid, "base": {**SMALLEST, "train.epochs": 2}}, tmp_path, name="longer"
    )
    assert [(item.state, item.cost.basis) for item in longer.runs] == [
        ("new", sweep.cost.SAME_BUT_LENGTH)
    ] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_notebook_03_starts_from_weights_by_a_sweep(tmp_path: Path, small_set: Path) -> None:
    config = preset("smoke", SMALLEST)
    start = tmp_path / "detector.pth"
    deim_lab.export_official(deim_lab.build_detector(config, 3), start, eval_size=(64, 64))
    grid = {
        "notebook": str(NOTEBOOK),
        "data": str(small_set),
        "preset": "smoke",
        "base": SMALLEST,
        "parameters": {"device": "cpu", "examples": 1, "weights": str(start)},
        "arms": {"MAL": {}},
    }
    planned = sweep.prepare(grid, tmp_path, name="tuned").runs[0].spec.fingerprint
    assert planned == fingerprint(config, hashlib.sha256(start.read_bytes()).hexdigest())
    assert planned != fingerprint(config), "a run from scratch is another experiment"
    (row,) = sweep.run(grid, tmp_path, name="tuned").rows
    assert row["error"] is None
    run = runs.Run.open(tmp_path / row["run"])
    assert (run.status, run.identity["fingerprint"]) == ("done", planned)
    assert run.info["weights"]["path"] == str(start)
    assert [item.state for item in sweep.prepare(grid, tmp_path, name="tuned").runs] == ["done"]


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_notebook_03_by_the_command_of_papermill_and_again(tmp_path: Path, small_set: Path) -> None:
    """``papermill notebooks/03_train.ipynb out.ipynb -p preset … -y "overrides: {…}"``, with own
    data: first in another folder, then in the repository's.

    The second execution finds the run and shows the same scores.
    """
    settings = {**SMALLEST, "train.epochs": 2, "data.batch_size": 8, "loss.gamma": 2.0}
    overrides = json.dumps(settings).replace('"', "")
    reports: list[str] = []
    for notebook, folder in ((NOTEBOOK, tmp_path), (NOTEBOOK.relative_to(ROOT), ROOT)):
        target = tmp_path / f"out{len(reports)}.ipynb"
        values = {
            "preset": "smoke",
            "data": str(small_set),
            "device": "cpu",
            "runs_dir": str(tmp_path / "runs"),
            "examples": "1",
        }
        given = [word for name, value in values.items() for word in ("-p", name, value)]
        command = ["-m", "papermill", str(notebook), str(target), "-k", "python3", *given]
        answer = subprocess.run(
            [sys.executable, *command, "-y", f"overrides: {overrides}"],
            capture_output=True,
            encoding="utf-8",
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
        assert "unknown parameter" not in answer.stderr
        assert target.stat().st_size < 1_000_000
        cells = json.loads(target.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        reports.append("".join("".join(output.get("text", "")) for output in outputs))
    (run,) = runs.all_runs(tmp_path / "runs")
    assert run.status == "done"
    assert run.config.loss.gamma == 2.0
    assert run.config.train.epochs == 2
    assert run.info["resumed"] == []
    made = {path.name for path in (run.folder / "figures").iterdir()}
    assert {"curves.png", "workings.csv", "matched_iou.svg", "detections.pdf"} <= made
    score = r"AP [\d.]+, AP50 [\d.]+ at the end"
    assert re.findall(score, reports[0]) == re.findall(score, reports[1]) != []
    assert len(reports[0].splitlines()) < 40
