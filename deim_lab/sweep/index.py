"""The index of a sweep on disk: ``index.json``, a row a run, and ``grid.json``, what was asked for.
Written by one sweep at a time.

A row is ``arm, seed, status, fingerprint, data_fingerprint, run, overrides, seconds, attempts,
error, notebook, where``: ``status`` is ``pending | running | done | failed``, ``run`` the name of
the run's folder, ``notebook`` a path below the folder of runs. Both files are renamed into place,
so a reader finds a whole one at any moment.
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
    """The rows of a sweep, by ``(arm, seed)``; every change is written at once."""

    def __init__(self, plan: Plan) -> None:
        """Take up what an earlier call left in the sweep's folder, and add what is planned. Writes
        nothing yet.
        """
        self.folder = plan.folder
        self._runs_dir = plan.runs_dir
        self._guard = threading.Lock()
        self._over: set[tuple[str, int]] = set()
        self._grid = plan.grid
        self._known = read(self.folder)
        earlier = rows_of(self._known)
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
        # Of arms and seeds not asked for this time. What stands as running was killed: the lock
        # lets one sweep of a name run.
        self.rows |= {
            key: row for key, row in earlier.items() if row["status"] not in ("pending", "running")
        }
        self._created = self._known.get("created") or _stamp()

    def started(self, spec: RunSpec) -> None:
        """A worker has begun with it; said by another thread than its end, which stands."""
        self._change(spec.arm, spec.seed, status="running")

    def ended(self, record: RunRecord) -> None:
        """A worker has come to the end of it."""
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
        """The sweep stops: what ran is pending again."""
        with self._guard:
            for row in self.rows.values():
                if row["status"] == "running":
                    row["status"] = "pending"
        self.write()

    def write(self, *, finished: bool = False) -> None:
        """Write ``index.json``; ``finished``: nothing of this call is left to do."""
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
        """Write ``grid.json``; one that said something else is kept under a name with a number."""
        path, content = self.folder / GRID, self._grid.as_dict()
        if path.exists():
            with contextlib.suppress(ValueError):
                if files.read_json(path) == content:
                    return
            path.rename(files.free_path(path.with_name("grid-1.json")))
        files.write_json(path, content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let no second sweep of this name run. Raises ``ConfigError`` when one does. The system
        lets go of the lock with the process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w", encoding="utf-8") as handle:
            try:
                import fcntl
            except (
                ImportError
            ):  # a system without POSIX locks: two sweeps of one name are the user's to avoid
                yield
                return
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise ConfigError(
                    f"{self.folder} is being run by another process: wait for it, or give this "
                    f"sweep another --name"
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
    """The content of a sweep's ``index.json``; empty where there is none. Raises ``DataError`` for
    one that can't be read.
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    content = files.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise DataError(f"{path} is no index of a sweep")
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
    """Raise ``ConfigError`` where a sweep of this name has runs of another config under the name of
    one of these arms, or of other data.

    ``data_fingerprint``: "" where it isn't known yet.
    """
    begun = [row for row in content.get("runs", []) if row["status"] != "pending"]
    for row in begun:
        arm, other = row["arm"], None
        if arm in fingerprints and row["fingerprint"] != fingerprints[arm]:
            other = (
                f"another configuration under the name of arm {arm!r} (fingerprint "
                f"{row['fingerprint']} there, {fingerprints[arm]} here)"
            )
        elif data_fingerprint and row["data_fingerprint"] != data_fingerprint:
            other = "other data"
        if other is not None:
            raise ConfigError(
                f"{grid.source}: sweep {grid.name!r} holds runs of {other}: give this one a name "
                f"of its own (--name)"
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
