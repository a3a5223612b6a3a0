"""Compose augmented images without training, also without pixels.

Counting targets needs sizes and boxes, but no pixels. ``WithoutPixels`` gives the pipeline images
with a size but no memory. Every random draw and every box is the same as with pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from deim_lab.augment.mosaic import SceneSource
from deim_lab.augment.pipeline import Pipeline, generator_of
from deim_lab.schedule import Phase
from deim_lab.structures import Batch, Scene

BATCH_SIZE = 8


def draw_positions(length: int, samples: int, *key: int | str) -> list[int]:
    """Draw ``samples`` positions in ``[0, length)`` by ``key``; repeat none before all came."""
    turns = range(-(-samples // length))
    orders = [torch.randperm(length, generator=generator_of(*key, turn)) for turn in turns]
    drawn: list[int] = torch.cat(orders)[:samples].tolist()
    return drawn


def composed(
    pipeline: Pipeline,
    source: SceneSource,
    positions: Sequence[int],
    phase: Phase,
    *key: int | str,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[Sequence[int], Batch]]:
    """Compose the images at ``positions``; yields positions and batch of each batch.

    The random numbers depend only on ``key`` and on the place in ``positions``.
    """
    for start in range(0, len(positions), batch_size):
        chosen = positions[start : start + batch_size]
        generators = [generator_of(*key, start + place) for place in range(len(chosen))]
        yield (
            chosen,
            pipeline.batch(source, chosen, phase, generators, generator_of(*key, "batch", start)),
        )


@runtime_checkable
class Undecoded(Protocol):
    """A source of sizes and boxes without decoding, such as ``data.coco.CocoDataset``."""

    image_ids: Sequence[int]
    sizes_wh: Tensor

    def targets(self, index: int, /) -> tuple[Tensor, Tensor]: ...


@dataclass
class WithoutPixels:
    """A source with sizes, boxes and labels, but without pixels.

    A source that must decode its pictures decodes each once.
    """

    source: SceneSource
    _seen: dict[int, Scene] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Scene:
        if index not in self._seen:
            self._seen[index] = self._read(index)
        return self._seen[index]

    def _read(self, index: int) -> Scene:
        if isinstance(self.source, Undecoded):
            width, height = self.source.sizes_wh[index].tolist()
            image = torch.empty(3, height, width, dtype=torch.uint8, device="meta")
            return Scene(image, *self.source.targets(index), (self.source.image_ids[index],))
        scene = self.source[index]
        return replace(scene, image=scene.image.to("meta"))
