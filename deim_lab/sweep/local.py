"""Execute runs on this machine, each in a new process with its own GPU slot.

The sweep sends each worker its specification through a pipe and keeps the pipe open. When the
sweep's process ends for any reason, the worker reads the pipe's end; it then ends its kernel and
itself. When a worker dies, the sweep ends the kernel that the worker noted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deim_lab.errors import ConfigError
from deim_lab.host import files, gpus as gpu_ids
from deim_lab.sweep import kernel
from deim_lab.sweep.spec import Failure, RunRecord, RunSpec, failed, to_json
from deim_lab.sweep.worker import run_one, where

LIVES = 2  # number of starts of a worker that dies
POLL_SECONDS = 0.1
STOP_SECONDS = 5.0  # time for a worker to end its kernel, before the worker is killed
_RECORD = "record.json"

_log = logging.getLogger(__name__)


class LocalExecutor:
    """An ``Executor`` that runs processes on this machine.

    Args:
        workers: number of runs at a time.
        gpus: ids as in ``CUDA_VISIBLE_DEVICES``. Each slot sees only one GPU; with more workers
            than GPUs, several slots share a GPU. Without ids the variable stays as it is.

    Simultaneous runs share the CPU's cores: each run gets an equal part as ``OMP_NUM_THREADS``,
    unless that variable is set.
    """

    def __init__(self, workers: int, gpus: str | Sequence[str] = ()) -> None:
        if workers < 1:
            raise ConfigError(f"workers {workers} is below 1. Give at least 1")
        self.workers = workers
        self.gpus = gpu_ids.parse(gpus)

    def execute(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """Yield the record of each run when the run ends; see ``spec.Executor``."""
        waiting = deque((spec, 1) for spec in specs)
        free = list(range(self.workers))[::-1]
        running: list[_Worker] = []
        try:
            while waiting or running:
                while waiting and free:
                    spec, life = waiting.popleft()
                    running.append(self._start(spec, life, free.pop()))
                for worker in [item for item in running if item.process.poll() is not None]:
                    running.remove(worker)
                    free.append(worker.slot)
                    record = worker.finish()
                    if record is None and worker.life < LIVES:
                        _log.warning(
                            "%s: its process %s; started again", worker.spec.label, worker.ending
                        )
                        waiting.appendleft((worker.spec, worker.life + 1))
                    else:
                        yield record or worker.lost()
                if running:
                    time.sleep(POLL_SECONDS)
        finally:
            _stop(running)

    def _start(self, spec: RunSpec, life: int, slot: int) -> _Worker:
        folder = Path(tempfile.mkdtemp(prefix="deim-"))
        log = Path(spec.executed).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "OMP_NUM_THREADS": str(max(1, _cores() // self.workers)),
            **os.environ,
            kernel.FOLDER: str(folder),
        }
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        with log.open("ab" if life > 1 else "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "deim_lab.sweep.local", str(folder)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        assert process.stdin is not None
        # A worker that died at once breaks the pipe; its exit code is reported later.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(to_json(spec)).encode() + b"\n")
            process.stdin.flush()
        return _Worker(spec, life, slot, folder, log, process, time.monotonic())


@dataclass(frozen=True)
class _Worker:
    """A process that executes one run."""

    spec: RunSpec
    life: int
    slot: int
    folder: Path
    log: Path
    process: subprocess.Popen[bytes]
    began: float

    @property
    def ending(self) -> str:
        """Describe how the process ended: by which signal or with which exit code."""
        code = self.process.returncode
        return (
            f"was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with exit code {code}"
        )

    def finish(self) -> RunRecord | None:
        """The record of the ended process; None if it wrote none. Removes its other files."""
        self._clear()
        try:
            record = RunRecord(**json.loads((self.folder / _RECORD).read_text(encoding="utf-8")))
        except OSError:
            return None
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        if record.status == "done":
            self.log.unlink(missing_ok=True)
        return replace(
            record,
            attempts=record.attempts + self.life - 1,
            where=f"{record.where} slot {self.slot}",
        )

    def lost(self) -> RunRecord:
        """The record of a run whose process died at every start."""
        end_of_log = (
            self.log.read_text(encoding="utf-8", errors="replace")[-4000:]
            if self.log.exists()
            else ""
        )
        failure = Failure(
            "WorkerDiedError",
            f"its process {self.ending}, {self.life} times; its output is in {self.log}",
            end_of_log,
        )
        notebook = self.spec.executed if Path(self.spec.executed).is_file() else None
        return failed(
            self.spec,
            failure,
            seconds=round(time.monotonic() - self.began, 3),
            attempts=self.life,
            notebook=notebook,
            where=f"{where()} slot {self.slot}",
        )

    def stop(self) -> None:
        """End the process and its kernel."""
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close_pipe(self) -> None:
        """Close the pipe, which tells the process that the sweep is over."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()

    def _clear(self) -> None:
        self.close_pipe()
        kernel.kill_noted(self.folder)


def _cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.close_pipe()
    for worker in workers:
        worker.stop()


def _serve(folder: Path) -> None:
    """Run a worker: read the specification from the pipe, write the record into ``folder``."""
    spec = RunSpec(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_the_sweep, args=(folder,), daemon=True).start()
    record = run_one(spec)
    files.write_json(folder / _RECORD, to_json(record))


def _end_with_the_sweep(folder: Path) -> None:
    """Wait until the sweep's process ends, then end the kernel and this worker.

    The end of the pipe shows that the sweep's process has ended.
    """
    sys.stdin.buffer.read()
    kernel.kill_noted(folder)
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    _serve(Path(sys.argv[1]))
