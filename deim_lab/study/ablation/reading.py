"""Read a comparison: choose the arms, their data and the baseline, and collect warnings.

Runs on different data are never mixed unless requested.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from deim_lab import config as configs
from deim_lab.config.presets import PLAIN_RECIPE, PRESETS
from deim_lab.errors import ConfigError, DataError, nearest
from deim_lab.host.files import user_path
from deim_lab.study.ablation.arms import Arm, Comparison, Trial
from deim_lab.study.ablation.grouping import (
    by_config,
    groups_of,
    identity,
    index,
    is_data,
    of_runs,
    of_sweep,
    sweeps,
)

Json = Any

_HOW_TO_MAKE_RUNS = (
    "`deim-lab sweep components --runs runs` trains four arms with three seeds each; "
    "`deim-lab demo` trains plain D-FINE and DEIM once; notebook 03 trains one run."
)


def read(
    runs_dir: str | Path,
    sweep: str | bool | None = None,
    *,
    baseline: str | None = None,
    names: Mapping[str, str] | None = None,
    preset: str | None = None,
    data: str | None = None,
) -> Comparison:
    """Read the arms of a sweep, or of the runs in ``runs_dir``.

    Args:
        sweep: its name. None: the latest sweep of ``runs_dir``; the runs themselves if there is no
            sweep or a preset is given. False: the runs.
        baseline: arm that the others are compared with. None: the sweep's own baseline, else the
            arm ``plain``, else an arm of the plain recipe, else the arm with the most runs.
        names: arm → the name to show instead. Two arms cannot be merged this way.
        preset, data: only runs of this preset and on this data set (its name, folder or the start
            of its fingerprint). A name also admits data sets of that name with several
            fingerprints; a note then lists them.

    Raises:
        DataError: there is nothing to compare, or the runs of a sweep saw different data (both are
            named).
        ConfigError: an unknown sweep, arm or preset; the message names the nearest valid name.
    """
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{nearest(preset, PRESETS)}")
    root = user_path(runs_dir)
    available = sweeps(root)
    chosen = available[-1] if _latest_sweep(available, sweep, preset) else sweep
    if chosen is True or (chosen and chosen not in available):
        raise ConfigError(
            f"{root} has no sweep {chosen!r}{nearest(str(chosen), available)}; available: "
            f"{', '.join(available) or 'none'}"
        )
    arms, notes = (of_sweep(root, str(chosen)), []) if chosen else of_runs(root, preset, data)
    arms = _one_data(arms, data, notes)
    arms = [_once_a_seed(arm, notes) for arm in arms]
    arms = _named(arms, names or {})
    where = f"sweep {chosen}" if chosen else _described(arms)
    if not _enough(arms):
        raise DataError(f"{_too_few(root, arms, where)} {_HOW_TO_MAKE_RUNS}")
    baseline_name = baseline or (index(root, str(chosen)).get("baseline") if chosen else None)
    first = _baseline(
        arms, (names or {}).get(str(baseline_name), baseline_name), requested=baseline is not None
    )
    ordered = [
        replace(arm, changes=_changes(first, arm))
        for arm in (first, *(arm for arm in arms if arm is not first))
    ]
    notes += _unlike(ordered)
    return Comparison(
        tuple(ordered), where, root, str(chosen) if chosen else None, tuple(dict.fromkeys(notes))
    )


def lacking(
    runs_dir: str | Path,
    sweep: str | bool | None = None,
    *,
    preset: str | None = None,
    data: str | None = None,
) -> str | None:
    """Say in a sentence why the runs of a folder allow no comparison; None if they do.

    Also None if a sweep would be read.
    """
    root = user_path(runs_dir)
    if sweep or _latest_sweep(sweeps(root), sweep, preset):
        return None
    arms, _ = of_runs(root, preset, data)
    return None if _enough(arms) else _too_few(root, arms, _described(arms))


def _latest_sweep(available: Sequence[str], sweep: str | bool | None, preset: str | None) -> bool:
    return sweep is None and bool(available) and preset is None


def _enough(arms: Iterable[Arm]) -> bool:
    return sum(bool(arm.trials) for arm in arms) >= 2


def _too_few(root: Path, arms: Sequence[Arm], where: str) -> str:
    if not arms:
        return f"{root} has no matching runs yet."
    return f"{root}: {where}: {_listed(arms)}. A comparison needs finished runs of two arms."


def overview(runs_dir: str | Path) -> pd.DataFrame:
    """List what can be compared: one row per sweep and per group of runs.

    A group of runs shares the preset, the data set and the starting weights. Columns: ``what, name,
    data, arms, done, failed, unfinished``. Empty for a folder that does not exist.
    """
    root, rows = user_path(runs_dir), []
    if root.is_dir():
        for name in sweeps(root):
            rows.append(
                {"what": "sweep", "name": name, "data": ""} | _counted(of_sweep(root, name))
            )
        for (preset, data, _), members in groups_of(root).items():
            arms = by_config(members)
            rows.append({"what": "runs", "name": preset, "data": data[:12]} | _counted(arms))
    return pd.DataFrame(
        rows, columns=["what", "name", "data", "arms", "done", "failed", "unfinished"]
    )


def _counted(arms: Iterable[Arm]) -> dict[str, int]:
    listed = list(arms)
    statuses = [item.status for arm in listed for item in arm.unfinished]
    return {
        "arms": len(listed),
        "done": sum(len(arm.trials) for arm in listed),
        "failed": statuses.count("failed"),
        "unfinished": len(statuses) - statuses.count("failed"),
    }


def _one_data(arms: list[Arm], data: str | None, notes: list[str]) -> list[Arm]:
    """Keep the arms' runs on one data set.

    Raises ``DataError`` for several data sets if none was requested. Adds a note where data sets
    share
    only their name.
    """
    if data is not None:
        arms = [
            replace(arm, trials=tuple(trial for trial in arm.trials if is_data(trial.data, data)))
            for arm in arms
        ]
    seen = Counter(trial.data for arm in arms for trial in arm.trials)
    if len(seen) > 1:
        listed = ", ".join(
            f"{name} {fingerprint[:12]} ({count} runs)"
            for (name, fingerprint), count in seen.most_common()
        )
        if data is None or len({name for name, _ in seen}) > 1:
            raise DataError(
                f"the runs saw different data: {listed}. Pass data= with one of these names or "
                f"fingerprints"
            )
        notes.append(f"the data sets share their name, but their fingerprints differ: {listed}")
    return arms


def _once_a_seed(arm: Arm, notes: list[str]) -> Arm:
    """Keep the latest run of each seed."""
    latest = {trial.seed: trial for trial in sorted(arm.trials, key=lambda trial: trial.run)}
    if len(latest) < len(arm.trials):
        twice = sorted(
            seed for seed, count in Counter(trial.seed for trial in arm.trials).items() if count > 1
        )
        notes.append(
            f"{arm.name}: seed {', '.join(map(str, twice))} was trained more than once; the latest "
            f"run counts"
        )
    return replace(arm, trials=tuple(latest[seed] for seed in sorted(latest)))


def _named(arms: list[Arm], names: Mapping[str, str]) -> list[Arm]:
    arm_names = [arm.name for arm in arms]
    for name in names:
        if name not in arm_names:
            raise ConfigError(
                f"names: unknown arm {name!r}{nearest(name, arm_names)}; arms: "
                f"{', '.join(arm_names)}"
            )
    renamed = [replace(arm, name=names.get(arm.name, arm.name)) for arm in arms]
    twice = [name for name, count in Counter(arm.name for arm in renamed).items() if count > 1]
    if twice:
        raise ConfigError(f"names: two arms would have the name {twice[0]!r}")
    return renamed


def _baseline(arms: Sequence[Arm], name: str | None, *, requested: bool) -> Arm:
    by_name: dict[str, Arm] = {arm.name: arm for arm in arms}
    if name is not None and name not in by_name:
        raise ConfigError(
            f"baseline {name!r} is not an arm{nearest(name, by_name)}; arms: {', '.join(by_name)}"
        )
    if name is not None and by_name[name].trials:
        return by_name[name]
    if requested or name is not None:
        raise DataError(
            f"the baseline {name!r} has no finished run: {_listed(arms)}. Name another arm with "
            f"baseline="
        )
    finished = [arm for arm in arms if arm.trials]
    return max(
        finished,
        key=lambda arm: (
            arm.name == "plain",
            arm.flat | PLAIN_RECIPE == arm.flat,
            len(arm.trials),
            -len(arm.name),
        ),
    )


def _changes(before: Arm, after: Arm) -> dict[str, Json]:
    """Config keys whose values differ from the arm ``before``.

    Backbone weights count if their content differs, not their path.
    """
    starts = [{_start(trial) for trial in arm.trials} for arm in (before, after)]
    aside = {*configs.NOT_IDENTITY} - (
        {"model.backbone_weights"} if starts[0] != starts[1] else set()
    )
    return {
        key: value
        for key, value in after.flat.items()
        if key not in aside and before.flat.get(key) != value
    }


def _start(trial: Trial) -> str:
    return str((trial.info.get("weights") or {}).get("sha256", "scratch"))[:12]


def _unlike(arms: Sequence[Arm]) -> list[str]:
    """Describe in what else the runs differ, apart from the arms' own differences."""
    trials = [trial for arm in arms for trial in arm.trials]
    notes = []
    for what, value in (
        ("commits of the lab", lambda t: (t.info.get("git") or {}).get("commit", "unknown")[:8]),
        ("versions of torch", lambda t: (t.info.get("versions") or {}).get("torch")),
        ("kinds of device", lambda t: re.sub(r":\d+$", "", str(t.info.get("device")))),
        ("starts (weights)", _start),
    ):
        seen = Counter(value(trial) for trial in trials)
        if len(seen) > 1:
            notes.append(
                f"runs of {len(seen)} {what}: "
                + ", ".join(f"{name} ({count} runs)" for name, count in seen.most_common())
            )
    inside = [arm.name for arm in arms if len({identity(trial.flat) for trial in arm.trials}) > 1]
    return notes + [f"{name}: the configurations of its runs differ" for name in inside]


def _listed(arms: Iterable[Arm]) -> str:
    return ", ".join(
        f"{arm.name} ({len(arm.trials)} done"
        + "".join(
            f", {count} {status}"
            for status, count in Counter(item.status for item in arm.unfinished).items()
        )
        + ")"
        for arm in arms
    )


def _described(arms: Sequence[Arm]) -> str:
    """Describe the preset, data set and budget that the runs have in common."""
    trials = [trial for arm in arms for trial in arm.trials]
    if not trials:
        return "runs"
    presets, data = (
        {value(trial) for trial in trials}
        for value in (lambda t: str(t.info["preset"]), lambda t: t.data[0])
    )
    return f"runs of {', '.join(sorted(presets))} on {', '.join(sorted(data))}"
