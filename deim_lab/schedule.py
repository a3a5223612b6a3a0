"""Epoch → Phase, step → learning rate: the one owner of every switch in time.

Augmentation, MixUp, multi-scale, the learning rate, the EMA restart and the timeline figure all ask
here. Everything is derived from few numbers (epochs, warm-up, share of Dense O2O, clean tail, steps
an epoch). The official recipes were written for COCO; on a short run or a small set their numbers
never leave the warm-up, so ``build`` rescales them and says so in ``notices``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from deim_lab.config import Config
from deim_lab.errors import ConfigError

WARM_UP_SHARE = 0.10  # of the run, at most
CLEAN_SHARE = 0.20  # of the epochs, at most


class Phase(StrEnum):
    """What happens to an image in an epoch.

    ``WARM_UP`` and ``CLEAN``: flip and resize only. ``DENSE``: Mosaic and MixUp by their
    probabilities, else as ``PLAIN``. ``PLAIN``: photometric distortion, zoom-out, IoU crop.
    Multi-scale is off in ``CLEAN`` alone.
    """

    WARM_UP = "warm_up"
    DENSE = "dense"
    PLAIN = "plain"
    CLEAN = "clean"


@dataclass(frozen=True)
class Schedule:
    """Every switch of one run. Epochs and steps count from 0; an end is exclusive.

    Attributes:
        epochs, steps_per_epoch: length of the run, in optimisation steps.
        dense_start, dense_end, clean_start: first epochs of DENSE, PLAIN and CLEAN.
        lr_warmup_steps: steps of quadratic warm-up.
        lr_final_ratio: last learning rate over the base.
        notices: one sentence for each number that was changed to fit the run, or that can't have an
            effect.
        lr_tail_start: first epoch of the last learning rate; None: ``clean_start``.
        late_match_start: first epoch of the late matching cost (``match.iou_power``); None: there
            is none.
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
        """Whether an epoch matches by the late cost."""
        return self.late_match_start is not None and epoch >= self.late_match_start

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def lr_factor(self, step: int) -> float:
        """Learning rate of an optimisation step over its base: quadratic warm-up, flat until Dense
        O2O ends, cosine, flat.

        Follows the official rule: ``(step / warm-up)²``; 1 up to the end of Dense O2O; a half
        cosine down to ``lr_final_ratio`` at the start of the clean tail (or ``lr_tail_start``);
        constant from there.
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


def build(config: Config, steps_per_epoch: int) -> Schedule:
    """The schedule of ``config`` on a set that makes ``steps_per_epoch`` optimisation steps an
    epoch.

    Unless ``schedule.unscaled``: warm-up of augmentation and learning rate at most 10 % of the run,
    clean tail at most 20 %, and at least one epoch of Dense O2O where Mosaic or MixUp is asked for.
    Raises ``ConfigError`` when ``unscaled`` numbers don't fit the run.
    """
    if steps_per_epoch < 1:
        raise ConfigError(
            f"steps_per_epoch {steps_per_epoch} is below 1: the training set makes no batch"
        )
    wanted, epochs = config.schedule, config.train.epochs
    notices: list[str] = []
    warm_up, clean, lr_warmup = wanted.warmup_epochs, wanted.clean_epochs, wanted.lr_warmup_steps
    lr_clean = wanted.lr_clean_epochs
    if not wanted.unscaled:
        warm_up = min(warm_up, int(WARM_UP_SHARE * epochs))
        clean = min(clean, int(CLEAN_SHARE * epochs))
        lr_warmup = min(lr_warmup, int(WARM_UP_SHARE * epochs * steps_per_epoch))
        lr_clean = None if lr_clean is None else min(lr_clean, int(CLEAN_SHARE * epochs))
        notices += [
            f"{name} {before} → {after}: at most {share:.0%} of {whole}"
            for name, before, after, share, whole in (
                (
                    "schedule.warmup_epochs",
                    wanted.warmup_epochs,
                    warm_up,
                    WARM_UP_SHARE,
                    f"{epochs} epochs",
                ),
                (
                    "schedule.clean_epochs",
                    wanted.clean_epochs,
                    clean,
                    CLEAN_SHARE,
                    f"{epochs} epochs",
                ),
                (
                    "schedule.lr_warmup_steps",
                    wanted.lr_warmup_steps,
                    lr_warmup,
                    WARM_UP_SHARE,
                    f"{epochs * steps_per_epoch} steps",
                ),
                (
                    "schedule.lr_clean_epochs",
                    wanted.lr_clean_epochs,
                    lr_clean,
                    CLEAN_SHARE,
                    f"{epochs} epochs",
                ),
            )
            if before != after
        ]
    elif warm_up + clean > epochs:
        raise ConfigError(
            f"schedule.unscaled: warmup_epochs {warm_up} and clean_epochs {clean} do not fit into "
            f"train.epochs {epochs}"
        )

    clean_start = epochs - clean
    dense_end = min(clean_start, warm_up + round(wanted.dense_share * clean_start))
    asks_dense = config.augment.mosaic_prob > 0 or config.augment.mixup_prob > 0
    if asks_dense and wanted.dense_share == 0:
        notices.append(
            "Dense O2O is never on: schedule.dense_share is 0, so augment.mosaic_prob and "
            "augment.mixup_prob have no effect"
        )
    elif asks_dense and dense_end <= warm_up:
        if wanted.unscaled:
            notices.append(
                f"Dense O2O is never on: {warm_up} warm-up and {clean} clean epochs leave none of "
                f"{epochs} to it"
            )
        else:
            dense_end = warm_up + 1
            clean_start = max(clean_start, dense_end)
            notices.append(
                f"Dense O2O is on in one epoch of {epochs}, although schedule.dense_share "
                f"{wanted.dense_share:g} rounds to none"
            )
    if wanted.unscaled and lr_warmup >= epochs * steps_per_epoch:
        reached = ((epochs * steps_per_epoch - 1) / lr_warmup) ** 2
        notices.append(
            f"the learning rate never leaves its warm-up of {lr_warmup} steps: {reached:.1%} of "
            f"optim.lr after "
            f"{epochs * steps_per_epoch} steps"
        )
    late = (
        None if config.match.iou_power is None else epochs - round(wanted.late_match_share * epochs)
    )
    if late is not None and config.match.kind == "simota":
        notices.append("match.iou_power has no effect: match.kind simota has a cost of its own")
        late = None
    elif late == epochs:
        notices.append(
            f"match.iou_power is never used: schedule.late_match_share {wanted.late_match_share:g} "
            f"of {epochs} epochs rounds to none"
        )
    return Schedule(
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        dense_start=warm_up,
        dense_end=dense_end,
        clean_start=clean_start,
        lr_warmup_steps=lr_warmup,
        lr_final_ratio=wanted.lr_final_ratio,
        notices=tuple(notices),
        lr_tail_start=None if lr_clean is None else max(epochs - lr_clean, dense_end),
        late_match_start=late,
    )


def multiscale_sizes(base_px: int, repeat: int) -> tuple[int, ...]:
    """The sizes that multi-scale training draws from, uniformly; the base stands ``repeat`` times
    among them.

    From 0.75 to 1.25 times the base in steps of 32 px (official rule; duplicates are what makes the
    base likelier).
    """
    count = base_px // 32 - int(base_px * 0.75 / 32)
    below = [int(base_px * 0.75 / 32) * 32 + 32 * i for i in range(count)]
    above = [int(base_px * 1.25 / 32) * 32 - 32 * i for i in range(count)]
    return (*below, *([base_px] * repeat), *above)
