"""Group runs into arms: by a sweep's index, or by the config keys in which runs differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deim_lab import config as configs, runs
from deim_lab.config import Config
from deim_lab.config.presets import PLAIN_RECIPE, PRESETS
from deim_lab.errors import DataError
from deim_lab.host import files
from deim_lab.host.files import user_path
from deim_lab.runs import Run
from deim_lab.study.ablation.arms import Arm, Trial, Unfinished

Json = Any

# The recipes that the keys of PLAIN_RECIPE distinguish, by (classification, Dense O2O on).
_RECIPES: Mapping[tuple[Json, bool | None], str] = {
    ("vfl", False): "plain",
    ("mal", False): "MAL",
    ("vfl", True): "Dense O2O",
    ("mal", True): "DEIM",
}

_EVENTS = ("train", "val", "step")


def sweeps(runs_dir: str | Path) -> tuple[str, ...]:
    """Names of the sweeps in a folder of runs, the latest last."""
    folder = user_path(runs_dir) / "sweeps"
    names = (
        [item.name for item in folder.iterdir() if (item / "index.json").is_file()]
        if folder.is_dir()
        else []
    )
    return tuple(
        sorted(names, key=lambda name: (str(index(user_path(runs_dir), name).get("created")), name))
    )


def index(root: Path, name: str) -> dict[str, Json]:
    path = root / "sweeps" / name / "index.json"
    content = files.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise DataError(f"{path} is not the index of a sweep: it has no list of runs")
    return content


def of_sweep(root: Path, name: str) -> list[Arm]:
    """Build the arms of a sweep, with the names from its index."""
    arms: dict[str, tuple[list[Trial], list[Unfinished], dict[str, Json]]] = {}
    for row in index(root, name)["runs"]:
        trials, unfinished, flat = arms.setdefault(str(row["arm"]), ([], [], {}))
        flat.update(row.get("overrides") or {})
        folder, status, error = row.get("run"), str(row.get("status")), row.get("error") or {}
        reason = f"{error.get('type')}: {error.get('message')}" if error else None
        if status == "done":
            trial, reason = _trial(root / str(folder))
            if trial is not None and trial.seed == row["seed"]:
                trials.append(trial)
                continue
            status = "lost"
        unfinished.append(Unfinished(int(row["seed"]), status, folder, reason))
    return [
        Arm(
            arm,
            trials[-1].flat if trials else configs.flatten(Config()) | flat,
            tuple(trials),
            tuple(unfinished),
        )
        for arm, (trials, unfinished, flat) in arms.items()
    ]


def of_runs(root: Path, preset: str | None, data: str | None) -> tuple[list[Arm], list[str]]:
    """Build the arms of the group (preset, data, weights) with the most arms, then most runs."""
    groups = {
        key: members
        for key, members in groups_of(root, by_name=data).items()
        if preset is None or key[0] == preset
    }
    if data is not None:
        groups = {
            key: members
            for key, members in groups.items()
            if any(is_data(_data_of(run), data) for run in members)
        }
    by_arms = {key: by_config(members) for key, members in groups.items()}
    if not by_arms:
        return [], []
    best = max(
        by_arms,
        key=lambda key: (
            min(2, sum(bool(arm.trials) for arm in by_arms[key])),
            sum(len(arm.trials) for arm in by_arms[key]),
            max(run.folder.name for run in groups[key]),
        ),
    )
    others = [
        f"{key[0]} on {groups[key][0].info['data'].get('name')} ({len(members)} runs)"
        for key, members in groups.items()
        if key != best
    ]
    return by_arms[best], [
        f"left out because of another preset, data set or starting weights: {', '.join(others)}"
    ] if others else []


def groups_of(root: Path, by_name: str | None = None) -> dict[tuple[str, str, str], list[Run]]:
    """Group runs by preset, data and starting weights.

    Data are identified by their fingerprint, or by their name if that name is ``by_name``.
    """
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs.all_runs(root) if root.is_dir() else []:
        name, data = _data_of(run)
        if by_name and name == Path(by_name).name:
            data = name
        groups.setdefault(
            (str(run.info["preset"]), data, str((run.info.get("weights") or {}).get("sha256"))), []
        ).append(run)
    return groups


def _data_of(run: Run) -> tuple[str, str]:
    return str(run.info["data"].get("name")), str(run.info["data"].get("fingerprint"))


def is_data(data: tuple[str, str], requested: str) -> bool:
    """Whether ``requested`` is the name, its folder, or a start of the fingerprint."""
    return data[0] == Path(requested).name or (
        len(requested) >= 6 and data[1].startswith(requested)
    )


def by_config(members: Sequence[Run]) -> list[Arm]:
    """Build arms of equal configuration (any device or loader), named after their differences."""
    together: dict[str, tuple[dict[str, Json], list[Trial], list[Unfinished]]] = {}
    for run in members:
        flat = runs.flat_config(run)
        _, trials, unfinished = together.setdefault(identity(flat), (flat, [], []))
        trial, why = (
            _trial(run.folder)
            if run.status == "done"
            else (None, (run.info.get("error") or {}).get("message"))
        )
        if trial is not None:
            trials.append(trial)
        else:
            unfinished.append(
                Unfinished(
                    int(run.info["seed"]),
                    "lost" if run.status == "done" else run.status,
                    run.folder.name,
                    why,
                )
            )
    flats = [flat for flat, _, _ in together.values()]
    varying = [
        key
        for key in flats[0]
        if key not in configs.NOT_IDENTITY and any(flat[key] != flats[0][key] for flat in flats)
    ]
    preset = str(members[0].info["preset"])
    return [
        Arm(_name(flat, varying, preset), flat, tuple(trials), tuple(unfinished))
        for flat, trials, unfinished in together.values()
    ]


def _name(flat: Mapping[str, Json], varying: Sequence[str], preset: str) -> str:
    """Name an arm, as in ``DEIM, epochs=18``: the recipe, then the keys that differ.

    The recipe is named if recipes vary. The other keys are those that differ from the preset.
    """
    usual = _of_preset(preset)
    recipe = None
    if set(varying) & set(PLAIN_RECIPE):
        dense = uses_dense_o2o(flat, _of_preset(f"deim_{preset}") or usual)
        recipe = _RECIPES.get((flat["loss.classification"], dense))
    in_recipe = set(PLAIN_RECIPE) if recipe else set()
    short = Counter(key.rpartition(".")[2] for key in varying)
    labels = {
        key: key if short[key.rpartition(".")[2]] > 1 else key.rpartition(".")[2] for key in varying
    }
    changed = [key for key in varying if key not in in_recipe and flat[key] != usual.get(key)]
    parts = [f"{labels[key]}={flat[key]}" for key in changed]
    return ", ".join([recipe, *parts] if recipe else parts) or preset


def uses_dense_o2o(config: Mapping[str, Json], preset: Mapping[str, Json]) -> bool | None:
    """Whether Dense O2O is on as in a DEIM preset; None for any other setting.

    Both arguments are flat configurations. The probabilities alone turn nothing on: a run with
    ``schedule.dense_share`` 0 has no epoch with Mosaic or MixUp.
    """
    probabilities = _probabilities(config)
    if probabilities == (0.0, 0.0):
        return False
    if probabilities == _probabilities(preset) and config["schedule.dense_share"] > 0:
        return True
    return None


def _probabilities(flat: Mapping[str, Json]) -> tuple[Json, Json]:
    """Probabilities of Mosaic and MixUp; None where the configuration has no such key."""
    return flat.get("augment.mosaic_prob"), flat.get("augment.mixup_prob")


def _of_preset(name: str) -> dict[str, Json]:
    """Flat configuration of a preset; empty for an unknown name."""
    return configs.flatten(PRESETS[name]) if name in PRESETS else {}


def _trial(folder: Path) -> tuple[Trial | None, str | None]:
    """Read a finished run, or return the reason why it cannot be used."""
    try:
        run = Run.open(folder)
        events, flat = run.metrics(_EVENTS), runs.flat_config(run)
    except DataError as error:
        return None, str(error)
    scores, epochs = (
        events[events["kind"] == kind].dropna(axis="columns", how="all").sort_values("epoch")
        for kind in ("val", "train")
    )
    if scores.empty or run.status != "done":
        return None, "it was never evaluated" if scores.empty else f"its folder says {run.status}"
    rates = pd.concat(
        [pd.to_numeric(events[name]) for name in ("lr", "lr_last") if name in events]
        or [pd.Series(dtype=float)]
    )
    return Trial(
        run.folder.name, int(run.info["seed"]), flat, scores, epochs, float(rates.max()), run.info
    ), None


def identity(flat: Mapping[str, Json]) -> str:
    """The keys of a configuration that decide what is computed, as text."""
    return json.dumps(
        {key: value for key, value in flat.items() if key not in configs.NOT_IDENTITY},
        sort_keys=True,
    )
