"""Find the runs in a folder: all runs, or the run of one experiment."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from deim_lab.errors import ConfigError, DataError, nearest
from deim_lab.host.files import nearest_beside, user_path
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
    """The run of this experiment; None if there is no such run.

    A finished run takes precedence over an interrupted one, and a later run over an earlier one.
    """
    identity = {"fingerprint": fingerprint, "seed": seed, "data_fingerprint": data_fingerprint}
    matching = (
        [run for run in all_runs(runs_dir, status=statuses) if run.identity == identity]
        if user_path(runs_dir).is_dir()
        else []
    )
    return max(matching, key=_precedence, default=None)


def by_identity(runs: Iterable[Run]) -> dict[tuple[str, int, str], Run]:
    """``(fingerprint, seed, data fingerprint)`` → the run that ``find`` would return."""
    return {tuple(run.identity.values()): run for run in sorted(runs, key=_precedence)}


def all_runs(runs_dir: str | Path, *, status: str | Collection[str] | None = None) -> list[Run]:
    """The runs in a folder with a given status, in order of time; ``status`` None: all.

    Damaged run folders are left out with a warning that names them.
    """
    statuses = _statuses(status)
    root = user_path(runs_dir)
    if not root.is_dir():
        raise DataError(f"folder of runs {root} does not exist{nearest_beside(root)}")
    matching = []
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
        if run.status in statuses:
            matching.append(run)
    return matching


def _precedence(run: Run) -> tuple[bool, str, str]:
    """Sort key of the runs of one experiment: unfinished before finished, then by time."""
    return run.status == "done", run.info.get("started", ""), run.folder.name


def _statuses(status: str | Collection[str] | None) -> Collection[str]:
    if status is None:
        return STATUSES
    statuses = (status,) if isinstance(status, str) else status
    for item in statuses:
        if item not in STATUSES:
            raise ConfigError(
                f"unknown status {item!r}{nearest(item, STATUSES)}. Known statuses: "
                f"{', '.join(STATUSES)}"
            )
    return statuses
