"""The schedule of a run: epoch → phase, step → learning rate.

It controls augmentation, MixUp, multi-scale, the learning rate, the EMA restart and the timeline
figure. Everything is derived from a few numbers (epochs, warm-up, share of Dense O2O, clean tail,
steps per epoch). The official recipes were written for COCO. With their numbers, a short run or a
small set never leaves the warm-up. So ``build`` rescales the numbers and reports it in ``notices``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from deim_lab.config import Config, ScheduleConfig
from deim_lab.config.entries import KINDS
from deim_lab.errors import ConfigError

WARM_UP_SHARE = 0.10  # largest share of the run
CLEAN_SHARE = 0.20  # largest share of the epochs


class Phase(StrEnum):
    """Augmentation phase of an epoch.

    ``WARM_UP`` and ``CLEAN``: flip and resize only. ``DENSE``: Mosaic and MixUp by their
    probabilities, else as ``PLAIN``. ``PLAIN``: photometric distortion, zoom-out, IoU crop.
    Multi-scale is off only in ``CLEAN``.
    """

    WARM_UP = "warm_up"
    DENSE = "dense"
    PLAIN = "plain"
    CLEAN = "clean"


@dataclass(frozen=True)
class Schedule:
    """Phases and learning rate of one run. Epochs and steps count from 0; ends are exclusive.

    Attributes:
        epochs, steps_per_epoch: length of the run, in optimisation steps.
        dense_start, dense_end, clean_start: first epochs of DENSE, PLAIN and CLEAN.
        lr_warmup_steps: steps of quadratic warm-up.
        lr_final_ratio: last learning rate / base.
        notices: one text for each number that was changed to fit the run or has no effect.
        lr_tail_start: first epoch of the last learning rate; None: ``clean_start``.
        late_match_start: first epoch of the late matching cost (``match.iou_power``); None: no late
            cost.
    """

    epochs: int
    steps_per_epoch: int
    dense_start: int
    dense_end: int
    clean_start: int
    lr_warmup_steps: int
    lr_final_ratio: float
    notices: tuple[str, ...] = ()
    lr_tail_start: int | None = None
    late_match_start: int | None = None

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch in ``[0, epochs)``."""
        if epoch < self.dense_start:
            return Phase.WARM_UP
        if epoch < self.dense_end:
            return Phase.DENSE
        return Phase.PLAIN if epoch < self.clean_start else Phase.CLEAN

    def matches_late(self, epoch: int) -> bool:
        """Whether an epoch uses the late matching cost."""
        return self.late_match_start is not None and epoch >= self.late_match_start

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def lr_factor(self, step: int) -> float:
        """Learning rate of an optimisation step / base learning rate.

        The official rule has four parts: ``(step / warm-up)²``, then 1 up to the end of Dense O2O.
        Then a half cosine down to ``lr_final_ratio`` at the start of the clean tail (or
        ``lr_tail_start``), then constant.
        """
        last = self.clean_start if self.lr_tail_start is None else self.lr_tail_start
        flat, tail = self.dense_end * self.steps_per_epoch, last * self.steps_per_epoch
        if self.lr_warmup_steps and step <= self.lr_warmup_steps:
            return (step / self.lr_warmup_steps) ** 2
        if step <= flat:
            return 1.0
        if step >= tail:
            return self.lr_final_ratio
        progress = (step - flat) / (tail - flat)
        return self.lr_final_ratio + (1 - self.lr_final_ratio) * 0.5 * (
            1 + math.cos(math.pi * progress)
        )


@dataclass(frozen=True)
class _Lengths:
    """Lengths of a schedule, cut to fit a short run, and notices of the changes."""

    warmup_epochs: int
    clean_epochs: int
    lr_warmup_steps: int
    lr_clean_epochs: int | None
    notices: tuple[str, ...] = ()


def build(config: Config, steps_per_epoch: int) -> Schedule:
    """Build the schedule of a run with ``steps_per_epoch`` optimisation steps per epoch.

    Unless ``schedule.unscaled`` is set, the lengths are limited. The warm-up of augmentation and
    learning rate is at most 10 % of the run, the clean tail at most 20 %. Dense O2O has at least
    one epoch if Mosaic or MixUp has a probability above 0. Raises ``ConfigError`` if ``unscaled``
    numbers don't fit the run.
    """
    if steps_per_epoch < 1:
        raise ConfigError(
            f"steps_per_epoch {steps_per_epoch} is below 1. The training set must give one batch."
        )
    epochs = config.train.epochs
    lengths = _lengths(config.schedule, epochs, epochs * steps_per_epoch)
    dense_end, clean_start, dense_notices = _dense(config, lengths)
    late, late_notices = _late_matching(config)
    tail = None
    if lengths.lr_clean_epochs is not None:
        tail = max(epochs - lengths.lr_clean_epochs, dense_end)
    return Schedule(
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        dense_start=lengths.warmup_epochs,
        dense_end=dense_end,
        clean_start=clean_start,
        lr_warmup_steps=lengths.lr_warmup_steps,
        lr_final_ratio=config.schedule.lr_final_ratio,
        notices=(
            *lengths.notices,
            *dense_notices,
            *_endless_warmup(config.schedule, epochs * steps_per_epoch),
            *late_notices,
        ),
        lr_tail_start=tail,
        late_match_start=late,
    )


def _lengths(recipe: ScheduleConfig, epochs: int, steps: int) -> _Lengths:
    """Lengths of the recipe, cut to their share of the run unless ``schedule.unscaled``."""
    if recipe.unscaled:
        if recipe.warmup_epochs + recipe.clean_epochs > epochs:
            raise ConfigError(
                f"schedule.unscaled: warmup_epochs {recipe.warmup_epochs} and clean_epochs "
                f"{recipe.clean_epochs} do not fit into train.epochs {epochs}. Lower them, or "
                f"raise train.epochs."
            )
        return _Lengths(
            recipe.warmup_epochs,
            recipe.clean_epochs,
            recipe.lr_warmup_steps,
            recipe.lr_clean_epochs,
        )
    notices: list[str] = []

    def fitted(name: str, share: float, number: int, unit: str) -> int:
        before: int = getattr(recipe, name)
        after = min(before, int(share * number))
        if after != before:
            notices.append(
                f"schedule.{name} {before} → {after}: at most {share:.0%} of {number} {unit}"
            )
        return after

    warm_up = fitted("warmup_epochs", WARM_UP_SHARE, epochs, "epochs")
    clean = fitted("clean_epochs", CLEAN_SHARE, epochs, "epochs")
    lr_warmup = fitted("lr_warmup_steps", WARM_UP_SHARE, steps, "steps")
    lr_clean = None
    if recipe.lr_clean_epochs is not None:
        lr_clean = fitted("lr_clean_epochs", CLEAN_SHARE, epochs, "epochs")
    return _Lengths(warm_up, clean, lr_warmup, lr_clean, tuple(notices))


def _dense(config: Config, lengths: _Lengths) -> tuple[int, int, list[str]]:
    """End of Dense O2O, start of the clean tail, and notices."""
    recipe, epochs, warm_up = config.schedule, config.train.epochs, lengths.warmup_epochs
    clean_start = epochs - lengths.clean_epochs
    end = min(clean_start, warm_up + round(recipe.dense_share * clean_start))
    if config.augment.mosaic_prob == 0 and config.augment.mixup_prob == 0:
        return end, clean_start, []
    if recipe.dense_share == 0:
        notice = (
            "Dense O2O is never on: schedule.dense_share is 0, so augment.mosaic_prob and "
            "augment.mixup_prob have no effect"
        )
    elif end > warm_up:
        return end, clean_start, []
    elif recipe.unscaled:
        notice = (
            f"Dense O2O is never on: {warm_up} warm-up and {lengths.clean_epochs} clean epochs "
            f"leave none of {epochs} epochs"
        )
    else:
        end = warm_up + 1
        clean_start = max(clean_start, end)
        notice = (
            f"Dense O2O is on in one epoch of {epochs}, although schedule.dense_share "
            f"{recipe.dense_share:g} rounds to no epoch"
        )
    return end, clean_start, [notice]


def _endless_warmup(recipe: ScheduleConfig, steps: int) -> list[str]:
    """A notice if the warm-up of the learning rate is as long as the run."""
    if not recipe.unscaled or recipe.lr_warmup_steps < steps:
        return []
    highest_factor = ((steps - 1) / recipe.lr_warmup_steps) ** 2
    return [
        f"the learning rate never leaves its warm-up of {recipe.lr_warmup_steps} steps: "
        f"{highest_factor:.1%} of optim.lr after {steps} steps"
    ]


def _late_matching(config: Config) -> tuple[int | None, list[str]]:
    """First epoch of the late matching cost, and a notice if it is never used."""
    if config.match.iou_power is None:
        return None, []
    if not KINDS[config.match.name].late_cost:
        return None, [
            f"match.iou_power has no effect: match.kind {config.match.kind} has its own cost"
        ]
    epochs, share = config.train.epochs, config.schedule.late_match_share
    start = epochs - round(share * epochs)
    if start < epochs:
        return start, []
    return start, [
        f"match.iou_power is never used: schedule.late_match_share {share:g} of {epochs} epochs "
        f"rounds to no epoch"
    ]


def multiscale_sizes(base_px: int, repeat: int) -> tuple[int, ...]:
    """The sizes of multi-scale training, which draws one uniformly.

    They go from 0.75 to 1.25 times the base in steps of 32 px (official rule). The base occurs
    ``repeat`` times, which makes it more likely.
    """
    count = base_px // 32 - int(base_px * 0.75 / 32)
    below = [int(base_px * 0.75 / 32) * 32 + 32 * i for i in range(count)]
    above = [int(base_px * 1.25 / 32) * 32 - 32 * i for i in range(count)]
    return (*below, *([base_px] * repeat), *above)
