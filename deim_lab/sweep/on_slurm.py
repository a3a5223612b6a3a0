"""Runs as jobs of Slurm, through submitit: one job array a sweep, of which so many run at once; or
as processes of this machine.

Needs this package in the same place on every node, and a file system that all share (``shared``). A
job that is preempted, or that reaches its time limit, is put back into the queue and continues at
its last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deim_lab.errors import ConfigError
from deim_lab.host.optional import require
from deim_lab.sweep.shared import LIVES, arrived, check_counts, died, kill_all, run_on_node
from deim_lab.sweep.spec import Failure, RunRecord, RunSpec, failed

POLL_SECONDS = {"slurm": 2.0, "local": 0.2}
# between questions to Slurm for jobs that ended without a result; submitit alone lets ten minutes
# pass
ASK_SECONDS = 30.0
GRACE_SECONDS = 8.0  # that a cancelled process of this machine gets before it is killed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlurmExecutor:
    """An ``Executor`` over Slurm.

    Attributes:
        folder: of logs and of what submitit hands over; shared by all nodes.
        workers: jobs at once, at most: the limit of the job array.
        partition: of the cluster; None: its default.
        minutes: time limit of a job. One that reaches it is put back into the queue, three times at
            most.
        gpus_per_run: whole GPUs of a run that asks for none itself; Slurm knows no fractions.
        memory_gib: of main memory; None: the cluster's default.
        cpus_per_run: CPU cores.
        cluster: None: Slurm. ``local``: processes of this machine, at most ``workers`` at once,
            with no queue behind them; to try things.
        options: further words for sbatch, such as ``(("account", "vision"), ("qos", "long"))``.

    Raises:
        ConfigError: a number out of range.
    """

    folder: str | Path
    workers: int = 1
    partition: str | None = None
    minutes: int = 240
    gpus_per_run: float = 0
    memory_gib: float | None = None
    cpus_per_run: int = 1
    cluster: Literal["local"] | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_counts(
            workers=self.workers,
            minutes=self.minutes,
            memory_gib=self.memory_gib,
            cpus_per_run=self.cpus_per_run,
        )
        if self.cluster not in (None, "local"):
            raise ConfigError(
                f"cluster {self.cluster!r} is unknown; known: local, or none for Slurm"
            )
        if self.gpus_per_run < 0 or self.gpus_per_run != int(self.gpus_per_run):
            raise ConfigError(
                f"gpus_per_run {self.gpus_per_run!r}: Slurm gives whole GPUs only (the executor "
                f"'ray' shares one among runs)"
            )
        if self.cluster == "local" and self.gpus_per_run:
            raise ConfigError(
                f"gpus_per_run {self.gpus_per_run!r} with cluster 'local': it gives every run the "
                f"same GPUs; take the executor 'local'"
            )

    def execute(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """One record a spec, as jobs end. Raises ``ConfigError`` where submitit or Slurm is absent,
        or a spec asks for other GPUs.
        """
        submitit = require("submitit", extra="slurm", purpose="The sweep executor 'slurm'")
        other = next((spec for spec in specs if spec.gpus not in (0, self.gpus_per_run)), None)
        if other is not None:
            raise ConfigError(
                f"run {other.label} asks for {other.gpus:g} GPUs, its job array gives "
                f"{self.gpus_per_run:g} to each"
            )
        if self.cluster is None and shutil.which("sbatch") is None:
            raise ConfigError(
                "Slurm's sbatch is not on this machine: start the sweep on a login node, or try it "
                "with cluster 'local'"
            )
        queue = self._queue(submitit)
        waiting = deque((spec, 0) for spec in specs)  # with the number of workers that it has lost
        flying: dict[Any, tuple[RunSpec, int]] = {}
        try:
            while waiting or flying:
                # Slurm has a queue, which gets all at once; it holds to the limit itself. A run
                # that is tried again is a job of its own.
                room = (
                    len(waiting)
                    if self.cluster is None
                    else min(self.workers - len(flying), len(waiting))
                )
                batch = [waiting.popleft() for _ in range(room)]
                if batch:
                    flying.update(
                        zip(
                            queue.map_array(_Resumable(), [spec for spec, _ in batch]),
                            batch,
                            strict=True,
                        )
                    )
                for job in self._ended(list(flying)):
                    spec, lost = flying.pop(job)
                    outcome = self._outcome(submitit, job, spec, lost)
                    if isinstance(outcome, RunRecord):
                        yield outcome
                    elif lost + 1 < LIVES:
                        _log.warning("%s: its job died (%s); started again", spec.label, outcome)
                        waiting.append((spec, lost + 1))
                    else:
                        yield died(spec, outcome)
        finally:
            self._cancel(list(flying))

    def _queue(self, submitit: Any) -> Any:
        """submitit's executor with everything that a job is to have."""
        queue = submitit.AutoExecutor(
            folder=Path(self.folder).resolve(), cluster=self.cluster or "slurm"
        )
        wanted: dict[str, Any] = {
            "name": "deim-lab",
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus_per_run,
            "slurm_array_parallelism": self.workers,
        }
        if self.gpus_per_run:
            wanted["gpus_per_node"] = int(self.gpus_per_run)
        if self.memory_gib is not None:
            wanted["mem_gb"] = self.memory_gib
        if self.partition is not None:
            wanted["slurm_partition"] = self.partition
        if self.options:
            wanted["slurm_additional_parameters"] = dict(self.options)
        queue.update_parameters(**wanted)
        return queue

    def _ended(self, jobs: list[Any]) -> list[Any]:
        """Those that are done or dead; waits until there is one, asking Slurm now and then."""
        asked = time.monotonic()
        while jobs:
            found = [job for job in jobs if job.done()]
            if found:
                return found
            time.sleep(POLL_SECONDS[self.cluster or "slurm"])
            if self.cluster is None and time.monotonic() - asked > ASK_SECONDS:
                asked = time.monotonic()
                jobs[0].get_info(mode="force")  # one question for all
        return []

    def _outcome(self, submitit: Any, job: Any, spec: RunSpec, lost: int) -> RunRecord | str:
        """The record of a job that ended, or why there is none."""
        if (
            self.cluster == "local" and not job.paths.result_pickle.exists()
        ):  # on a shared file system it may take its time to show
            return f"no result; its log: {job.paths.stderr}"
        error = job.exception()
        if error is None:
            return arrived(spec, job.result(), lost)
        if isinstance(
            error, submitit.core.utils.FailedJobError
        ):  # run_one never raises: the node can't even load it
            return failed(
                spec,
                Failure(
                    type(error).__name__,
                    f"the job could not start its run; its log: {job.paths.stderr}",
                    str(error),
                ),
                attempts=lost + 1,
            )
        return f"state {job.state}; its log: {job.paths.stderr}"

    def _cancel(self, jobs: list[Any]) -> None:
        """Stop the jobs; those of this machine as Ctrl-C does, so that each ends its kernel, then
        by force with all that they started.
        """
        for job in jobs:
            with contextlib.suppress(ProcessLookupError):
                job.cancel(check=False)
        if self.cluster is None:
            return
        until = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < until and not all(job.done() for job in jobs):
            time.sleep(0.05)
        for job in jobs:
            if not job.done():
                kill_all([int(job.job_id)])


class _Resumable:
    """``run_on_node``, which submitit puts back into the queue as it is: the training inside
    continues by itself.
    """

    def __call__(self, spec: RunSpec) -> RunRecord:
        return run_on_node(spec)

    def checkpoint(self, spec: RunSpec) -> Any:
        """What to submit again when the job is about to be stopped; called by submitit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, spec)
