"""MixUp of a batch: every image blended with the one before it, targets of both kept at full
weight.

Zhang et al. 2018 as DEIM uses it: one ratio a batch, from the middle of [0, 1], and no weight on
the loss.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Generator, Tensor

from deim_lab.augment.single import uniform
from deim_lab.structures import Targets

logger = logging.getLogger(__name__)


def draw_ratio(span: tuple[float, float], generator: Generator) -> float:
    """Weight of the own image, U(span) rounded to six digits."""
    return round(uniform(*span, generator), 6)


def mix_images(images: Tensor, ratio: float) -> Tensor:
    """``[B, 3, H, W]`` float → own · ratio + previous · (1 − ratio); the first image's previous one
    is the last.
    """
    return images.roll(1, dims=0).mul_(1.0 - ratio).add_(images, alpha=ratio)


def mix_targets(targets: Targets) -> Targets:
    """Each image's own targets, then those of the image before it. Ids stay those of the own
    image.
    """
    size = targets.batch_size
    owner = torch.cat([targets.image_index, (targets.image_index + 1) % max(size, 1)])
    owner, order = owner.sort(stable=True)
    row = order % max(len(targets), 1)
    return Targets(targets.boxes_cxcywh[row], targets.labels[row], owner, size, targets.image_ids)


@functools.cache
def note_single_image() -> None:
    """Say once that a batch of one image can't be mixed: blended with itself it would double every
    target.
    """
    logger.warning(
        "MixUp is off: a batch of one image has no other to mix with (data.batch_size 1); "
        "raise data.batch_size, or use train.accumulate for a larger step"
    )
