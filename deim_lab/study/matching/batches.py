"""Compose reproducible batches: the training pipeline on chosen images with a fixed seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from deim_lab.augment.mosaic import SceneSource
from deim_lab.augment.pipeline import Pipeline, generator_of
from deim_lab.config import AugmentConfig, Config
from deim_lab.data.coco import CocoDataset
from deim_lab.errors import DataError
from deim_lab.schedule import Phase
from deim_lab.structures import Targets


def with_targets(*sources: CocoDataset, limit: int = 32) -> tuple[CocoDataset, Sequence[int]]:
    """The first source that has targets, and the images to look at: its first ``limit``.

    If those have no target, the first ``limit`` images that have one. Raises ``DataError`` if no
    source has a target: matching cannot be seen without one.
    """
    for source in sources:
        positions = torch.nonzero(source.counts).flatten().tolist()
        if positions:
            first = range(min(limit, len(source)))
            return source, first if positions[0] in first else positions[:limit]
    raise DataError(
        f"no image of {' or '.join(source.name for source in sources)} has a box. Matching needs "
        "targets. Choose a data set with boxes."
    )


def fixed_batch(
    source: SceneSource, indices: Sequence[int], config: Config
) -> tuple[Tensor, Targets]:
    """Load ``source[indices]`` as inference does: resized, without augmentation."""
    return compose(source, indices, replace(config.augment, flip_prob=0.0), config.data.input_size)


def compose(
    source: SceneSource,
    indices: Sequence[int],
    augment: AugmentConfig,
    input_size: tuple[int, int],
    *,
    phase: Phase = Phase.CLEAN,
    seed: int = 0,
) -> tuple[Tensor, Targets]:
    """Compose ``source[indices]`` into a training batch, reproducibly for a seed.

    Returns images ``[B, 3, H, W]`` and targets.
    """
    batch = Pipeline(augment=augment, input_size=input_size).batch(
        source,
        indices,
        phase,
        [generator_of(seed, "microscope", index) for index in indices],
        generator_of(seed, "microscope", "batch", *indices),
    )
    return batch.images, batch.targets
