"""What the executors of a cluster share: a run on another node, which has to see the same files,
and what to say of one that died.

A cluster needs a shared file system: the notebook, the data set and the folder of runs lie under
the same paths on every node.
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

LIVES = 2  # times that a run is handed to a worker which dies


def run_on_node(spec: RunSpec) -> RunRecord:
    """``run_one`` on whatever node this is; a failed record where the node doesn't see the notebook
    or the folder of runs.
    """
    for what, path, there in (
        ("notebook", spec.notebook, Path(spec.notebook).is_file()),
        ("folder of runs", spec.runs_dir, Path(spec.runs_dir).is_dir()),
    ):
        if not there:
            return failed(
                spec,
                Failure(
                    "DataError",
                    f"{what} {path!r} does not exist on {socket.gethostname()}: the nodes of a "
                    f"cluster need a "
                    f"file system that they share with the sweep",
                ),
                where=where(),
            )
    return run_one(spec)


def arrived(spec: RunSpec, record: RunRecord, lost: int) -> RunRecord:
    """The record of ``spec`` as the sweep keeps it: with ``lost`` attempts whose worker died, and
    failed where its run can't be seen here.

    The time of a lost worker isn't known, hence not counted.
    """
    record = dataclasses.replace(record, attempts=record.attempts + lost)
    if record.run is None or (Path(spec.runs_dir) / record.run).is_dir():
        return record
    message = (
        f"run {record.run} was made in {spec.runs_dir} of {record.where}, which is another folder "
        f"than the one here: a cluster needs a "
        f"shared file system"
    )
    return dataclasses.replace(
        record,
        status="failed",
        run=None,
        notebook=None,
        error=Failure("DataError", message).as_dict(),
    )


def died(spec: RunSpec, reason: str) -> RunRecord:
    """The record of a run each of whose workers died, the last one for ``reason``."""
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
    """Raise ``ConfigError`` for a count below 1; None is left out."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value!r} is below 1")


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes of this machine with all that they started; those that are gone are left
    out.
    """
    psutil: Any = importlib.import_module("psutil")  # comes with ipykernel
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            found += [*root.children(recursive=True), root]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def children_with(text: str) -> list[int]:
    """Process ids of what this process started, directly or not, whose command line holds
    ``text``.
    """
    psutil: Any = importlib.import_module("psutil")
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if text in " ".join(process.cmdline()):
                found.append(int(process.pid))
    return found
