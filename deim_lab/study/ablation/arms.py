"""The parts of a comparison: ``Trial`` (finished run), ``Arm`` (seeds), ``Comparison``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from deim_lab.config.entries import COCO_METRICS

Json = Any

# Arms that differ in one of these keys did different amounts of work. A difference between their
# scores is not the effect of a method.
BUDGET = ("train.epochs", "train.accumulate", "data.batch_size", "data.input_size")


@dataclass(frozen=True, eq=False)
class Trial:
    """One finished run, with its configuration and its logged events.

    Attributes:
        flat: its configuration as dotted keys; a key that an older version of the lab lacked has
            its default.
        scores, epochs: its ``val`` and ``train`` events, one row each.
        lr_highest: highest learning rate of the run (of the base group).
    """

    run: str
    seed: int
    flat: dict[str, Json] = field(repr=False)
    scores: pd.DataFrame = field(repr=False)
    epochs: pd.DataFrame = field(repr=False)
    lr_highest: float
    info: dict[str, Json] = field(repr=False)

    @property
    def data(self) -> tuple[str, str]:
        """Name and fingerprint of the run's data set."""
        return str(self.info["data"].get("name")), str(self.info["data"].get("fingerprint"))

    @property
    def epochs_done(self) -> list[int]:
        """Number of completed epochs at each evaluation (the log counts from 0)."""
        return [int(epoch) + 1 for epoch in self.scores["epoch"]]


@dataclass(frozen=True)
class Unfinished:
    """A run without results: failed, running, killed, pending, or missing on the disk."""

    seed: int
    status: str
    run: str | None
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs of one configuration, one per seed.

    Attributes:
        flat: the configuration of its latest run.
        changes: dotted key → value, where the configuration differs from the baseline's; empty for
            the baseline.
        trials: finished runs, by seed.
        unfinished: all other runs.
    """

    name: str
    flat: dict[str, Json] = field(repr=False)
    trials: tuple[Trial, ...]
    unfinished: tuple[Unfinished, ...] = ()
    changes: dict[str, Json] = field(default_factory=dict)

    def final(self, metric: str) -> dict[int, float]:
        """Map each seed to the score of its last evaluation; undefined scores are left out."""
        scores = {
            trial.seed: float(trial.scores[metric].iloc[-1])
            for trial in self.trials
            if metric in trial.scores
        }
        return {
            seed: score for seed, score in scores.items() if not math.isnan(defined(metric, score))
        }


def defined(metric: str, score: float) -> float:
    """Return ``score``, or NaN if it is undefined: COCO's numbers are then -1 in the log."""
    return math.nan if metric in COCO_METRICS and score < 0 else score


@dataclass(frozen=True, eq=False)
class Comparison:
    """Arms to compare, the baseline first.

    Attributes:
        source: where the arms come from, in words: the sweep, or the runs' preset and data.
        sweep: the sweep's name, or None.
        notes: differences between the runs beyond their arms.
    """

    arms: tuple[Arm, ...]
    source: str
    folder: Path
    sweep: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    @property
    def figures(self) -> Path:
        """Folder for the figures of this comparison: in the sweep's folder, or next to the runs."""
        if self.sweep:
            return self.folder / "sweeps" / self.sweep / "figures"
        trial = self.baseline.trials[0]
        return (
            self.folder
            / "figures"
            / f"ablation_{re.sub(r'[^A-Za-z0-9.-]+', '-', trial.data[0])}_{trial.info['preset']}"
        )

    def budget(self, arm: Arm) -> dict[str, tuple[Json, Json]]:
        """Budget keys in which ``arm`` differs: key → (value of the arm, value of the baseline)."""
        return {
            key: (arm.flat.get(key), self.baseline.flat.get(key))
            for key in BUDGET
            if arm.flat.get(key) != self.baseline.flat.get(key)
        }
