"""The sweep itself, with an executor that runs nothing: a second call, an interruption."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deim_lab import sweep
from sweeps import Pretended, index_of


def test_a_second_call_skips_continues_and_retries(
    place: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="deim_lab")
    root, grid = tmp_path / "runs", place(seeds=[0, 1], parameters={"device": "cpu"})
    first = Pretended({("sharper", 0): "failed", ("sharper", 1): "cut"})
    with pytest.raises(KeyboardInterrupt):
        sweep.run(grid, root, executor=first)
    assert first.closed
    assert first.seen == [
        ("baseline", 0),
        ("sharper", 0),
        ("baseline", 1),
        ("sharper", 1),
    ]  # whole seeds first
    content = index_of(root)
    assert (content["name"], content["grid"], content["baseline"], content["finished"]) == (
        "tiny",
        str(grid),
        "baseline",
        None,
    )
    assert [row["status"] for row in content["runs"]] == ["done", "failed", "done", "pending"]
    assert content["runs"][1]["error"] == {
        "type": "ValueError",
        "message": "no",
        "traceback": "Traceback",
    }
    assert (root / content["runs"][0]["notebook"]).is_file()
    planned = sweep.prepare(grid, root).runs
    assert [item.state for item in planned] == ["done", "failed", "done", "cut"]
    assert planned[0].cost.seconds == 0
    assert planned[1].cost.seconds
    assert planned[3].cost.seconds == pytest.approx(
        planned[1].cost.seconds * 2 / 3
    )  # an epoch of three is behind it
    lines = "\n".join(sweep.plan.describe(sweep.prepare(grid, root), workers=2))
    assert "sharper   s1   interrupted after epoch 1 of 3" in lines
    assert "sharper   loss.gamma null → 2.0" in lines

    patient = Pretended()
    assert len(sweep.run(grid, root, executor=patient, retry_failed=False).failed) == 1
    assert patient.seen == [("sharper", 1)]
    second = Pretended()
    result = sweep.run(grid, root, executor=second)
    assert second.seen == [("sharper", 0)]
    assert (len(result.done), result.failed) == (4, [])
    assert index_of(root)["finished"] is not None
    third = Pretended()
    assert len(sweep.run(grid, root, executor=third).done) == 4
    assert third.seen == []
    assert "4 of 4 runs are done already" in caplog.text
    assert json.loads((root / "sweeps" / "tiny" / "grid.json").read_text(encoding="utf-8"))["arms"][
        "sharper"
    ] == {"loss.gamma": 2.0}


def test_nothing_is_said_to_run_after_a_sweep_was_stopped(
    place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deim_lab.sweep.index import Index

    watching: list[int] = []
    interrupted, before = Index.interrupted, threading.active_count()

    def watched(self: Index) -> None:
        watching.append(threading.active_count() - before)
        interrupted(self)

    monkeypatch.setattr(Index, "interrupted", watched)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(place(seeds=[0]), tmp_path / "runs", executor=Pretended({("sharper", 0): "stop"}))
    assert watching == [0]
