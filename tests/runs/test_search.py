"""Runs are found by their identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deim_lab import runs
from run_folders import finished, start


def found(folder: Path, **wanted: Any) -> Path:
    run = runs.find(folder, **wanted)
    assert run is not None
    return run.folder


def test_find_prefers_a_finished_run_and_tells_experiments_apart(tmp_path: Path) -> None:
    cut = start(tmp_path)
    wanted = cut.identity
    assert found(tmp_path, **wanted) == cut.folder
    done = finished(tmp_path)
    start(tmp_path).fail(RuntimeError())
    assert found(tmp_path, **wanted) == done.folder
    assert found(tmp_path, **wanted, statuses=["running"]) == cut.folder
    assert runs.find(tmp_path, **wanted | {"seed": 1}) is None
    assert runs.find(tmp_path, **wanted | {"data_fingerprint": "e"}) is None
    assert runs.find(tmp_path, **wanted | {"fingerprint": "0"}) is None
    assert runs.find(tmp_path / "absent", **wanted) is None
