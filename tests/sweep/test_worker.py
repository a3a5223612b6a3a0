"""One run in a worker: absent or other data, and a kernel that does not start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deim_lab import runs, sweep
from deim_lab.sweep.spec import RunSpec
from sweeps import Json, plain_specs, write_notebook


def test_a_worker_that_does_not_see_the_data_says_so(
    tmp_path: Path, place: Callable[..., Path]
) -> None:
    spec = plain_specs(tmp_path, tmp_path / "none.ipynb", 1)[0]
    record = sweep.run_one(
        RunSpec(**{**sweep.spec.to_json(spec), "parameters": {"data": str(tmp_path / "absent")}})
    )
    assert record.error is not None
    assert record.error["type"] == "DataError"
    assert "absent' does not exist on" in record.error["message"]
    record = sweep.run_one(spec)
    assert (record.status, record.error is not None and record.error["type"]) == (
        "failed",
        "FileNotFoundError",
    )


def test_a_run_on_other_data_than_planned_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose copy of the data set differs: the notebook trains, but not what the sweep asked
    for.
    """
    from deim_lab.config import presets

    spec = plain_specs(tmp_path, tmp_path / "n.ipynb", 1)[0]

    def execute(notebook: str, executed: str, **_: Json) -> None:
        write_notebook(Path(executed))
        runs.Run.start(
            tmp_path,
            presets.preset("smoke"),
            seed=0,
            data={"name": "x", "fingerprint": "other"},
            fingerprint="f",
        ).finish()

    monkeypatch.setattr("papermill.execute_notebook", execute)
    record = sweep.run_one(spec)
    assert record.status == "failed"
    assert record.error is not None
    assert "was trained on other data than planned" in record.error["message"]


def test_a_kernel_that_does_not_come_up_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Json] = []

    def execute(notebook: str, executed: str, **values: Json) -> None:
        calls.append(values)
        if len(calls) < fails:
            raise RuntimeError("Kernel didn't respond in 180 seconds")
        write_notebook(Path(executed))

    monkeypatch.setattr("papermill.execute_notebook", execute)
    fails = 3
    record = sweep.run_one(plain_specs(tmp_path, tmp_path / "n.ipynb", 1)[0])
    assert (record.status, record.attempts) == ("done", 3)
    assert calls[0]["start_timeout"] >= 60
    fails = 9
    record = sweep.run_one(plain_specs(tmp_path, tmp_path / "n.ipynb", 1)[0])
    assert (record.status, record.attempts) == ("failed", 3)
    assert "Kernel didn't respond" in (record.error or {})["message"]
