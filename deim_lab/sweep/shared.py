"""Helpers common to the Ray and Slurm executors: check shared files, report dead workers.

A cluster needs a shared file system: the notebook, the data set and the folder of runs have the
same paths on every node.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deim_lab.errors import ConfigError
from deim_lab.sweep.spec import Failure, RunRecord, RunSpec, failed
from deim_lab.sweep.worker import run_one, where

LIVES = 2  # number of workers that a run may use, if each of them dies


def run_on_node(spec: RunSpec) -> RunRecord:
    """Execute ``run_one`` on this node of a cluster.

    Returns a failed record if the node doesn't see the notebook or the folder of runs.
    """
    for what, path, exists in (
        ("notebook", spec.notebook, Path(spec.notebook).is_file()),
        ("folder of runs", spec.runs_dir, Path(spec.runs_dir).is_dir()),
    ):
        if not exists:
            return failed(
                spec,
                Failure(
                    "DataError",
                    f"{what} {path!r} does not exist on {socket.gethostname()}. The nodes of a "
                    f"cluster must share a file system with the sweep",
                ),
                where=where(),
            )
    return run_one(spec)


def arrived(spec: RunSpec, record: RunRecord, lost: int) -> RunRecord:
    """Complete the record of ``spec`` with its ``lost`` attempts, those whose worker died.

    The record is failed if this machine can't see the run's folder. The time of a lost worker is
    unknown, so it is not counted.
    """
    record = dataclasses.replace(record, attempts=record.attempts + lost)
    if record.run is None or (Path(spec.runs_dir) / record.run).is_dir():
        return record
    message = (
        f"run {record.run} was made in {spec.runs_dir} of {record.where}, but this machine does "
        f"not see it there. A cluster needs a shared file system"
    )
    return dataclasses.replace(
        record,
        status="failed",
        run=None,
        notebook=None,
        error=Failure("DataError", message).as_dict(),
    )


def died(spec: RunSpec, reason: str) -> RunRecord:
    """The record of a run whose workers all died; ``reason``: why the last worker died."""
    return failed(
        spec,
        Failure(
            "WorkerDiedError",
            f"its worker died {LIVES} times (killed, out of memory, or its node went away): "
            f"{reason}",
        ),
        attempts=LIVES,
    )


def check_counts(**counts: float | None) -> None:
    """Raise ``ConfigError`` for a count below 1; None is allowed."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value!r} is below 1. Give at least 1")


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes of this machine and all their children. Ignores ended processes."""
    psutil: Any = importlib.import_module("psutil")  # comes with ipykernel
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            processes += [*root.children(recursive=True), root]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def children_with(text: str) -> list[int]:
    """Process ids of all descendants of this process whose command line contains ``text``."""
    psutil: Any = importlib.import_module("psutil")
    pids = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if text in " ".join(process.cmdline()):
                pids.append(int(process.pid))
    return pids
