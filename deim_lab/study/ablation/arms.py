"""What is compared: a finished run read whole, an arm (runs of one configuration, a seed each), a
comparison (arms, the baseline first).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from deim_lab.config.entries import COCO_METRICS

Json = Any

# Arms that differ in one of these saw other amounts of work: such a difference is no effect of a
# method.
BUDGET = ("train.epochs", "train.accumulate", "data.batch_size", "data.input_size")


@dataclass(frozen=True, eq=False)
class Trial:
    """One finished run, read.

    Attributes:
        flat: its configuration as dotted keys; what an older version of the lab did not know stands
            at its default.
        scores, epochs: its ``val`` and ``train`` events, a row each.
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
        """Name and fingerprint of its data set."""
        return str(self.info["data"].get("name")), str(self.info["data"].get("fingerprint"))

    @property
    def epochs_done(self) -> list[int]:
        """Epochs done at each evaluation (the log counts from 0)."""
        return [int(epoch) + 1 for epoch in self.scores["epoch"]]


@dataclass(frozen=True)
class Unfinished:
    """A run that can't be compared: failed, still running (or killed), pending, or gone from the
    disk.
    """

    seed: int
    status: str
    run: str | None
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs of one configuration, a seed each.

    Attributes:
        flat: the configuration (that of its latest run).
        changes: what of it differs from the baseline's: dotted key → value; of the baseline itself
            nothing.
        trials: finished runs by seed.
        unfinished: the others.
    """

    name: str
    flat: dict[str, Json] = field(repr=False)
    trials: tuple[Trial, ...]
    unfinished: tuple[Unfinished, ...] = ()
    changes: dict[str, Json] = field(default_factory=dict)

    def final(self, metric: str) -> dict[int, float]:
        """Seed → the score of the last evaluation, without those where it is undefined."""
        found = {
            trial.seed: float(trial.scores[metric].iloc[-1])
            for trial in self.trials
            if metric in trial.scores
        }
        return {
            seed: score for seed, score in found.items() if not math.isnan(defined(metric, score))
        }


def defined(metric: str, score: float) -> float:
    """``score``, or NaN where it is undefined: COCO's numbers are then -1 in the log."""
    return math.nan if metric in COCO_METRICS and score < 0 else score


@dataclass(frozen=True, eq=False)
class Comparison:
    """Arms to compare, the baseline first.

    Attributes:
        source: where they come from, in words: the sweep, or the runs' preset and data.
        sweep: the sweep's name, or None.
        notes: all that makes these runs less alike than they look.
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
        """Where the pictures of this comparison belong: in the sweep's folder, else beside the
        runs.
        """
        if self.sweep:
            return self.folder / "sweeps" / self.sweep / "figures"
        trial = self.baseline.trials[0]
        return (
            self.folder
            / "figures"
            / f"ablation_{re.sub(r'[^A-Za-z0-9.-]+', '-', trial.data[0])}_{trial.info['preset']}"
        )

    def budget(self, arm: Arm) -> dict[str, tuple[Json, Json]]:
        """Where its budget differs from the baseline's: key → (its own, the baseline's)."""
        return {
            key: (arm.flat.get(key), self.baseline.flat.get(key))
            for key in BUDGET
            if arm.flat.get(key) != self.baseline.flat.get(key)
        }
