"""The sweep, to be read top to bottom: grid → checks → plan → runs in processes → index."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab import config as configs
from deim_lab.errors import ConfigError, DataError
from deim_lab.host import gpus as gpu_ids
from deim_lab.host.files import user_path
from deim_lab.sweep import grid as grids, plan as plans
from deim_lab.sweep.grid import Grid
from deim_lab.sweep.plan import MOST_RUNS, Plan, Planned
from deim_lab.sweep.progress import Progress
from deim_lab.sweep.spec import Executor, RunRecord, RunSpec, identity

if TYPE_CHECKING:
    from deim_lab.sweep.index import Index
    from deim_lab.sweep.local import LocalExecutor

Json = Any

LOOK_SECONDS = 2.0  # between two checks for runs that have begun
SAY_SECONDS = 60.0  # between two status lines

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """The result of a sweep.

    Attributes:
        folder: ``<runs_dir>/sweeps/<name>`` with ``index.json`` and ``grid.json``.
        rows: the rows of the index that belong to this call, in the order of the plan:
            ``arm, seed, status, run, error, …`` (``index``).
    """

    name: str
    folder: Path
    baseline: str
    rows: tuple[dict[str, Json], ...]

    @property
    def done(self) -> list[dict[str, Json]]:
        """Rows of finished runs."""
        return [row for row in self.rows if row["status"] == "done"]

    @property
    def failed(self) -> list[dict[str, Json]]:
        """Rows of runs that ended with an error; ``row["error"]`` holds the error."""
        return [row for row in self.rows if row["status"] == "failed"]


def run(
    grid: Grid | str | Path | Mapping[str, Json],
    runs_dir: str | Path = "runs",
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    gpus: str | Sequence[str] | None = None,
    retry_failed: bool = True,
    max_runs: int = MOST_RUNS,
    yes: bool = False,
    **chosen: Json,
) -> Sweep:
    """Execute every run of a grid that isn't done yet, and keep an index of the results.

    Each run has its own process. Finished runs stay as they are, interrupted runs continue at
    their last checkpoint, and failed runs are tried again. A run that fails becomes a row with its
    error; the other runs continue. Stopping the sweep loses at most the work since the last
    checkpoints.

    Args:
        grid: a grid file, its content, or a ``Grid`` that was read before.
        workers: number of runs at a time; None: one per GPU, or one without a GPU.
        executor: where the runs are executed (``RayExecutor``, ``SlurmExecutor``, …); None:
            processes of this machine.
        gpus: ids of GPUs, one per run, as ``0,1`` or a sequence; with more workers than GPUs,
            several runs share a GPU. ``none`` or an empty sequence: assign no GPUs. None: the
            visible GPUs.
        retry_failed: False leaves failed runs as they are.
        max_runs, yes: a grid of more than ``max_runs`` runs is refused unless ``yes``.
        chosen: ``preset, data, overrides, seeds, name, parameters`` of ``grid.read``.

    Raises:
        ConfigError, DataError: an error in grid, notebook or data, before the first run starts.
    """
    listed = None if gpus is None else gpu_ids.parse(gpus)
    plan = prepare(grid, runs_dir, max_runs=max_runs, yes=yes, **chosen)
    if executor is None:
        executor = _on_this_machine(plan.grid, workers, listed)
    from deim_lab.sweep.index import Index

    index = Index(plan)
    with index.locked():
        todo = plan.left(retry_failed=retry_failed)
        index.write_grid()
        index.write(finished=not todo)
        if len(todo) < len(plan.runs):
            _log.info("%d of %d runs are done already", len(plan.of("done")), len(plan.runs))
        if todo:
            _execute(executor, todo, index, workers)
    rows = tuple(dict(index.rows[item.spec.arm, item.spec.seed]) for item in plan.runs)
    return Sweep(plan.grid.name, plan.folder, plan.grid.baseline, rows)


def prepare(
    grid: Grid | str | Path | Mapping[str, Json],
    runs_dir: str | Path = "runs",
    *,
    max_runs: int = MOST_RUNS,
    yes: bool = False,
    **chosen: Json,
) -> Plan:
    """Check a grid and plan its runs, as ``run`` does before the first run starts.

    The plan has the status of each run. The arguments are those of ``run``.
    """
    from deim_lab.sweep import index  # needs no torch, like the checks before the plan

    if isinstance(grid, Grid) and chosen:
        raise ConfigError(
            f"a Grid that was read already takes no {', '.join(chosen)}. Pass them to grid.read"
        )
    resolved = grid if isinstance(grid, Grid) else grids.read(grid, **chosen)
    plans.check(resolved, max_runs=max_runs, yes=yes)
    folder = user_path(runs_dir).absolute() / "sweeps" / resolved.name
    content = index.read(folder)
    # The fingerprint of weights needs torch, for the weights of a detector and of a backbone.
    if resolved.parameters.get("weights") is None:
        light = {
            arm: config
            for arm in resolved.arms
            if (config := resolved.config(arm)).model.backbone_weights is None
        }
        index.check_same(
            resolved, {arm: configs.fingerprint(config) for arm, config in light.items()}, content
        )
    plan = plans.make(resolved, runs_dir, rows=index.rows_of(content))
    index.check_same(
        resolved,
        {item.spec.arm: item.spec.fingerprint for item in plan.runs},
        content,
        data_fingerprint=plan.runs[0].spec.data_fingerprint,
    )
    return plan


def gpus_for(grid: Grid, gpus: str | Sequence[str] | None) -> tuple[str, ...]:
    """The GPUs for the runs of ``grid``, one per run; empty if the runs use the CPU.

    Raises ``ConfigError`` for a wrong list (``gpus.parse``), or if the grid itself names a GPU.
    """
    devices = {
        str(grid.parameters.get("device") or "auto"),
        *(grid.config(arm).train.device for arm in grid.arms),
    } - {"auto"}
    ids = gpu_ids.visible() if gpus is None else gpu_ids.parse(gpus)
    if devices == {"cpu"}:
        return ()
    numbered = sorted(device for device in devices if device.startswith("cuda:"))
    if numbered and ids:
        raise ConfigError(
            f"{grid.source}: device {numbered[0]!r} names a GPU, but the sweep assigns a GPU to "
            f"each run ({', '.join(ids)}). Use 'cuda'"
        )
    return ids


def _on_this_machine(grid: Grid, workers: int | None, gpus: Sequence[str] | None) -> LocalExecutor:
    """An executor on this machine with ``workers`` processes, else one per GPU, else one."""
    from deim_lab.sweep.local import LocalExecutor

    ids = gpus_for(grid, gpus)
    return LocalExecutor(workers or max(1, len(ids)), ids)


def _execute(
    executor: Executor, todo: Sequence[Planned], index: Index, workers: int | None
) -> None:
    """Hand the runs to the executor and write each result into the index."""
    specs = [item.spec for item in todo]
    progress = Progress(
        specs,
        {item.spec.index: item.cost.seconds for item in todo},
        workers=workers or int(getattr(executor, "workers", 1)),
    )
    records = executor.execute(specs)
    finished = False
    try:
        with _watched(specs, index, progress):
            for record in records:
                progress.end(record)
                index.ended(record)
                _log.log(
                    logging.WARNING if record.status == "failed" else logging.INFO,
                    "%s",
                    progress.line(record, _score(specs, record)),
                )
        finished = True
    finally:  # the watching thread has ended, so no run can be marked as running from here on
        close = getattr(records, "close", None)
        if close is not None:
            close()
        if not finished:
            index.interrupted()
    index.write(finished=True)


@contextlib.contextmanager
def _watched(specs: Sequence[RunSpec], index: Index, progress: Progress) -> Iterator[None]:
    """Note which runs have begun and log a periodic status, based on the files of the runs."""
    over = threading.Event()
    before = {spec.index: _changed(spec) for spec in specs}

    def look() -> None:
        looks = 0
        while not over.wait(LOOK_SECONDS):
            under_way = {spec.index for spec in progress.running}
            for spec in specs:
                if not progress.is_known(spec.index) and _changed(spec) != before[spec.index]:
                    progress.start(spec.index)
                    index.started(spec)
            looks += 1
            if under_way and looks % round(SAY_SECONDS / LOOK_SECONDS) == 0:
                _log.info("%s", progress.summary(_epochs(progress.running)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _changed(spec: RunSpec) -> int | None:
    """Time at which a run's executed notebook was last written; None before the run begins."""
    try:
        return Path(spec.executed).stat().st_mtime_ns
    except OSError:
        return None


def _epochs(specs: Sequence[RunSpec]) -> dict[int, tuple[int, int]]:
    """Run's index → (finished epochs, planned epochs), for runs that have a folder."""
    from deim_lab import runs
    from deim_lab.sweep.cost import epochs_done

    epochs = {}
    for spec in specs:
        run = runs.find(spec.runs_dir, **identity(spec))
        if run is not None:
            epochs[spec.index] = epochs_done(run), run.config.train.epochs
    return epochs


def _score(specs: Sequence[RunSpec], record: RunRecord) -> str:
    """``AP 0.312`` of a finished run's last evaluation; "" for a run without an evaluation."""
    if record.status != "done":
        return ""
    if record.run is None:
        return "no run folder was made"
    from deim_lab.runs import Run

    folder = Path(next(spec for spec in specs if spec.index == record.index).runs_dir) / record.run
    try:
        last = [
            event["AP"]
            for event in Run.open(folder).events()
            if event["kind"] == "val" and event.get("AP") is not None
        ][-1:]
    except DataError as error:
        _log.warning("%s", error)
        return ""
    return f"AP {last[0]:.3f}" if last else ""
