"""Runs on disk → arms: by the index of a sweep, or by what the runs' configurations differ in.
Different data never meet unasked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from deim_lab import config as configs, runs
from deim_lab.config import Config
from deim_lab.config.presets import PLAIN_RECIPE, PRESETS
from deim_lab.errors import ConfigError, DataError, nearest
from deim_lab.host import files
from deim_lab.runs import Run
from deim_lab.study.ablation.arms import Arm, Comparison, Trial, Unfinished

Json = Any

# The recipes that PLAIN_RECIPE tells apart, by (classification, Dense O2O on).
_RECIPES: Mapping[tuple[Json, bool | None], str] = {
    ("vfl", False): "plain",
    ("mal", False): "MAL",
    ("vfl", True): "Dense O2O",
    ("mal", True): "DEIM",
}
_EVENTS = ("train", "val", "step")
_HOW_TO_MAKE_RUNS = (
    "`deim-lab sweep grids/components.yaml --runs runs` trains four arms with three seeds each; "
    "`deim-lab demo` trains plain "
    "D-FINE and DEIM once; notebook 03 trains one run."
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
    """The arms of a sweep, or of the runs that lie in ``runs_dir``.

    Args:
        sweep: its name; None: the latest sweep of ``runs_dir``, or its runs where it has none or a
            preset is asked for; False: its runs.
        baseline: arm that the others are compared with; None: the sweep's own, or ``plain``, or the
            arm with the fewest changes.
        names: arm → the name to show instead. Two arms don't become one by it.
        preset, data: only runs of this preset, on this data set (its name, folder or the beginning
            of its fingerprint). A name also admits data sets of that name with several
            fingerprints, which a note then says.

    Raises:
        DataError: nothing to compare is there, or the runs of a sweep saw different data (naming
            both).
        ConfigError: an unknown sweep, arm or preset, with the nearest right name.
    """
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{nearest(preset, PRESETS)}")
    root = Path(runs_dir)
    known = sweeps(root)
    chosen = known[-1] if _latest_sweep(known, sweep, preset) else sweep
    if chosen is True or (chosen and chosen not in known):
        raise ConfigError(
            f"{root} has no sweep {chosen!r}{nearest(str(chosen), known)}; there: "
            f"{', '.join(known) or 'none'}"
        )
    found, notes = (_of_sweep(root, str(chosen)), []) if chosen else _of_runs(root, preset, data)
    found = _one_data(found, data, notes)
    found = [_once_a_seed(arm, notes) for arm in found]
    found = _named(found, names or {})
    where = f"sweep {chosen}" if chosen else _described(found)
    if not _enough(found):
        raise DataError(f"{_too_few(root, found, where)} {_HOW_TO_MAKE_RUNS}")
    own = baseline or (_index(root, str(chosen)).get("baseline") if chosen else None)
    first = _baseline(found, (names or {}).get(str(own), own), asked=baseline is not None)
    ordered = [
        replace(arm, changes=_changes(first, arm))
        for arm in (first, *(arm for arm in found if arm is not first))
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
    """Why there is nothing to compare among the runs of a folder (a sentence), or None where there
    is, or where a sweep is to be read.
    """
    root = Path(runs_dir)
    if sweep or _latest_sweep(sweeps(root), sweep, preset):
        return None
    found, _ = _of_runs(root, preset, data)
    return None if _enough(found) else _too_few(root, found, _described(found))


def _latest_sweep(known: Sequence[str], sweep: str | bool | None, preset: str | None) -> bool:
    return sweep is None and bool(known) and preset is None


def _enough(arms: Iterable[Arm]) -> bool:
    return sum(bool(arm.trials) for arm in arms) >= 2


def _too_few(root: Path, arms: Sequence[Arm], where: str) -> str:
    if not arms:
        return f"{root} has no runs like that yet."
    return f"{root}: {where}: {_listed(arms)}; a comparison takes finished runs of two arms."


def sweeps(runs_dir: str | Path) -> tuple[str, ...]:
    """Names of the sweeps of a folder of runs, the latest last."""
    folder = Path(runs_dir) / "sweeps"
    found = (
        [item.name for item in folder.iterdir() if (item / "index.json").is_file()]
        if folder.is_dir()
        else []
    )
    return tuple(
        sorted(found, key=lambda name: (str(_index(Path(runs_dir), name).get("created")), name))
    )


def overview(runs_dir: str | Path) -> pd.DataFrame:
    """What there is to compare: a row a sweep, and a row for each (preset, data set, starting
    weights) of the runs themselves.

    Columns: ``what, name, data, arms, done, failed, unfinished``. Empty for a folder that is not
    there.
    """
    root, rows = Path(runs_dir), []
    if root.is_dir():
        for name in sweeps(root):
            rows.append(
                {"what": "sweep", "name": name, "data": ""} | _counted(_of_sweep(root, name))
            )
        for (preset, data, _), members in _groups(root).items():
            arms = _by_config(members)
            rows.append({"what": "runs", "name": preset, "data": data[:12]} | _counted(arms))
    return pd.DataFrame(
        rows, columns=["what", "name", "data", "arms", "done", "failed", "unfinished"]
    )


def _counted(arms: Iterable[Arm]) -> dict[str, int]:
    listed = list(arms)
    rest = [item.status for arm in listed for item in arm.unfinished]
    return {
        "arms": len(listed),
        "done": sum(len(arm.trials) for arm in listed),
        "failed": rest.count("failed"),
        "unfinished": len(rest) - rest.count("failed"),
    }


def _index(root: Path, name: str) -> dict[str, Json]:
    path = root / "sweeps" / name / "index.json"
    content = files.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise DataError(f"{path} is no index of a sweep: it lacks the list of runs")
    return content


def _of_sweep(root: Path, name: str) -> list[Arm]:
    """Arms as the index names them."""
    arms: dict[str, tuple[list[Trial], list[Unfinished], dict[str, Json]]] = {}
    for row in _index(root, name)["runs"]:
        trials, rest, flat = arms.setdefault(str(row["arm"]), ([], [], {}))
        flat.update(row.get("overrides") or {})
        folder, status, error = row.get("run"), str(row.get("status")), row.get("error") or {}
        said = f"{error.get('type')}: {error.get('message')}" if error else None
        if status == "done":
            trial, said = _trial(root / str(folder))
            if trial is not None and trial.seed == row["seed"]:
                trials.append(trial)
                continue
            status = "lost"
        rest.append(Unfinished(int(row["seed"]), status, folder, said))
    return [
        Arm(
            arm,
            trials[-1].flat if trials else configs.flatten(Config()) | flat,
            tuple(trials),
            tuple(rest),
        )
        for arm, (trials, rest, flat) in arms.items()
    ]


def _of_runs(root: Path, preset: str | None, data: str | None) -> tuple[list[Arm], list[str]]:
    """Arms of the group (preset, data, weights) that has most to compare: arms first, then runs."""
    groups = {
        key: members
        for key, members in _groups(root, by_name=data).items()
        if preset is None or key[0] == preset
    }
    if data is not None:
        groups = {
            key: members
            for key, members in groups.items()
            if any(_is_data(_data_of(run), data) for run in members)
        }
    by_arms = {key: _by_config(members) for key, members in groups.items()}
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
        f"left aside, as another preset, data set or start: {', '.join(others)}"
    ] if others else []


def _groups(root: Path, by_name: str | None = None) -> dict[tuple[str, str, str], list[Run]]:
    """Runs by preset, data (fingerprint; or the name, where that is what was asked for) and weights
    to start from.
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


def _is_data(data: tuple[str, str], wanted: str) -> bool:
    """Whether ``wanted`` is its name, a folder of that name, or the beginning of its
    fingerprint.
    """
    return data[0] == Path(wanted).name or (len(wanted) >= 6 and data[1].startswith(wanted))


def _by_config(members: Sequence[Run]) -> list[Arm]:
    """Arms of equal configuration, whatever device or loader; named by what sets them apart."""
    together: dict[str, tuple[dict[str, Json], list[Trial], list[Unfinished]]] = {}
    for run in members:
        flat = _flat(run)
        _, trials, rest = together.setdefault(_identity(flat), (flat, [], []))
        trial, why = (
            _trial(run.folder)
            if run.status == "done"
            else (None, (run.info.get("error") or {}).get("message"))
        )
        if trial is not None:
            trials.append(trial)
        else:
            rest.append(
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
        Arm(_name(flat, varying, preset), flat, tuple(trials), tuple(rest))
        for flat, trials, rest in together.values()
    ]


def _name(flat: Mapping[str, Json], varying: Sequence[str], preset: str) -> str:
    """``DEIM, epochs=18``: the recipe if recipes vary, then each other key that differs from the
    preset.
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

    Both are flat configurations. The probabilities alone turn nothing on: a run whose
    ``schedule.dense_share`` is 0 has no epoch for Mosaic and MixUp.
    """
    probabilities = _probabilities(config)
    if probabilities == (0.0, 0.0):
        return False
    if probabilities == _probabilities(preset) and config["schedule.dense_share"] > 0:
        return True
    return None


def _probabilities(flat: Mapping[str, Json]) -> tuple[Json, Json]:
    """The probabilities of Mosaic and MixUp; None where the configuration has no such key."""
    return flat.get("augment.mosaic_prob"), flat.get("augment.mixup_prob")


def _of_preset(name: str) -> dict[str, Json]:
    """The flat configuration of a preset; empty for an unknown name."""
    return configs.flatten(PRESETS[name]) if name in PRESETS else {}


def _trial(folder: Path) -> tuple[Trial | None, str | None]:
    """A finished run read whole; or why it can't be used."""
    try:
        run = Run.open(folder)
        events, flat = run.metrics(_EVENTS), _flat(run)
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


def _flat(run: Run) -> dict[str, Json]:
    return runs.flat_config(run)


def _one_data(arms: list[Arm], data: str | None, notes: list[str]) -> list[Arm]:
    """The arms' runs on one data set. ``DataError`` where there are several and none was asked for;
    with a note where a name is all they share.
    """
    if data is not None:
        arms = [
            replace(arm, trials=tuple(trial for trial in arm.trials if _is_data(trial.data, data)))
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
                f"the runs saw different data: {listed}; pass data= with one of these names or "
                f"fingerprints"
            )
        notes.append(f"the data are the same by name alone, their fingerprints differ: {listed}")
    return arms


def _once_a_seed(arm: Arm, notes: list[str]) -> Arm:
    """The latest run of each seed."""
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
    known = [arm.name for arm in arms]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"names: unknown arm {name!r}{nearest(name, known)}; arms: {', '.join(known)}"
            )
    renamed = [replace(arm, name=names.get(arm.name, arm.name)) for arm in arms]
    twice = [name for name, count in Counter(arm.name for arm in renamed).items() if count > 1]
    if twice:
        raise ConfigError(f"names: two arms would be called {twice[0]!r}")
    return renamed


def _baseline(arms: Sequence[Arm], wanted: str | None, *, asked: bool) -> Arm:
    by_name: dict[str, Arm] = {arm.name: arm for arm in arms}
    if wanted is not None and wanted not in by_name:
        raise ConfigError(
            f"baseline {wanted!r} is no arm{nearest(wanted, by_name)}; arms: {', '.join(by_name)}"
        )
    if wanted is not None and by_name[wanted].trials:
        return by_name[wanted]
    if asked or wanted is not None:
        raise DataError(
            f"the baseline {wanted!r} has no finished run: {_listed(arms)}; name another arm with "
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
    """What ``after`` computes otherwise; weights of a backbone count where their content differs,
    not their path.
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
    """What else the runs differ in, beside what sets the arms apart."""
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
    inside = [arm.name for arm in arms if len({_identity(trial.flat) for trial in arm.trials}) > 1]
    return notes + [f"{name}: its runs have not one and the same configuration" for name in inside]


def _identity(flat: Mapping[str, Json]) -> str:
    """What of a configuration decides what is computed, as text."""
    return json.dumps(
        {key: value for key, value in flat.items() if key not in configs.NOT_IDENTITY},
        sort_keys=True,
    )


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
    """Preset, data set and budget that the runs have in common."""
    trials = [trial for arm in arms for trial in arm.trials]
    if not trials:
        return "runs"
    presets, data = (
        {value(trial) for trial in trials}
        for value in (lambda t: str(t.info["preset"]), lambda t: t.data[0])
    )
    return f"runs of {', '.join(sorted(presets))} on {', '.join(sorted(data))}"
