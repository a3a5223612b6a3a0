"""Runs in processes of this machine: kills, failures, Ctrl-C; nothing is lost or left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from deim_lab import cli, runs, sweep
from deim_lab.errors import ConfigError
from deim_lab.sweep.local import LocalExecutor
from deim_lab.sweep.spec import RunSpec
from sweeps import Json, epochs, index_of, plain_specs, wait_for, write_notebook


@pytest.mark.slow
def test_a_kernel_killed_in_the_third_of_six_runs(
    place: Callable[..., Path],
    tmp_path: Path,
    marked: Callable[[], list[Json]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The killed run goes on where it was, the others don't notice; each slot has its GPU, each run
    folder its notebook.
    """
    caplog.set_level("INFO", logger="deim_lab")
    root, grid = (
        tmp_path / "runs",
        place(parameters={"epoch_seconds": 0.6}, base={"train.epochs": 4}),
    )
    shots: list[int] = []

    def shoot(spec: RunSpec) -> bool:
        """kill -9 the kernel of the third run once it has a checkpoint."""
        for file in root.glob("*.pid"):
            if json.loads(file.read_text(encoding="utf-8")) == [None, 1]:
                run = runs.find(
                    root,
                    fingerprint=spec.fingerprint,
                    seed=1,
                    data_fingerprint=spec.data_fingerprint,
                )
                if run is not None and (run.folder / "checkpoints" / "last.json").exists():
                    os.kill(int(file.stem), signal.SIGKILL)
                    shots.append(int(file.stem))
                    return True
        return False

    third = sweep.prepare(grid, root).runs[2].spec
    assert (third.arm, third.seed) == ("baseline", 1)
    killer = threading.Thread(
        target=wait_for, args=(lambda: shoot(third), "a kernel to kill"), daemon=True
    )
    killer.start()
    assert (
        cli.main(["sweep", str(grid), "--runs", str(root), "--workers", "3", "--gpus", "7,8"]) == 0
    )
    killer.join(1)
    assert len(shots) == 1
    rows = {(row["arm"], row["seed"]): row for row in index_of(root)["runs"]}
    assert [row["status"] for row in rows.values()] == ["done"] * 6
    assert [row["attempts"] for row in rows.values()] == [1, 1, 2, 1, 1, 1]
    run = runs.Run.open(root / rows["baseline", 1]["run"])
    assert len({event["pid"] for event in run.events() if event["kind"] == "train"}) == 2
    assert sorted(set(epochs(run))) == [0, 1, 2, 3]
    assert epochs(run).count(0) == 1  # the first epoch had its checkpoint: it isn't trained again
    assert all(
        row["notebook"] == f"{row['run']}/notebook.ipynb" and (root / row["notebook"]).is_file()
        for row in rows.values()
    )
    assert list((root / "sweeps" / "tiny" / "notebooks").iterdir()) == []
    notebooks = [(root / row["notebook"]).read_text(encoding="utf-8") for row in rows.values()]
    assert all("widgets static" in text and len(text) < 1_000_000 for text in notebooks)
    seen = {gpu for gpu in "78" for text in notebooks if f"gpu {gpu}" in text}
    assert seen == {"7", "8"}
    assert all(
        row["where"].split(" gpu ")[1] in ("7 slot 0", "8 slot 1", "7 slot 2")
        for row in rows.values()
    )
    assert "6 done, 0 failed" in capsys.readouterr().out
    assert "[6/6] done: " in caplog.text
    assert "s1, AP 0.250, " in caplog.text
    assert " left" in caplog.text
    assert marked() == []


@pytest.mark.slow
def test_a_failed_run_is_a_row_and_the_exit_code_says_so(
    place: Callable[..., Path],
    tmp_path: Path,
    marked: Callable[[], list[Json]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run fails, the other does not notice, a second call retries it. Slow: three kernels."""
    root, grid = (
        tmp_path / "runs",
        place(seeds=[0, 1], arms={"only": {}}, parameters={"break_seed": 0}),
    )
    assert cli.main(["sweep", str(grid), "--runs", str(root), "--workers", "2"]) == 1
    bad, good = index_of(root)["runs"]
    assert (bad["status"], good["status"]) == ("failed", "done")
    assert (bad["error"]["type"], bad["error"]["message"], bad["attempts"]) == (
        "ArithmeticError",
        "seed 0 breaks",
        1,
    )
    assert "raise ArithmeticError" in bad["error"]["traceback"]
    assert "\x1b" not in bad["error"]["traceback"]
    assert bad["notebook"].startswith("sweeps/tiny/notebooks/only_s0_")
    assert "ArithmeticError" in (root / bad["notebook"]).read_text(encoding="utf-8")
    assert "ArithmeticError: seed 0 breaks" in caplog.text
    assert marked() == []

    content = json.loads(grid.read_text(encoding="utf-8"))
    grid.write_text(json.dumps({**content, "parameters": {}}), encoding="utf-8")
    assert cli.main(["sweep", str(grid), "--runs", str(root)]) == 0
    again, untouched = index_of(root)["runs"]
    assert untouched == good
    assert (again["status"], again["run"], again["error"]) == ("done", bad["run"], None)
    assert epochs(runs.Run.open(root / again["run"])) == [
        0,
        1,
        2,
    ]  # went on after the epoch that was saved
    assert not (root / bad["notebook"]).exists()


def start_sweep(grid: Path, root: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "deim_lab.cli",
        "sweep",
        str(grid),
        "--runs",
        str(root),
        "--workers",
        "2",
        *options,
    ]
    # A suite that a script started with & ignores Ctrl-C, and its children would inherit that.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_leaves_no_process_and_loses_nothing(
    how: signal.Signals,
    place: Callable[..., Path],
    tmp_path: Path,
    marked: Callable[[], list[Json]],
) -> None:
    root, grid = (
        tmp_path / "runs",
        place(
            seeds=[0, 1],
            arms={"only": {}},
            parameters={"epoch_seconds": 4.0},
            base={"train.epochs": 6},
        ),
    )
    with start_sweep(grid, root) as process:

        def both_saved() -> bool:
            return len(list(root.glob("*/checkpoints/last.json"))) == 2

        wait_for(both_saved, "two runs with a checkpoint")
        assert len(marked()) >= 5  # the sweep, two workers, two kernels
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    wait_for(
        lambda: not marked(), "the end of every process", seconds=8
    )  # the runs have 20 s to go
    if how == signal.SIGINT:
        assert "interrupted; the same command continues it" in said
        assert {row["status"] for row in index_of(root)["runs"]} == {"pending"}
    saved = {
        folder.parents[1].name: json.loads(folder.read_text(encoding="utf-8"))
        for folder in root.glob("*/checkpoints/last.json")
    }
    assert len(saved) == 2
    content = json.loads(grid.read_text(encoding="utf-8"))
    grid.write_text(json.dumps({**content, "parameters": {}}), encoding="utf-8")  # hurry up
    assert len(sweep.run(grid, root, workers=2).done) == 2
    for run in runs.all_runs(root):
        assert run.status == "done"
        assert set(epochs(run)) == set(range(6))
        assert all(epochs(run).count(epoch) == 1 for epoch in range(saved[run.folder.name]))
    assert len(runs.all_runs(root)) == 2
    assert marked() == []


def test_a_killed_worker_is_started_once_more_and_then_is_a_failed_record(
    tmp_path: Path, marked: Callable[[], list[Json]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notebook kills the worker above its kernel: always with seed 0, the first time with seed
    1.
    """
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = write_notebook(
        tmp_path / "deadly.ipynb",
        f"""
import os, pathlib, signal, time
first = pathlib.Path({str(tmp_path)!r}, f'been-{{seed}}')
if seed == 0 or not first.exists():
    first.touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
""",
    )
    records = {
        record.seed: record
        for record in LocalExecutor(2).execute(plain_specs(tmp_path, notebook, 2))
    }
    assert (records[0].status, records[0].attempts) == ("failed", 2)
    assert records[0].error is not None
    assert records[0].error["type"] == "WorkerDiedError"
    assert "was ended by SIGKILL, 2 times" in records[0].error["message"]
    assert (records[1].status, records[1].attempts, records[1].run) == ("done", 2, None)
    wait_for(lambda: not marked(), "the end of every process", seconds=5)
    assert list(tmp_path.glob("deim-*")) == []


def test_closing_the_iterator_stops_what_runs_with_all_that_it_started(
    tmp_path: Path, marked: Callable[[], list[Json]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = write_notebook(
        tmp_path / "long.ipynb",
        """
import subprocess, time
child = subprocess.Popen(['sleep', '300'])
time.sleep(300 if seed else 0)
""",
    )
    records = LocalExecutor(2).execute(plain_specs(tmp_path, notebook, 3))
    record = next(records)
    assert (record.seed, record.status) == (0, "done")
    assert isinstance(records, Generator)
    records.close()
    wait_for(lambda: not marked(), "the end of every process", seconds=5)
    with pytest.raises(ConfigError, match="workers 0 is below 1"):
        LocalExecutor(0)


@pytest.mark.slow
def test_ten_short_runs_by_eight_workers(
    tmp_path: Path, marked: Callable[[], list[Json]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More kernels than cores start at once, on channels of their own. Slow: ten kernels."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = write_notebook(tmp_path / "short.ipynb", "print(seed)")
    records = list(LocalExecutor(8).execute(plain_specs(tmp_path, notebook, 10)))
    assert sorted(record.seed for record in records) == list(range(10))
    assert {(record.status, record.attempts) for record in records} == {("done", 1)}
    assert marked() == []
