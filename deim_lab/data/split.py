"""Divide one labelled set into a training and a validation half."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from deim_lab.errors import DataError


def validation_images(
    labels: np.ndarray,
    image_index: np.ndarray,
    keys: Sequence[str],
    share: float,
    *,
    seed: int = 0,
    together: Sequence[Sequence[int]] = (),
) -> np.ndarray:
    """Ascending positions of the images to validate on.

    Images are divided class by class, beginning with the rarest, so each class with at least two
    images is in both halves. Images without boxes are divided last. The order within a class
    depends on ``seed`` and the image's key alone, so a set that grows keeps most of its division.

    Args:
        labels: ``[A]`` class index of each box.
        image_index: ``[A]`` position of its image.
        keys: ``N`` distinct names of the images.
        share: of the images, in (0, 1).
        seed: of the order.
        together: groups of positions that stay in one half, such as near-duplicates.

    Raises:
        DataError: fewer than two images, or groups that leave one half empty.
    """
    count = len(keys)
    if count < 2:
        raise DataError(f"data.val_share needs at least 2 images to divide. The set has {count}.")
    group = _groups(count, together)
    order = sorted(
        range(count), key=lambda image: hashlib.sha256(f"{seed} {keys[image]}".encode()).digest()
    )
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    side = np.full(count, -1, dtype=np.int64)  # -1: open, 0: train, 1: val
    for images in [*_images_by_rarity(labels, image_index), np.arange(count)]:
        _divide(images[np.argsort(rank[images])], share, side, group)
    chosen = np.flatnonzero(side == 1)
    if not 0 < len(chosen) < count:
        raise DataError(
            f"data.val_share={share} can't divide {count} images, because near-duplicates must "
            f"stay together. Give a validation half of your own."
        )
    return chosen


def _groups(count: int, together: Sequence[Sequence[int]]) -> list[list[int]]:
    """The group of each image: itself, or all that it must stay with."""
    groups = [[image] for image in range(count)]
    for members in together:
        joined = sorted({other for image in members for other in groups[image]})
        for image in joined:
            groups[image] = joined
    return groups


def _images_by_rarity(labels: np.ndarray, image_index: np.ndarray) -> list[np.ndarray]:
    """Positions of the images of each class, the class with the fewest images first."""
    images = [np.unique(image_index[labels == label]) for label in np.unique(labels)]
    return sorted(images, key=len)


def _divide(
    images: np.ndarray, share: float, side: np.ndarray, group: Sequence[Sequence[int]]
) -> None:
    """Put open images into val until this class has its share there, the others into train."""
    wanted = max(1, round(share * len(images))) if len(images) > 1 else 0
    wanted = min(wanted, len(images) - 1)
    for image in images:
        if side[image] < 0:
            validated = int((side[images] == 1).sum())
            side[list(group[image])] = int(validated < wanted)
