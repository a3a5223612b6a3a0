"""A sweep that really trains: notebook 03 at its smallest, by the sweep and by plain papermill as
the user's card says.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import deim_lab
from deim_lab import runs, sweep
from deim_lab.config import fingerprint, preset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "03_train.ipynb"
SMALLEST = {
    "train.epochs": 1,
    "data.batch_size": 32,
    "data.input_size": 64,
    "model.num_queries": 20,
}


@pytest.fixture(autouse=True)
def environment(
    own_kernel: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A kernel of this interpreter under the name python3, for papermill, which looks it up."""
    with own_kernel(tmp_path_factory.mktemp("jupyter")):
        yield


def test_notebook_03_by_a_sweep(tmp_path: Path) -> None:
    grid = {
        "notebook": str(NOTEBOOK),
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


def test_notebook_03_starts_from_weights_by_a_sweep(tmp_path: Path) -> None:
    config = preset("smoke", SMALLEST)
    start = tmp_path / "detector.pth"
    deim_lab.export_official(deim_lab.build_detector(config, 3), start, eval_size=(64, 64))
    grid = {
        "notebook": str(NOTEBOOK),
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


def test_notebook_03_by_papermill_alone(tmp_path: Path) -> None:
    """``papermill notebooks/03_train.ipynb out.ipynb -p preset … -y "overrides: {…}"``."""
    overrides = json.dumps({**SMALLEST, "loss.gamma": 2.0})[1:-1].replace('"', "")
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOK.relative_to(ROOT)),
        str(tmp_path / "out.ipynb"),
        "-p",
        "preset",
        "smoke",
        "-p",
        "runs_dir",
        str(tmp_path / "runs"),
        "-p",
        "examples",
        "1",
        "-y",
        f"overrides: {{{overrides}}}",
    ]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "unknown parameter" not in answer.stderr
    (run,) = runs.all_runs(tmp_path / "runs", status="done")
    assert run.config.loss.gamma == 2.0
    assert run.config.train.epochs == 1
    assert (tmp_path / "out.ipynb").stat().st_size < 1_000_000
