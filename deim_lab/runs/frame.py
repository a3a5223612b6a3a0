"""Read many runs as one tidy table."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from deim_lab import config as configs
from deim_lab.config import Config
from deim_lab.config.entries import COCO_METRICS
from deim_lab.errors import DataError
from deim_lab.host.files import read_object
from deim_lab.runs.run import CONFIG, Run, frame_of
from deim_lab.runs.search import all_runs

Json = Any

_log = logging.getLogger(__name__)

METRICS = COCO_METRICS

# Columns that every table has, even without runs.
BASE_COLUMNS = (
    "run",
    "status",
    "preset",
    "seed",
    "data",
    "fingerprint",
    "kind",
    "epoch",
    "step",
    *METRICS,
    "targets_per_image",
)


def table(
    runs_dir: str | Path,
    *,
    status: str | Collection[str] | None = ("done",),
    kinds: Collection[str] = ("train", "val"),
) -> pd.DataFrame:
    """All runs of a folder as one tidy frame, with a row per ``train`` or ``val`` event.

    Columns: ``BASE_COLUMNS``, every logged value (dicts flattened with ``/``, lists unchanged), and
    every key that any of the runs overrode. Such a key has the value of each run, with lists as
    tuples for grouping. ``status``: one, several, or None for all. Damaged run folders are left out
    with a warning that names them.
    """
    readable: list[tuple[Run, list[dict[str, Json]], dict[str, Json]]] = []
    for run in all_runs(runs_dir, status=status):
        try:
            readable.append((run, run.rows(kinds), flat_config(run)))
        except DataError as error:
            _log.warning("run %s is skipped: %s", run.folder.name, error)
    overridden = dict.fromkeys(key for run, _, _ in readable for key in run.info["overrides"])
    rows = []
    for run, events, flat in readable:
        info = {key: run.info[key] for key in ("status", "preset", "seed", "fingerprint")}
        values = {
            key: tuple(flat[key]) if isinstance(flat.get(key), list) else flat.get(key)
            for key in overridden
        }
        rows += [
            event | info | {"run": run.folder.name, "data": run.info["data"].get("name")} | values
            for event in events
        ]
    return frame_of(rows, (*BASE_COLUMNS, *overridden))


def flat_config(run: Run) -> dict[str, Json]:
    """Flatten the config of a run from its JSON, so that runs of other versions can be read.

    The keys are those of ``config.flatten``. A setting that the run's version lacked has today's
    default, because that version behaved like today's default. The fingerprint follows the same
    rule.
    """
    return configs.flatten(Config()) | {
        f"{section}.{name}": value
        for section, part in read_object(run.folder / CONFIG).items()
        if isinstance(part, dict)
        for name, value in part.items()
    }
