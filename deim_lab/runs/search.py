"""The runs in a folder: all of them, or the one of an experiment."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from deim_lab.errors import ConfigError, DataError, nearest
from deim_lab.host.files import nearest_beside
from deim_lab.runs.run import CONFIG, INFO, LOG, STATUSES, Run

_log = logging.getLogger(__name__)


def find(
    runs_dir: str | Path,
    *,
    fingerprint: str,
    seed: int,
    data_fingerprint: str,
    statuses: Collection[str] = STATUSES,
) -> Run | None:
    """The run of this experiment: a finished one before one that was cut, the latest of several;
    None where there is none.
    """
    wanted = {"fingerprint": fingerprint, "seed": seed, "data_fingerprint": data_fingerprint}
    matching = (
        [run for run in all_runs(runs_dir, status=statuses) if run.identity == wanted]
        if Path(runs_dir).is_dir()
        else []
    )
    return max(matching, key=_precedence, default=None)


def by_identity(runs: Iterable[Run]) -> dict[tuple[str, int, str], Run]:
    """``(fingerprint, seed, data fingerprint)`` → the run that ``find`` would give of it."""
    return {tuple(run.identity.values()): run for run in sorted(runs, key=_precedence)}  # type: ignore[misc]


def all_runs(runs_dir: str | Path, *, status: str | Collection[str] | None = None) -> list[Run]:
    """The runs in a folder by time; ``status`` None: all. Damaged run folders are left out with a
    warning that names them.
    """
    wanted = _wanted(status)
    root = Path(runs_dir)
    if not root.is_dir():
        raise DataError(f"folder of runs {root} does not exist{nearest_beside(root)}")
    found = []
    for folder in sorted(
        item
        for item in root.iterdir()
        if any((item / name).exists() for name in (INFO, CONFIG, LOG))
    ):
        try:
            run = Run.open(folder)
        except DataError as error:
            _log.warning("run %s is skipped: %s", folder.name, error)
            continue
        if run.status in wanted:
            found.append(run)
    return found


def _precedence(run: Run) -> tuple[bool, str, str]:
    """Grows from the runs of one experiment that are worth less to those worth more."""
    return run.status == "done", run.info.get("started", ""), run.folder.name


def _wanted(status: str | Collection[str] | None) -> Collection[str]:
    if status is None:
        return STATUSES
    wanted = (status,) if isinstance(status, str) else status
    for item in wanted:
        if item not in STATUSES:
            raise ConfigError(
                f"unknown status {item!r}{nearest(item, STATUSES)}; known: {', '.join(STATUSES)}"
            )
    return wanted
