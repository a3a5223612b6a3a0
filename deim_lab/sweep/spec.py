"""What travels between a sweep and its executors: ``RunSpec`` in, ``RunRecord`` out, both plain
JSON values.

An executor is anything that turns the one into the other (``Executor``). All that it has to know of
a run is ``worker.run_one``.
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
    """One run of a sweep: a notebook and what it is to be executed with. Paths are absolute, values
    plain JSON.

    Attributes:
        index: position in the sweep, from 0.
        notebook: the notebook to execute; its parameters cell takes ``parameters``.
        parameters: of the notebook: ``preset, overrides, data, seed, runs_dir``, and further ones.
        overrides: what this arm changes, on top of the preset and the grid's ``base``.
        fingerprint, data_fingerprint: with ``seed`` the identity of the run, as ``runs.find`` takes
            it.
        runs_dir: folder of runs, seen by every worker under this path.
        executed: where the executed notebook is written while it runs. Once it is done it lies in
            the run's folder.
        gpus: GPUs that the run asks for; a fraction shares one.
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
        """Arm and seed, as messages name the run."""
        return f"{self.arm} s{self.seed}"


@dataclass(frozen=True)
class RunRecord:
    """How a run ended.

    Attributes:
        status: ``skipped``: nothing was executed, since it was done already.
        run: name of the run's folder; None where none was made.
        seconds: wall time of all attempts.
        attempts: times that a kernel was started for it.
        error: ``{"type", "message", "traceback"}`` of a failed run.
        notebook: the executed notebook, absolute; None where there is none.
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
    """An error as a run's record keeps it."""

    type: str
    message: str
    traceback: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, str]:
        """``{"type", "message", "traceback"}``."""
        return dataclasses.asdict(self)


class Executor(Protocol):
    """Where runs happen."""

    def execute(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """One record a spec, as runs end, in any order.

        Closing the iterator (or ``KeyboardInterrupt`` inside it) stops what runs and leaves no
        process behind. A worker that dies is tried once more, then gives a failed record: no spec
        is ever lost.
        """
        ...


def to_json(value: RunSpec | RunRecord) -> dict[str, Json]:
    """A spec or record as a JSON object; ``RunSpec(**…)`` or ``RunRecord(**…)`` reads it back."""
    return dataclasses.asdict(value)


def failed(spec: RunSpec, failure: Failure, **values: Json) -> RunRecord:
    """The record of ``spec`` failed by ``failure``; ``values``: further fields of the record."""
    return RunRecord(
        index=spec.index,
        arm=spec.arm,
        seed=spec.seed,
        status="failed",
        error=failure.as_dict(),
        **values,
    )


def identity(spec: RunSpec) -> Mapping[str, Json]:
    """``fingerprint, seed, data_fingerprint``, as ``runs.find`` takes them."""
    return {
        "fingerprint": spec.fingerprint,
        "seed": spec.seed,
        "data_fingerprint": spec.data_fingerprint,
    }
