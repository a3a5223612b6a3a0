"""The index of a sweep: of one experiment, written by one process, right after a kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deim_lab import sweep
from deim_lab.errors import ConfigError
from deim_lab.sweep import loop
from deim_lab.sweep.index import Index
from sweeps import Pretended, a_grid, index_of


def test_an_index_is_of_one_experiment(
    place: Callable[..., Path], tmp_path: Path, data: Path
) -> None:
    root, grid = tmp_path / "runs", place(seeds=[0])
    sweep.run(grid, root, executor=Pretended())
    more = Pretended()
    sweep.run(grid, root, executor=more, seeds=[1])
    assert [(row["arm"], row["seed"]) for row in index_of(root)["runs"]] == [
        ("baseline", 1),
        ("sharper", 1),
        ("baseline", 0),
        ("sharper", 0),
    ]
    assert (root / "sweeps" / "tiny" / "grid-1.json").exists()  # what was asked for first
    with pytest.raises(
        ConfigError, match=r"another configuration under the name of arm 'baseline'.*--name"
    ):
        sweep.run(grid, root, executor=more, overrides={"train.epochs": 4})
    content = (data / "annotations" / "instances_train.json").read_text(encoding="utf-8")
    (data / "annotations" / "again.json").write_text(content + " ", encoding="utf-8")
    half = {
        "images": str(data / "images" / "val"),
        "annotations": str(data / "annotations" / "instances_val.json"),
    }
    other = {
        "train": {
            "images": str(data / "images" / "train"),
            "annotations": str(data / "annotations" / "again.json"),
        },
        "val": half,
    }
    with pytest.raises(ConfigError, match="holds runs of other data"):
        sweep.run(grid, root, executor=more, data=other)
    assert len(sweep.run(grid, root, executor=more, data=other, name="other").done) == 1 * 2
    (root / "sweeps" / "tiny" / "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="no readable JSON"):
        sweep.run(grid, root, executor=more)


def test_two_sweeps_of_one_name_do_not_run_at_once(
    place: Callable[..., Path], tmp_path: Path
) -> None:
    root, grid = tmp_path / "runs", place(seeds=[0])
    code = (
        f"import fcntl, pathlib, sys; p = pathlib.Path({str(root)!r}, 'sweeps', 'tiny'); "
        f"p.mkdir(parents=True);"
        "h = (p / '.lock').open('w'); fcntl.lockf(h, fcntl.LOCK_EX); print('held', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="is being run by another process"):
            sweep.run(grid, root, executor=Pretended())
        other.communicate("")
    assert len(sweep.run(grid, root, executor=Pretended()).done) == 2


def test_a_killed_sweep_leaves_no_run_that_seems_to_run(tmp_path: Path) -> None:
    first = Index(loop.prepare(a_grid(seeds=[0, 1]), tmp_path))
    first.folder.mkdir(parents=True)
    for row in first.rows.values():
        row["status"] = "running"
    first.write()
    again = Index(loop.prepare(a_grid(seeds=[1]), tmp_path))
    assert again.rows
    assert {row["status"] for row in again.rows.values()} == {"pending"}
