"""MixUp: blend every image of a batch with the previous image.

The targets of both images keep their full weight. This is MixUp (Zhang et al. 2018) as in DEIM: one
ratio per batch, near the middle of [0, 1], and no weights in the loss.
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
    """Draw the weight of the image itself: U(span), rounded to six digits."""
    return round(uniform(*span, generator), 6)


def mix_images(images: Tensor, ratio: float) -> Tensor:
    """Blend images ``[B, 3, H, W]`` (float): image · ratio + previous · (1 − ratio).

    The previous image of the first image is the last image.
    """
    return images.roll(1, dims=0).mul_(1.0 - ratio).add_(images, alpha=ratio)


def mix_targets(targets: Targets) -> Targets:
    """Add the targets of the previous image to the targets of each image.

    Image ids don't change.
    """
    size = targets.batch_size
    owner = torch.cat([targets.image_index, (targets.image_index + 1) % max(size, 1)])
    owner, order = owner.sort(stable=True)
    row = order % max(len(targets), 1)
    return Targets(targets.boxes_cxcywh[row], targets.labels[row], owner, size, targets.image_ids)


@functools.cache
def note_single_image() -> None:
    """Warn once that a batch of one image can't be mixed.

    A blend of the image with itself would double every target.
    """
    logger.warning(
        "MixUp is off: a batch of one image has no other image to mix with (data.batch_size 1). "
        "Raise data.batch_size. For a larger step without MixUp, use train.accumulate."
    )
