"""Execute runs as jobs of Slurm through submitit, or as processes of this machine.

A sweep is one job array, with up to ``workers`` jobs at once. Every node needs this package under
the same path and a shared file system (``shared``). A job that is preempted or reaches its time
limit is put back into the queue and continues at its last checkpoint.
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
from deim_lab.host.files import user_path
from deim_lab.host.optional import require
from deim_lab.sweep.shared import LIVES, arrived, check_counts, died, kill_all, run_on_node
from deim_lab.sweep.spec import Failure, RunRecord, RunSpec, failed

POLL_SECONDS = {"slurm": 2.0, "local": 0.2}
# between two queries to Slurm for jobs that ended without a result; submitit's default is ten
# minutes
ASK_SECONDS = 30.0
GRACE_SECONDS = 8.0  # time for a cancelled process of this machine to end, before it is killed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlurmExecutor:
    """An ``Executor`` that uses Slurm.

    Attributes:
        folder: folder of logs and of the files that submitit passes on; shared by all nodes.
        workers: maximum number of jobs at once: the limit of the job array.
        partition: partition of the cluster; None: its default.
        minutes: time limit of a job. A job that reaches the limit is put back into the queue, up
            to three times.
        gpus_per_run: whole GPUs of a run that requests none itself; Slurm has no fractions.
        memory_gib: main memory of a job, in GiB; None: the cluster's default.
        cpus_per_run: CPU cores of a job.
        cluster: None: Slurm. ``local``: processes of this machine, at most ``workers`` at once,
            without a queue; for tests.
        options: further options of sbatch, such as ``(("account", "vision"), ("qos", "long"))``.

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
                f"cluster {self.cluster!r} is unknown. Expected local, or none for Slurm"
            )
        if self.gpus_per_run < 0 or self.gpus_per_run != int(self.gpus_per_run):
            raise ConfigError(
                f"gpus_per_run {self.gpus_per_run!r}: Slurm gives whole GPUs only. The executor "
                f"'ray' can share a GPU among runs"
            )
        if self.cluster == "local" and self.gpus_per_run:
            raise ConfigError(
                f"gpus_per_run {self.gpus_per_run!r} with cluster 'local': every run would get the "
                f"same GPUs. Use the executor 'local'"
            )

    def execute(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """Yield one record per spec, when its job ends.

        Raises ``ConfigError`` if submitit or Slurm is absent, or a spec requests other GPUs.
        """
        submitit = require("submitit", extra="slurm", purpose="The sweep executor 'slurm'")
        other = next((spec for spec in specs if spec.gpus not in (0, self.gpus_per_run)), None)
        if other is not None:
            raise ConfigError(
                f"run {other.label} requests {other.gpus:g} GPUs, but its job array gives "
                f"{self.gpus_per_run:g} to each run"
            )
        if self.cluster is None and shutil.which("sbatch") is None:
            raise ConfigError(
                "Slurm's sbatch is not on this machine. Start the sweep on a login node, or use "
                "cluster 'local'"
            )
        queue = self._queue(submitit)
        waiting = deque((spec, 0) for spec in specs)  # each with its number of lost workers
        flying: dict[Any, tuple[RunSpec, int]] = {}
        try:
            while waiting or flying:
                # Slurm's queue gets all runs at once, and Slurm keeps to the limit. A second try
                # of a run is a separate job.
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
        """submitit's executor with all options of a job."""
        queue = submitit.AutoExecutor(
            folder=user_path(self.folder).resolve(), cluster=self.cluster or "slurm"
        )
        options: dict[str, Any] = {
            "name": "deim-lab",
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus_per_run,
            "slurm_array_parallelism": self.workers,
        }
        if self.gpus_per_run:
            options["gpus_per_node"] = int(self.gpus_per_run)
        if self.memory_gib is not None:
            options["mem_gb"] = self.memory_gib
        if self.partition is not None:
            options["slurm_partition"] = self.partition
        if self.options:
            options["slurm_additional_parameters"] = dict(self.options)
        queue.update_parameters(**options)
        return queue

    def _ended(self, jobs: list[Any]) -> list[Any]:
        """Wait until a job ends, and return all ended jobs. Queries Slurm periodically."""
        last_query = time.monotonic()
        while jobs:
            ended = [job for job in jobs if job.done()]
            if ended:
                return ended
            time.sleep(POLL_SECONDS[self.cluster or "slurm"])
            if self.cluster is None and time.monotonic() - last_query > ASK_SECONDS:
                last_query = time.monotonic()
                jobs[0].get_info(mode="force")  # one query covers all jobs
        return []

    def _outcome(self, submitit: Any, job: Any, spec: RunSpec, lost: int) -> RunRecord | str:
        """The record of a job that ended, or the reason why it has none."""
        # Only for "local": on a shared file system the file may appear late.
        if self.cluster == "local" and not job.paths.result_pickle.exists():
            return f"no result; its log: {job.paths.stderr}"
        error = job.exception()
        if error is None:
            return arrived(spec, job.result(), lost)
        if isinstance(error, submitit.core.utils.FailedJobError):
            # run_one never raises, so the node can't load this package.
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
        """Stop the jobs.

        Jobs of this machine are first stopped as Ctrl-C does, so that each job ends its kernel.
        Then the jobs that remain are killed, with all processes that they started.
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
    """``run_on_node`` as a task that submitit can put back into the queue.

    The training inside continues by itself.
    """

    def __call__(self, spec: RunSpec) -> RunRecord:
        return run_on_node(spec)

    def checkpoint(self, spec: RunSpec) -> Any:
        """The task to submit again when the job is about to be stopped; called by submitit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, spec)
