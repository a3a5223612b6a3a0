"""Numbers measured here, to compare with published ones: finished runs and evaluations.

All published AP are on COCO val2017. An AP on another data set is not comparable and never shares
their axes. An evaluation records what it was scored on (its images, and each class with its boxes).
Only this record decides whether it is COCO val2017, not the name of a folder.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from deim_lab import config as configs, runs
from deim_lab.errors import ConfigError, DataError, nearest
from deim_lab.host import files
from deim_lab.host.files import user_path
from deim_lab.runs import Run
from deim_lab.weights.coco80 import COCO80

Json = Any

KIND = "measured"
VAL2017_IMAGES = 5000
RUN_COLUMNS = (
    "preset",
    "differs",
    "data",
    "images",
    "epochs",
    "seeds",
    "ap_percent",
    "ap_sd_percent",
    "ap50_percent",
    "minutes",
    "device",
    "kind",
)
EVALUATION_COLUMNS = (
    "model",
    "preset",
    "data",
    "images",
    "on_coco",
    "epochs",
    "ap_percent",
    "ap50_percent",
    "device",
    "protocol",
    "file",
    "kind",
)

_log = logging.getLogger(__name__)


def is_coco_val2017(images: int, classes: Iterable[Mapping[Any, Json]]) -> bool:
    """Whether a score covers all of COCO val2017.

    That is 5,000 images, and boxes of each of its 80 classes under their own ids and names.

    Args:
        images: number of scored images.
        classes: ``category_id``, ``name`` and ``boxes`` (of ground truth) of each class, as in
            ``Scores.per_class``.
    """
    classes_with_boxes = {
        (item["category_id"], item["name"]) for item in classes if item["boxes"] > 0
    }
    return images == VAL2017_IMAGES and classes_with_boxes == set(COCO80)


def finished_runs(
    runs_dir: str | Path,
    *,
    preset: str | None = None,
    overrides: Mapping[str, Json] | None = None,
    data: str | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """One row per recipe, data set and device of the finished runs; seeds are averaged.

    Columns ``RUN_COLUMNS``; AP (of the last epoch) in percent. Damaged runs are left out with a
    warning.

    Args:
        runs_dir: a folder that does not exist has no runs.
        preset, data, seed, device: only runs with these values; None: all. ``data`` is a data set's
            name, ``device`` is ``cpu`` or ``cuda``.
        overrides: only runs whose config has these values.

    Raises:
        ConfigError: an override of an unknown key.
    """
    valid_keys = configs.keys()
    for key in overrides or {}:
        if key not in valid_keys:
            raise ConfigError(f"unknown config key {key!r}{nearest(key, valid_keys)}")
    groups: dict[tuple[Json, ...], list[dict[str, Json]]] = {}
    for run in runs.all_runs(runs_dir, status="done") if user_path(runs_dir).is_dir() else []:
        info, place = run.info, str(run.info.get("device") or "unknown")
        limits = ((info["preset"], preset), (info["data"]["name"], data), (info["seed"], seed))
        if any(limit is not None and value != limit for value, limit in limits) or (
            device is not None and not place.startswith(device)
        ):
            continue
        row = _last_score(run, overrides or {})
        if row is not None:
            groups.setdefault(
                (info["preset"], info["fingerprint"], info["data"]["fingerprint"], place), []
            ).append(row | {"device": place})
    return pd.DataFrame([_mean(rows) for rows in groups.values()], columns=list(RUN_COLUMNS))


def evaluations(runs_dir: str | Path) -> pd.DataFrame:
    """One row per evaluation saved by ``deim-lab evaluate``, in runs or in ``evaluations``.

    Columns ``EVALUATION_COLUMNS``; AP in percent. ``on_coco`` marks the evaluations on all of COCO
    val2017. ``epochs`` is given if the detector is a run's. Damaged files are left out with a
    warning.
    """
    root = user_path(runs_dir)
    rows = []
    for path in sorted([*root.glob("*/eval/*.json"), *root.glob("evaluations/*.json")]):
        try:
            rows.append(_evaluation(path, root))
        except (DataError, KeyError, TypeError, ValueError) as error:
            _log.warning("evaluation %s is left out: %s", path, error or type(error).__name__)
    return pd.DataFrame(rows, columns=list(EVALUATION_COLUMNS))


def percent(value: float) -> float:
    """Convert a score in [0, 1] to percent, and the evaluator's -1 (undefined) to NaN."""
    return math.nan if value is None or value < 0 else 100 * value


def _last_score(run: Run, overrides: Mapping[str, Json]) -> dict[str, Json] | None:
    """Final scores of one run; None if it does not match, has no score or cannot be read."""
    try:
        config = run.config
        as_wanted = configs.override(config, overrides) == config
        scores = run.metrics(["val"])
    except ValueError as error:
        _log.warning("run %s is left out: %s", run.folder.name, error)
        return None
    if scores.empty or not as_wanted:
        return None
    last = scores.iloc[-1]
    return {
        "preset": run.info["preset"],
        "differs": _differs(run.info["overrides"]),
        "data": run.info["data"]["name"],
        "images": last.get("images"),
        "epochs": config.train.epochs,
        "seed": run.info["seed"],
        "ap_percent": percent(last["AP"]),
        "ap50_percent": percent(last["AP50"]),
        "minutes": run.info.get("seconds", math.nan) / 60,
    }


def _mean(rows: list[dict[str, Json]]) -> dict[str, Json]:
    latest = list({row["seed"]: row for row in rows}.values())  # one run per seed
    frame = pd.DataFrame(latest)
    return {
        **latest[0],
        "seeds": len(frame),
        "ap_percent": frame["ap_percent"].mean(),
        "ap_sd_percent": frame["ap_percent"].std(),
        "ap50_percent": frame["ap50_percent"].mean(),
        "minutes": frame["minutes"].mean(),
        "kind": KIND,
    }


def _differs(overrides: Mapping[str, Json]) -> str:
    """The overrides that distinguish a recipe from its preset, without the number of epochs.

    The number of epochs has a column of its own.
    """
    return ", ".join(f"{key}={value}" for key, value in overrides.items() if key != "train.epochs")


def _evaluation(path: Path, root: Path) -> dict[str, Json]:
    content = files.read_object(path)
    metrics, of_run = content["metrics"], path.parent.name == "eval"
    run = Run.open(path.parents[1]) if of_run else None
    preset = run.info["preset"] if run is not None else content.get("preset")
    return {
        "model": run.folder.name if run is not None else Path(content["weights"]).stem,
        "preset": preset,
        "data": content["data"]["name"],
        "images": content["images"],
        "on_coco": is_coco_val2017(content["images"], content["per_class"]),
        "epochs": run.config.train.epochs if run is not None else None,
        "ap_percent": percent(metrics["AP"]),
        "ap50_percent": percent(metrics["AP50"]),
        "device": content.get("device"),
        "protocol": content.get("protocol"),
        "file": path.relative_to(root).as_posix(),
        "kind": KIND,
    }
