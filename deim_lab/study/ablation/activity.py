"""Check from a run's own log that its arm's factor was active.

An arm whose factor was never active is no evidence for or against that factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from deim_lab.config import LossConfig, MatchConfig
from deim_lab.config.entries import CLASSIFICATION, KINDS, OPERATIONS
from deim_lab.study.ablation.arms import Arm, Comparison, Trial

Json = Any

# Least share of optim.lr that counts as reached. Step lines may miss the peak of a run without a
# flat part.
LR_REACHED = 0.95
_MOSAIC = (
    "augment.mosaic_prob",
    "augment.mosaic_tile_px",
    "augment.mosaic_rotation_deg",
    "augment.mosaic_translate",
    "augment.mosaic_scale",
)
_LENGTHS = ("schedule.warmup_epochs", "schedule.clean_epochs", "schedule.dense_share")
_MIXUP = ("augment.mixup_prob", "augment.mixup_ratio")


@dataclass(frozen=True)
class Activity:
    """What an arm's runs did, as means over its seeds; NaN where the log lacks the value.

    Attributes:
        targets_per_image: over the entire run; ``targets_dense`` in the epochs with Mosaic or
            MixUp.
        dense_epochs: epochs with Mosaic or MixUp.
        mosaic_share: share of the images of the entire run; ``mixup_share`` of its steps.
        lr_reached: highest learning rate divided by ``optim.lr``.
        classification: the loss, with its γ.
        applied: added augmentation → share of the images of the entire run.
        doubts: sentences on why the factor cannot have had an effect; empty if there is no reason.
    """

    targets_per_image: float
    targets_dense: float
    dense_epochs: float
    mosaic_share: float
    mixup_share: float
    positives_per_image: float
    lr_reached: float
    classification: str
    matching: str
    applied: dict[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()


def loss_of(flat: Mapping[str, Json]) -> tuple[str, float | None, float | None]:
    """Return the classification loss, γ and α in force: given values or the loss's defaults."""
    loss = LossConfig(
        **{name: flat[f"loss.{name}"] for name in ("classification", "gamma", "alpha")}
    )
    return loss.classification, loss.effective_gamma, loss.effective_alpha


def activity(arm: Arm, comparison: Comparison) -> Activity:
    """Measure the activity of ``arm`` and compare it with the baseline of ``comparison``."""
    measured = pd.DataFrame(
        [_of_trial(trial) for trial in arm.trials], columns=list(_COLUMNS)
    ).mean()
    return Activity(
        **{str(name): float(value) for name, value in measured.items()},
        classification=_loss_in_words(arm),
        matching=str(arm.flat["match.kind"]),
        applied=_applied(arm),
        doubts=tuple(doubts(arm, comparison.baseline)),
    )


def _applied(arm: Arm) -> dict[str, float]:
    """Share of the images that each added augmentation changed, averaged over the seeds."""
    names = list(arm.flat.get("augment.extra") or ())
    return {
        name: float(
            pd.Series([_column(t.epochs, f"applied/{name}").mean() for t in arm.trials]).mean()
        )
        for name in names
    }


def _loss_in_words(arm: Arm) -> str:
    """Name the loss with its γ (``MAL γ=1.5``); a loss without γ by its label alone."""
    kind, gamma, _ = loss_of(arm.flat)
    label = CLASSIFICATION.label(kind)
    return label if gamma is None else f"{label} γ={gamma:g}"


_COLUMNS = (
    "targets_per_image",
    "targets_dense",
    "dense_epochs",
    "mosaic_share",
    "mixup_share",
    "positives_per_image",
    "lr_reached",
)


def doubts(arm: Arm, baseline: Arm) -> list[str]:
    """Reasons why ``arm`` cannot show the effect of its factor.

    For the baseline itself, only the learning rate is checked.
    """
    if not arm.trials:
        return []
    if arm is baseline or not baseline.trials:
        return _learning_rate(arm)
    return [
        *_learning_rate(arm),
        *_mixing(arm, baseline, _MOSAIC, "mosaic_share", "Mosaic"),
        *_mixing(arm, baseline, _MIXUP, "mixup_share", "MixUp"),
        *_extra(arm),
        *(_phases(arm, baseline) or _dense_share(arm, baseline)),
        *_loss(arm, baseline),
        *_matching(arm),
        *_same_numbers(arm, baseline),
    ]


def _learning_rate(arm: Arm) -> list[str]:
    lr_shares = {trial.seed: _lr_reached(trial) for trial in arm.trials}
    short = {
        seed: share
        for seed, share in lr_shares.items()
        if not share >= LR_REACHED and arm.flat["optim.lr"] > 0
    }
    if not short:
        return []
    seeds = f"seed {', '.join(map(str, sorted(short)))}"
    if any(math.isnan(share) for share in short.values()):
        return [f"the learning rate is not in the log ({seeds})"]
    return [
        f"the learning rate never left its warm-up: the highest was {min(short.values()):.1%} of "
        f"optim.lr {arm.flat['optim.lr']:g} ({seeds})"
    ]


def _mixing(arm: Arm, baseline: Arm, keys: tuple[str, ...], column: str, name: str) -> list[str]:
    """Doubt about Mosaic or MixUp that an arm changes but never applied (key ``keys[0]``)."""
    changed = [key for key in keys if key in arm.changes]
    if not changed:
        return []
    share, probability = _highest(arm, column), arm.flat[keys[0]]
    if math.isnan(share):
        return [f"the log has no {column}: nothing proves that {name} was on"]
    if probability > 0 and share == 0:
        return [f"{name} was requested ({keys[0]} {probability:g}) but never happened"]
    if share == 0 and _highest(baseline, column) == 0:
        return [
            f"{' and '.join(changed)} changed nothing: {name} never happened in this arm or in "
            f"the baseline"
        ]
    return []


def _extra(arm: Arm) -> list[str]:
    """Doubts about added augmentations that an arm turns on but never applied."""
    if "augment.extra" not in arm.changes:
        return []
    doubts_of_it = []
    for name in arm.flat["augment.extra"]:
        share, label = _highest(arm, f"applied/{name}"), OPERATIONS.label(name)
        if math.isnan(share):
            doubts_of_it.append(
                f"the log has no applied/{name}: nothing proves that {label} was on"
            )
        elif share == 0:
            doubts_of_it.append(f"{label} was requested (augment.extra) but never happened")
    return doubts_of_it


def _dense_share(arm: Arm, baseline: Arm) -> list[str]:
    """Doubt about a changed ``schedule.dense_share`` without Mosaic or MixUp in either arm."""
    shares = [
        _highest(side, column)
        for side in (arm, baseline)
        for column in ("mosaic_share", "mixup_share")
    ]
    if "schedule.dense_share" not in arm.changes or any(share > 0 for share in shares):
        return []
    return [
        "schedule.dense_share changed no image, only the learning rate: neither Mosaic nor MixUp "
        "ever happened"
    ]


def _matching(arm: Arm) -> list[str]:
    """Doubt about one-to-many matching that never gave a target a second query."""
    kind = arm.flat["match.kind"]
    entry = KINDS.get(MatchConfig(kind=kind).name)
    one_to_many = entry is not None and (entry.divided_by == "pairs" or entry.query_groups)
    if "match.kind" not in arm.changes or not one_to_many or _more_than_one_to_one(arm):
        return []
    name = KINDS.label(kind) if kind in KINDS else f"match.kind {kind}"
    return [f"{name} never gave a target more than one query"]


def _same_numbers(arm: Arm, baseline: Arm) -> list[str]:
    """Doubt about a change after which every run has the same numbers as the baseline."""
    if not _identical(arm, baseline):
        return []
    return [
        "its numbers equal the baseline's to the last digit for every shared seed: the change "
        "has no effect here"
    ]


def _loss(arm: Arm, baseline: Arm) -> list[str]:
    """Doubt about a γ or α that is written differently but has the same value."""
    changed = [key for key in ("loss.gamma", "loss.alpha") if key in arm.changes]
    if (
        not changed
        or "loss.classification" in arm.changes
        or loss_of(arm.flat) != loss_of(baseline.flat)
    ):
        return []
    return [f"{' and '.join(changed)} only repeat the value in force: the loss is the baseline's"]


def _phases(arm: Arm, baseline: Arm) -> list[str]:
    """Doubt about changed phase lengths when every epoch has its phase of the baseline.

    A short run clips the phases. (The numbers are no test: on a GPU, equal runs differ too.)
    """
    if not arm.changes or set(arm.changes) - set(_LENGTHS):
        return []
    phases = [
        {tuple(trial.epochs["phase"]) for trial in side.trials if "phase" in trial.epochs}
        for side in (arm, baseline)
    ]
    same = len(phases[0]) == 1 and phases[0] == phases[1]
    return (
        [
            f"{' and '.join(arm.changes)} changed nothing: every epoch has the same phase as in "
            f"the baseline"
        ]
        if same
        else []
    )


def _more_than_one_to_one(arm: Arm) -> bool:
    return any(
        (trial.epochs["positives_per_image"] > trial.epochs["targets_per_image"]).any()
        for trial in arm.trials
        if {"positives_per_image", "targets_per_image"} <= set(trial.epochs)
    )


def _identical(arm: Arm, baseline: Arm) -> bool:
    """Whether every evaluation of every shared seed gave the same numbers in both arms."""
    others = {trial.seed: trial for trial in baseline.trials}
    pairs = [(trial, others[trial.seed]) for trial in arm.trials if trial.seed in others]
    return bool(pairs) and all(
        _numbers(trial) == _numbers(partner) and _losses(trial) == _losses(partner)
        for trial, partner in pairs
    )


def _numbers(trial: Trial) -> list[list[Json]]:
    return (
        trial.scores[[name for name in ("epoch", "AP", "AP50", "AP75") if name in trial.scores]]
        .to_numpy()
        .tolist()
    )


def _losses(trial: Trial) -> list[Json]:
    return trial.epochs["matched_iou"].tolist() if "matched_iou" in trial.epochs else []


def _of_trial(trial: Trial) -> dict[str, float]:
    epochs = trial.epochs
    mosaic, mixup = (_column(epochs, name) for name in ("mosaic_share", "mixup_share"))
    dense = (mosaic.fillna(0) > 0) | (mixup.fillna(0) > 0)
    targets = _column(epochs, "targets_per_image")
    return {
        "targets_per_image": targets.mean(),
        "targets_dense": targets[dense].mean(),
        "dense_epochs": float(dense.sum()),
        "mosaic_share": mosaic.mean(),
        "mixup_share": mixup.mean(),
        "positives_per_image": _column(epochs, "positives_per_image").mean(),
        "lr_reached": _lr_reached(trial),
    }


def _lr_reached(trial: Trial) -> float:
    target = float(trial.flat["optim.lr"])
    return trial.lr_highest / target if target else math.nan


def _highest(arm: Arm, column: str) -> float:
    """Lowest over the runs of the highest value over the epochs: every run must prove it."""
    highest = [float(_column(trial.epochs, column).max()) for trial in arm.trials]
    return math.nan if not highest or any(math.isnan(share) for share in highest) else min(highest)


def _column(epochs: pd.DataFrame, name: str) -> pd.Series:
    return (
        pd.to_numeric(epochs[name])
        if name in epochs
        else pd.Series(math.nan, index=epochs.index, dtype=float)
    )
