"""Plan the runs of a grid, with their status on disk: new, done, interrupted, failed.

``check`` does the checks that need no torch. ``make`` opens the data set, because its fingerprint
belongs to each run's identity.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deim_lab import config as configs
from deim_lab.errors import ConfigError
from deim_lab.host import gpus
from deim_lab.host.files import user_path
from deim_lab.sweep import cost, parameters, worker
from deim_lab.sweep.cost import Cost
from deim_lab.sweep.grid import OWN_PARAMETERS, START, Grid
from deim_lab.sweep.spec import RunSpec, identity

if TYPE_CHECKING:
    from deim_lab.runs import Run

Json = Any
State = Literal["new", "done", "cut", "failed"]

_WORDS: dict[State, str] = {"cut": "interrupted"}  # where the printed word differs
MOST_RUNS = 60  # of a grid that is started without a confirmation

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """One planned run and its status.

    Attributes:
        state: ``done``: nothing is left to do. ``cut``: interrupted; the run continues at its last
            checkpoint.
            ``failed``: the run is tried again.
        run: name of the run's folder; None without a folder.
        epochs, epochs_done: number of epochs in total, and in the run's log.
        cost: estimated time that is left.
    """

    spec: RunSpec
    state: State
    run: str | None
    epochs: int
    epochs_done: int
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """All runs of a grid in the order of their start.

    All arms of a seed start before the next seed, so that an interrupted sweep can be compared.
    """

    grid: Grid
    runs_dir: Path
    runs: tuple[Planned, ...]

    @property
    def folder(self) -> Path:
        """The folder of the sweep's index."""
        return self.runs_dir / "sweeps" / self.grid.name

    def of(self, state: State) -> list[Planned]:
        """The runs with this status."""
        return [item for item in self.runs if item.state == state]

    def left(self, *, retry_failed: bool) -> list[Planned]:
        """The runs that are not done; ``retry_failed``: including the failed ones."""
        settled = ("done",) if retry_failed else ("done", "failed")
        return [item for item in self.runs if item.state not in settled]


def check(grid: Grid, *, max_runs: int = MOST_RUNS, yes: bool = False) -> None:
    """Raise ``ConfigError`` or ``DataError`` for a wrong notebook, no data or too many runs."""
    parameters.check(grid.notebook, dict.fromkeys(OWN_PARAMETERS), grid.parameters)
    worker.check_data(grid.data, on=socket.gethostname())
    number = len(grid.arms) * len(grid.seeds)
    if number > max_runs and not yes:
        raise ConfigError(
            f"{grid.source} makes {number} runs ({len(grid.arms)} arms × {len(grid.seeds)} "
            f"seeds), more than {max_runs}. Confirm with --yes, or raise the limit with "
            f"--max-runs {number}"
        )


def make(
    grid: Grid,
    runs_dir: str | Path,
    *,
    rows: Mapping[tuple[str, int], Json] | None = None,
) -> Plan:
    """Plan the runs of a checked grid, with the status of each run in ``runs_dir``.

    Args:
        rows: ``(arm, seed)`` → the row of the sweep's index, from an earlier call.

    Raises:
        ConfigError, DataError: the data can't be opened, or the sweep's folder holds another grid's
            runs.
    """
    from deim_lab import runs

    root = user_path(runs_dir).absolute()
    runs_on_disk = runs.all_runs(root) if root.is_dir() else []
    by_identity = runs.by_identity(runs_on_disk)
    data_fingerprint = _data_fingerprint(grid)
    specs = _specs(grid, root, data_fingerprint)
    history, kind = cost.history(runs_on_disk), _device_kind(grid)
    planned = []
    for spec in specs:
        config = grid.config(spec.arm)
        run = by_identity.get((spec.fingerprint, spec.seed, spec.data_fingerprint))
        if (
            run is not None
            and config.train.keep_checkpoints == "all"
            and run.config.train.keep_checkpoints != "all"
        ):
            # Training starts anew: the earlier run deleted checkpoints that this run must keep.
            run = None
        state, done = (
            _state(spec, run, (rows or {}).get((spec.arm, spec.seed))),
            0 if run is None else cost.epochs_done(run),
        )
        left = 0.0 if state == "done" else max(0.0, 1 - done / config.train.epochs)
        planned.append(
            Planned(
                spec,
                state,
                None if run is None else run.folder.name,
                config.train.epochs,
                done,
                cost.estimate(config, spec.data_fingerprint, history, kind=kind, share=left),
            )
        )
    return Plan(grid, root, tuple(planned))


def describe(plan: Plan, *, workers: int) -> list[str]:
    """The plan as lines of text.

    The lines show the settings of all runs, the changes of each arm, the status of each run, and
    the time left.
    """
    grid = plan.grid
    lines = [
        f"sweep {grid.name}: {len(plan.runs)} runs = {len(grid.arms)} arms × {len(grid.seeds)} "
        f"seeds, in {plan.folder}"
    ]
    if grid.about:
        lines.append(grid.about)
    lines += [
        f"notebook {grid.notebook}",
        f"preset {grid.preset}, data {_text(grid.data)}",
    ]
    if grid.base:
        lines.append(
            "all runs: "
            + ", ".join(f"{key}={json.dumps(value)}" for key, value in grid.base.items())
        )
    lines += ["", *_arm_lines(grid), ""]
    wide = max(len(item.spec.arm) for item in plan.runs)
    for item in plan.runs:
        spec = item.spec
        line = f"{spec.index:>3}  {spec.arm:<{wide}}  s{spec.seed:<3} {_standing(item):<31} "
        lines.append((line + _time_left(item)).rstrip())
    counts = [
        f"{len(plan.of(state))} {_WORDS.get(state, state)}"
        for state in ("new", "cut", "failed", "done")
        if plan.of(state)
    ]
    costs = [item.cost for item in plan.runs if item.state != "done"]
    return [*lines, "", f"{', '.join(counts)}; {cost.summary(costs, workers=workers)}"]


def _time_left(item: Planned) -> str:
    if item.state == "done":
        return ""
    if item.cost.seconds is None:
        return "time unknown"
    return f"about {cost.in_words(item.cost.seconds)}"


def _specs(grid: Grid, root: Path, data_fingerprint: str) -> list[RunSpec]:
    notebooks = root / "sweeps" / grid.name / "notebooks"
    fingerprints = {arm: _fingerprint(grid, arm) for arm in grid.arms}
    for arm, other in itertools.combinations(grid.arms, 2):
        if fingerprints[arm] == fingerprints[other]:
            raise ConfigError(
                f"{grid.source}: arms {arm!r} and {other!r} differ in {START} alone and start from "
                f"the same weights, so the same run would be made twice"
            )
    specs: list[RunSpec] = []
    for seed in grid.seeds:
        for arm in grid.arms:
            filled = {
                "preset": grid.preset,
                "overrides": grid.overrides(arm),
                "data": grid.data,
                "seed": seed,
                "runs_dir": str(root),
            }
            executed = notebooks / f"{_slug(arm)}_s{seed}_{fingerprints[arm]}.ipynb"
            specs.append(
                RunSpec(
                    index=len(specs),
                    arm=arm,
                    seed=seed,
                    notebook=grid.notebook,
                    parameters={**grid.parameters, **filled},
                    overrides=grid.arms[arm],
                    fingerprint=fingerprints[arm],
                    data_fingerprint=data_fingerprint,
                    runs_dir=str(root),
                    executed=str(executed),
                )
            )
    return specs


def _fingerprint(grid: Grid, arm: str) -> str:
    """The fingerprint of an arm as training computes it, including the weights to start from."""
    config, weights = grid.config(arm), grid.parameters.get("weights")
    if weights is None and config.model.backbone_weights is None:
        return configs.fingerprint(config)
    from deim_lab.weights.start import start_of

    return configs.fingerprint(config, *start_of(config, weights))


def _data_fingerprint(grid: Grid) -> str:
    """The fingerprint of both halves of a data set, as training computes it.

    Raises ``ConfigError`` for arms that read the data in different ways.
    """
    from deim_lab.data import coco

    settings = {arm: grid.config(arm).data for arm in grid.arms}
    first, *others = settings
    for arm in others:
        for key in ("boxes", "on_bad_image", "val_share", "val_seed"):
            here, there = getattr(settings[first], key), getattr(settings[arm], key)
            if here != there:
                raise ConfigError(
                    f"data.{key} is {here!r} in arm {first!r} and {there!r} in arm {arm!r}. All "
                    f"arms must read the data in the same way."
                )
    return coco.joint_fingerprint(*coco.open_source(coco.resolve(grid.data), settings[first]))


def _state(spec: RunSpec, run: Run | None, row: Json) -> State:
    """The status of a run, from its folder and from the sweep's index.

    The index shows whether the notebook came to its end.
    """
    if row is not None and any(row.get(key) != value for key, value in identity(spec).items()):
        row = None  # the row of another experiment
    row_status = None if row is None else row["status"]
    if run is None:
        notebook = row and row["notebook"]
        if (
            row_status == "done"
            and row["run"] is None
            and notebook
            and (Path(spec.runs_dir) / notebook).is_file()
        ):
            return "done"  # a notebook that makes no run
        return "failed" if row_status == "failed" else "new"
    if run.status == "done":
        if row_status not in ("failed", "running") or (run.folder / "notebook.ipynb").is_file():
            return "done"
        # The run is trained, but the notebook didn't come to its end.
        return "failed" if row_status == "failed" else "cut"
    return "failed" if run.status == "failed" else "cut"


def _standing(item: Planned) -> str:
    word = _WORDS.get(item.state, item.state)
    if item.state == "cut" or (item.state == "failed" and item.epochs_done):
        return f"{word} after epoch {item.epochs_done} of {item.epochs}"
    return word


def _arm_lines(grid: Grid) -> list[str]:
    wide = max(len(arm) for arm in grid.arms)
    base = grid.config(grid.baseline)
    before = configs.flatten(base)
    lines = []
    for arm in grid.arms:
        changes = [
            f"{key} {json.dumps(before[key])} → {json.dumps(value)}"
            for key, value in configs.diff(base, grid.config(arm)).items()
        ]
        if arm == grid.baseline:
            changes = ["the baseline"]
        lines.append(f"{arm:<{wide}}  {', '.join(changes)}")
    return lines


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _device_kind(grid: Grid) -> str:
    """``cpu`` or ``cuda``: the kind of device that the runs will use on this machine."""
    device = grid.parameters.get("device") or grid.config(grid.baseline).train.device
    if device != "auto":
        return str(device).partition(":")[0]
    return "cuda" if gpus.visible() else "cpu"


def _slug(text: str) -> str:
    """``text`` as part of a file name on any system; without braces, which papermill fills in."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", text)[:60].strip("-.") or "arm"
