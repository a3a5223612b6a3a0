"""The interface of a sweep's executors: ``RunSpec`` in, ``RunRecord`` out.

An executor is anything that turns a ``RunSpec`` into a ``RunRecord`` (``Executor``). Both are plain
JSON values. To execute a run, an executor only needs ``worker.run_one``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Json = Any
RecordStatus = Literal["done", "failed", "skipped"]


@dataclass(frozen=True)
class RunSpec:
    """One run of a sweep: a notebook and its parameters.

    Paths are absolute, values plain JSON.

    Attributes:
        index: position in the sweep, from 0.
        notebook: the notebook to execute; its parameters cell takes ``parameters``.
        parameters: parameters of the notebook: ``preset, overrides, data, seed, runs_dir``, and
            further ones.
        overrides: the changes of this arm, on top of the preset and the grid's ``base``.
        fingerprint, data_fingerprint: together with ``seed`` the identity of the run, as in
            ``runs.find``.
        runs_dir: folder of runs; every worker sees it under this path.
        executed: path of the executed notebook during the run. A finished notebook is moved into
            the run's folder.
        gpus: number of GPUs that the run requests; a fraction shares a GPU.
    """

    index: int
    arm: str
    seed: int
    notebook: str
    parameters: dict[str, Json]
    overrides: dict[str, Json]
    fingerprint: str
    data_fingerprint: str
    runs_dir: str
    executed: str
    gpus: float = 0

    @property
    def label(self) -> str:
        """Arm and seed: the name of the run in messages."""
        return f"{self.arm} s{self.seed}"


@dataclass(frozen=True)
class RunRecord:
    """The result of a run.

    Attributes:
        status: ``done``, ``failed`` or ``skipped`` (nothing was executed, since the run was already
            done).
        run: name of the run's folder; None if no folder was made.
        seconds: wall time of all attempts.
        attempts: number of times that a kernel was started for the run.
        error: ``{"type", "message", "traceback"}`` of a failed run.
        notebook: absolute path of the executed notebook; None without one.
        where: host and slot.
    """

    index: int
    arm: str
    seed: int
    status: RecordStatus
    run: str | None = None
    seconds: float = 0.0
    attempts: int = 1
    error: dict[str, str] | None = None
    notebook: str | None = None
    where: str = ""


@dataclass(frozen=True)
class Failure:
    """The error in the record of a failed run."""

    type: str
    message: str
    traceback: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, str]:
        """The error as ``{"type", "message", "traceback"}``."""
        return dataclasses.asdict(self)


class Executor(Protocol):
    """Anything that executes runs: processes, or a cluster."""

    def execute(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """Yield one record per spec, when its run ends, in any order.

        Closing the iterator (or ``KeyboardInterrupt`` inside it) stops all runs and leaves no
        process behind. A run whose worker dies is tried once more; a second death gives a failed
        record. Every spec gets a record.
        """
        ...


def to_json(value: RunSpec | RunRecord) -> dict[str, Json]:
    """A spec or record as a JSON object; ``RunSpec(**…)`` or ``RunRecord(**…)`` reads it."""
    return dataclasses.asdict(value)


def failed(spec: RunSpec, failure: Failure, **values: Json) -> RunRecord:
    """The record of a run that failed with ``failure``; ``values``: further fields."""
    return RunRecord(
        index=spec.index,
        arm=spec.arm,
        seed=spec.seed,
        status="failed",
        error=failure.as_dict(),
        **values,
    )


def identity(spec: RunSpec) -> Mapping[str, Json]:
    """The identity of a run, ``fingerprint, seed, data_fingerprint``, as in ``runs.find``."""
    return {
        "fingerprint": spec.fingerprint,
        "seed": spec.seed,
        "data_fingerprint": spec.data_fingerprint,
    }
