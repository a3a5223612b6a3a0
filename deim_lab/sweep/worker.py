"""Execute one run of a sweep: papermill runs its notebook in a kernel of this process.

Every executor uses this function. Torch is not imported here: the kernel trains, and an
interrupted run continues by itself.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import re
import shutil
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deim_lab.errors import DataError
from deim_lab.host import files
from deim_lab.sweep import kernel
from deim_lab.sweep.spec import Failure, RunRecord, RunSpec, failed, identity

Json = Any

STARTS = 3  # attempts to start a kernel
LIVES = 2  # number of kernels that a run may use, if each of them dies
START_SECONDS = 180  # many kernels may import their libraries from one disk at the same time
MESSAGE_SECONDS = 180  # a cell's last output may come late on a busy machine
LARGEST_BYTES = 1_000_000  # of an executed notebook without a warning

_log = logging.getLogger(__name__)
_COLOURS = re.compile("\x1b\\[[0-9;]*[A-Za-z]")


def run_one(spec: RunSpec) -> RunRecord:
    """Execute the notebook of ``spec`` and return its record.

    A failed run is a record, never an exception. A kernel that dies (killed, out of memory) is
    started once more; the training inside continues at its last checkpoint. A cell that raises is
    not tried again. The executed notebook is moved into the run's folder as ``notebook.ipynb``. The
    notebook of a failed run, or one that makes no run, stays at ``spec.executed``.
    """
    began, since, attempts = time.monotonic(), datetime.datetime.now(datetime.UTC), 0

    def values() -> dict[str, Json]:
        notebook = spec.executed if Path(spec.executed).is_file() else None
        return {
            "seconds": round(time.monotonic() - began, 3),
            "attempts": attempts,
            "where": where(),
            "notebook": notebook,
        }

    try:
        check_data(spec.parameters.get("data"), on=socket.gethostname())
        Path(spec.executed).parent.mkdir(parents=True, exist_ok=True)
        while True:
            attempts += 1
            failure, again = _attempt(spec, attempts)
            if failure is None:
                break
            if not again:
                return failed(spec, failure, run=_run_name(spec), **values())
            _log.warning("%s: %s; started again", spec.label, failure.message)
        name, finished = _run_name(spec), values()
        if name is None:
            other = _run_on_other_data(spec, since)
            if other is not None:
                return failed(spec, other, **finished)
        else:
            finished["notebook"] = str(
                _move(Path(spec.executed), Path(spec.runs_dir) / name / "notebook.ipynb")
            )
        return RunRecord(
            index=spec.index, arm=spec.arm, seed=spec.seed, status="done", run=name, **finished
        )
    except Exception as error:
        return failed(
            spec, Failure(type(error).__name__, str(error), traceback.format_exc()), **values()
        )


def check_data(data: Json, *, on: str) -> None:
    """Raise ``DataError`` if a data set's folder or files are absent on the host named ``on``.

    Needs no torch and opens no file.
    """
    if data is None or data == "embedded":
        return
    halves = (
        [half for half in data.values() if isinstance(half, Mapping)]
        if isinstance(data, Mapping)
        else []
    )
    paths = [data] if isinstance(data, str) else [path for half in halves for path in half.values()]
    for path in paths:
        if not Path(path).exists():
            raise DataError(
                f"data: {str(path)!r} does not exist on {on}. Every worker must see the data set "
                f"under this path"
            )


def where() -> str:
    """Name of this host, with the GPUs that are assigned to this process, if any."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    return socket.gethostname() + (f" gpu {gpus}" if gpus else "")


def _attempt(spec: RunSpec, attempt: int) -> tuple[Failure | None, bool]:
    """Execute the notebook once: its failure (None on success), and whether to try again."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        with _quiet():
            kernel.execute(
                spec.notebook,
                spec.executed,
                parameters=spec.parameters,
                cwd=Path(spec.notebook).parent,
                start_timeout=START_SECONDS,
                iopub_timeout=MESSAGE_SECONDS,
            )
    except PapermillExecutionError as error:
        lines = _COLOURS.sub("", "\n".join(error.traceback))
        return Failure(str(error.ename), str(error.evalue), lines), False
    except DeadKernelError:
        message = (
            f"the kernel died {attempt} times (killed, or out of memory)"
            if attempt > 1
            else "the kernel died"
        )
        return Failure("DeadKernelError", message), attempt < LIVES
    except RuntimeError as error:
        # jupyter_client has no specific type for a kernel that doesn't start.
        if "Kernel" not in str(error):
            raise
        return Failure("RuntimeError", str(error)), attempt < STARTS
    _slim(Path(spec.executed))
    return None, False


def _run_name(spec: RunSpec) -> str | None:
    """Name of the run's folder; None if the notebook made no run of this identity."""
    from deim_lab import runs

    run = runs.find(spec.runs_dir, **identity(spec))
    return None if run is None else run.folder.name


def _run_on_other_data(spec: RunSpec, since: datetime.datetime) -> Failure | None:
    """The failure of a notebook that trained this config and seed on other data than planned.

    None if the notebook made no such run.
    """
    from deim_lab import runs

    for run in runs.all_runs(spec.runs_dir) if Path(spec.runs_dir).is_dir() else []:
        started = datetime.datetime.fromisoformat(
            str(run.info.get("started") or "1970-01-01T00:00:00+00:00")
        )
        same = (run.identity["fingerprint"], run.identity["seed"]) == (spec.fingerprint, spec.seed)
        if same and started >= since and run.identity["data_fingerprint"] != spec.data_fingerprint:
            return Failure(
                "DataError",
                f"run {run.folder.name} was trained on other data than planned (fingerprint "
                f"{run.identity['data_fingerprint'][:12]}…, planned "
                f"{spec.data_fingerprint[:12]}…). The data set on {socket.gethostname()} differs, "
                f"or it has changed since",
            )
    return None


def _slim(path: Path) -> None:
    """Remove the state of widgets from an executed notebook.

    The state is never shown and can be megabytes. Logs a warning for a notebook above
    ``LARGEST_BYTES``.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["metadata"].pop("widgets", None) is not None:
        files.write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        _log.warning(
            "%s has %.1f MB. Draw fewer or simpler figures in the notebook", path, size / 1e6
        )


def _move(source: Path, target: Path) -> Path:
    """Move a file by renaming; across file systems, copy it next to the target, then rename."""
    with files.writing_whole(target) as temporary:
        shutil.move(source, temporary)
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the logs of papermill and nbclient; the record has everything important."""
    loggers = [logging.getLogger(name) for name in ("papermill", "traitlets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
