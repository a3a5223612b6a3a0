"""The index of a sweep on disk: ``index.json`` with a row per run, and ``grid.json``.

A row has ``arm, seed, status, fingerprint, data_fingerprint, run, overrides, seconds, attempts,
error, notebook, where``. ``status`` is ``pending | running | done | failed``, ``run`` is the name
of the run's folder, and ``notebook`` is a path below the folder of runs. One sweep at a time
writes the files. Both files are renamed into place, so a reader always finds a complete file.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deim_lab.errors import ConfigError, DataError
from deim_lab.host import files
from deim_lab.sweep.grid import Grid
from deim_lab.sweep.plan import Plan
from deim_lab.sweep.spec import RunRecord, RunSpec

Json = Any

INDEX, GRID = "index.json", "grid.json"


class Index:
    """The rows of a sweep by ``(arm, seed)``. Every change is written to disk at once."""

    def __init__(self, plan: Plan) -> None:
        """Read the rows of an earlier call and add the planned runs. Writes nothing yet."""
        self.folder = plan.folder
        self._runs_dir = plan.runs_dir
        self._guard = threading.Lock()
        self._over: set[tuple[str, int]] = set()
        self._grid = plan.grid
        content = read(self.folder)
        earlier = rows_of(content)
        self.rows: dict[tuple[str, int], dict[str, Json]] = {}
        for item in plan.runs:
            spec = item.spec
            row = _row(spec)
            before = earlier.pop((spec.arm, spec.seed), None)
            if before is not None and _same(before, spec):
                row |= {
                    key: before.get(key)
                    for key in ("seconds", "attempts", "notebook", "where", "error")
                }
            row |= {
                "status": {"done": "done", "failed": "failed"}.get(item.state, "pending"),
                "run": item.run,
            }
            if item.state == "done":
                row["error"] = None
                notebook = plan.runs_dir / (item.run or "") / "notebook.ipynb"
                row["notebook"] = (
                    self._relative(str(notebook))
                    if item.run and notebook.is_file()
                    else row["notebook"]
                )
            self.rows[spec.arm, spec.seed] = row
        # Keep rows of arms and seeds that this call doesn't request. A row that is still "running"
        # belongs to a killed sweep: the lock lets only one sweep of a name run.
        self.rows |= {
            key: row for key, row in earlier.items() if row["status"] not in ("pending", "running")
        }
        self._created = content.get("created") or _stamp()

    def started(self, spec: RunSpec) -> None:
        """Mark a run as running. A run that has ended keeps its row: another thread reports it."""
        self._change(spec.arm, spec.seed, status="running")

    def ended(self, record: RunRecord) -> None:
        """Write the result of a run into its row."""
        self._over.add((record.arm, record.seed))
        status = "failed" if record.status == "failed" else "done"
        notebook = None if record.notebook is None else self._relative(record.notebook)
        self._change(
            record.arm,
            record.seed,
            status=status,
            run=record.run,
            seconds=record.seconds,
            attempts=record.attempts,
            error=record.error,
            notebook=notebook,
            where=record.where,
        )

    def interrupted(self) -> None:
        """Mark running runs as pending again, when the sweep stops."""
        with self._guard:
            for row in self.rows.values():
                if row["status"] == "running":
                    row["status"] = "pending"
        self.write()

    def write(self, *, finished: bool = False) -> None:
        """Write ``index.json``; ``finished``: no run of this call is left to do."""
        with self._guard:
            files.write_json(
                self.folder / INDEX,
                {
                    "name": self._grid.name,
                    "grid": self._grid.path,
                    "baseline": self._grid.baseline,
                    "created": self._created,
                    "finished": _stamp() if finished else None,
                    "runs": list(self.rows.values()),
                },
            )

    def write_grid(self) -> None:
        """Write ``grid.json``. An earlier file with another grid is renamed to a numbered name."""
        path, content = self.folder / GRID, self._grid.as_dict()
        if path.exists():
            with contextlib.suppress(ValueError):
                if files.read_json(path) == content:
                    return
            path.rename(files.free_path(path.with_name("grid-1.json")))
        files.write_json(path, content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the sweep's lock. Raises ``ConfigError`` where another process holds it.

        The system releases the lock when the process ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w", encoding="utf-8") as handle:
            try:
                import fcntl
            except ImportError:
                # A system without POSIX locks: the user must avoid two sweeps of one name.
                yield
                return
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise ConfigError(
                    f"{self.folder} is being run by another process. Wait until it ends, or give "
                    f"this sweep another --name"
                ) from error
            except OSError:  # a file system without locks
                pass
            yield

    def _change(self, arm: str, seed: int, **values: Json) -> None:
        with self._guard:
            if values["status"] != "running" or (arm, seed) not in self._over:
                self.rows[arm, seed] |= values
        self.write()

    def _relative(self, notebook: str) -> str:
        path = Path(notebook)
        return (
            path.relative_to(self._runs_dir).as_posix()
            if path.is_relative_to(self._runs_dir)
            else str(path)
        )


def read(folder: Path) -> dict[str, Json]:
    """The content of a sweep's ``index.json``; empty without such a file.

    Raises ``DataError`` for a file that can't be read.
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    content = files.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise DataError(
            f"{path} is not the index of a sweep: expected an object with a list 'runs'"
        )
    return content


def rows_of(content: dict[str, Json]) -> dict[tuple[str, int], dict[str, Json]]:
    """``(arm, seed)`` → row."""
    return {(row["arm"], row["seed"]): row for row in content.get("runs", [])}


def check_same(
    grid: Grid,
    fingerprints: Mapping[str, str],
    content: Mapping[str, Json],
    *,
    data_fingerprint: str = "",
) -> None:
    """Raise ``ConfigError`` if the sweep's folder has runs of another config or of other data.

    Configs are compared between arms of the same name. ``data_fingerprint``: "" where it isn't
    known yet.
    """
    begun = [row for row in content.get("runs", []) if row["status"] != "pending"]
    for row in begun:
        arm, other = row["arm"], None
        if arm in fingerprints and row["fingerprint"] != fingerprints[arm]:
            other = (
                f"another configuration under the name of arm {arm!r} (fingerprint "
                f"{row['fingerprint']} on disk, {fingerprints[arm]} in the grid)"
            )
        elif data_fingerprint and row["data_fingerprint"] != data_fingerprint:
            other = "other data"
        if other is not None:
            raise ConfigError(
                f"{grid.source}: sweep {grid.name!r} holds runs of {other}. Give this sweep "
                f"another name (--name)"
            )


def _same(row: dict[str, Json], spec: RunSpec) -> bool:
    return bool(
        row["fingerprint"] == spec.fingerprint and row["data_fingerprint"] == spec.data_fingerprint
    )


def _row(spec: RunSpec) -> dict[str, Json]:
    return {
        "arm": spec.arm,
        "seed": spec.seed,
        "status": "pending",
        "fingerprint": spec.fingerprint,
        "data_fingerprint": spec.data_fingerprint,
        "run": None,
        "overrides": spec.overrides,
        "seconds": None,
        "attempts": 0,
        "error": None,
        "notebook": None,
        "where": None,
    }


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
