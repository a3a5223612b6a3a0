"""Load batches for training and evaluation: shuffled, sharded, composed.

A worker builds whole batches. The random numbers of an image depend only on ``(seed, epoch,
position)``. So the batches don't depend on the number of workers, and an epoch can start at any
batch, as an exact resume requires.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deim_lab.augment import canvas, mixup, single
from deim_lab.augment.mosaic import SceneSource
from deim_lab.augment.pipeline import Pipeline, generator_of, stack
from deim_lab.augment.sampling import Undecoded
from deim_lab.config import Config
from deim_lab.errors import DataError
from deim_lab.schedule import Phase, Schedule
from deim_lab.structures import Batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalBatch:
    """A batch of images to score.

    ``images [B, 3, H, W]`` are float32 in [0, 1]. ``sizes_wh [B, 2]`` int64 are the original width
    and height.
    """

    images: Tensor
    image_ids: tuple[int, ...]
    sizes_wh: Tensor

    def pin_memory(self) -> EvalBatch:
        """The batch in page-locked memory."""
        return replace(self, images=self.images.pin_memory())


def train_batches(
    dataset: SceneSource,
    config: Config,
    schedule: Schedule,
    epoch: int,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start_batch: int = 0,
    workers: int | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Iterate over the training batches of one epoch for process ``rank`` of ``world_size``.

    Starts at ``start_batch``. The order is shuffled by (seed, epoch), the phase of the epoch
    selects the augmentation. Drops the last partial batch. A set smaller than one batch gives one
    small batch. ``workers``: loader processes; None: ``config.data.workers``. ``pin_memory``:
    workers return batches in page-locked memory (for a run on CUDA).

    Raises:
        DataError: an empty set, fewer images than processes, or an unreadable image (with the same
            message from a worker).
    """
    plan = _split(len(dataset), config.data.batch_size, world_size)
    phase = schedule.phase(epoch)
    if plan.batch_size < config.data.batch_size:
        _note_small_set(len(dataset), plan.batch_size, config.data.batch_size, world_size)
    if plan.batch_size == 1 and phase is Phase.DENSE and config.augment.mixup_prob > 0:
        mixup.note_single_image()
    if isinstance(dataset, Undecoded):
        _announce_bounds(dataset, config)
    pipeline = Pipeline(augment=config.augment, input_size=config.data.input_size)
    batches = _TrainBatches(dataset, pipeline, plan, phase, epoch, seed, rank)
    return _iterate(batches, range(start_batch, plan.batches), config, workers, pin_memory)


def eval_batches(
    dataset: SceneSource,
    config: Config,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    pin_memory: bool = False,
) -> Iterator[EvalBatch]:
    """Iterate over the images in order, squashed to the input size.

    The last batch may be smaller. ``limit``: number of first images to use. ``batch_size``: None
    means ``data.eval_batch_size``, or twice ``data.batch_size`` if ``data.eval_batch_size`` is
    None. Raises ``DataError`` as ``train_batches`` does.
    """
    size = batch_size or config.data.eval_batch_size or 2 * config.data.batch_size
    count = len(dataset) if limit is None else min(limit, len(dataset))
    batches = _EvalBatches(dataset, config.data.input_size, size, count)
    return _iterate(batches, range(len(batches)), config, workers, pin_memory)


def steps_per_epoch(dataset: SceneSource, config: Config, *, world_size: int = 1) -> int:
    """Number of batches per process and epoch.

    ``train.accumulate`` batches make one optimisation step. Raises ``DataError`` for a set that
    gives no batch.
    """
    return _split(len(dataset), config.data.batch_size, world_size).batches


@dataclass(frozen=True)
class _Split:
    """Division of an epoch into batches.

    Each of ``world_size`` processes gets ``batches`` batches of ``batch_size`` images.
    """

    batch_size: int
    batches: int
    world_size: int

    def positions(self, index: int, rank: int) -> range:
        """Places in the epoch's order of the images in batch ``index`` of process ``rank``."""
        start = (index * self.world_size + rank) * self.batch_size
        return range(start, start + self.batch_size)


def _split(images: int, batch_size: int, world_size: int) -> _Split:
    if images < 1:
        raise DataError("The training set is empty. Training needs at least one image.")
    if images < world_size:
        raise DataError(
            f"{images} images can't be shared by {world_size} processes. Each process needs at "
            f"least one image."
        )
    size = min(batch_size, images // world_size)
    return _Split(size, images // (size * world_size) if size == batch_size else 1, world_size)


@functools.cache
def _note_small_set(images: int, size: int, configured: int, world_size: int) -> None:
    shared = f" for each of {world_size} processes" if world_size > 1 else ""
    logger.warning(
        "the training set of %d images is smaller than one batch (data.batch_size %d). An epoch is "
        "one batch of %d%s.",
        images,
        configured,
        size,
        shared,
    )


def _announce_bounds(dataset: Undecoded, config: Config) -> None:
    """Log here, once, what loader workers would have to say in every epoch."""
    augment = config.augment
    canvas.announce(
        dataset.sizes_wh,
        mosaic=augment.mosaic_prob > 0,
        zoom_out=augment.zoom_out_max if augment.zoom_out_prob > 0 else 1.0,
    )


T_co = TypeVar("T_co", covariant=True)


class _Batches(Protocol[T_co]):
    """Batches by index. A worker builds whole batches."""

    @property
    def dataset(self) -> SceneSource: ...
    def __getitem__(self, index: int, /) -> T_co: ...


@dataclass(frozen=True)
class _TrainBatches:
    dataset: SceneSource
    pipeline: Pipeline
    split: _Split
    phase: Phase
    epoch: int
    seed: int
    rank: int

    def __getitem__(self, index: int, /) -> Batch:
        positions = self.split.positions(index, self.rank)
        return self.pipeline.batch(
            self.dataset,
            [self._order[position] for position in positions],
            self.phase,
            [generator_of(self.seed, self.epoch, position) for position in positions],
            generator_of(self.seed, self.epoch, "batch", positions.start),
        )

    @functools.cached_property
    def _order(self) -> list[int]:
        order: list[int] = torch.randperm(
            len(self.dataset), generator=generator_of(self.seed, self.epoch, "order")
        ).tolist()
        return order


@dataclass(frozen=True)
class _EvalBatches:
    dataset: SceneSource
    input_size: tuple[int, int]
    batch_size: int
    count: int

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __getitem__(self, index: int, /) -> EvalBatch:
        items = [
            self.dataset[item]
            for item in range(
                index * self.batch_size, min((index + 1) * self.batch_size, self.count)
            )
        ]
        images = stack([single.resize_pixels(item.image, self.input_size) for item in items])
        return EvalBatch(
            images,
            tuple(item.image_id for item in items),
            torch.tensor([item.size_wh for item in items]),
        )


@dataclass(frozen=True)
class _Failure:
    """A ``DataError`` passed out of a worker. torch would hide its message in a traceback."""

    message: str


class _Guarded(Dataset[T_co], Generic[T_co]):
    def __init__(self, batches: _Batches[T_co]) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> T_co | _Failure:  # type: ignore[override]
        try:
            return self.batches[index]
        except DataError as error:
            return _Failure(str(error))


def _fill_cache(dataset: SceneSource) -> None:
    """Read all images once in this process, so that workers share one cache.

    Images cached in a worker are lost when the worker ends, after the epoch.
    """
    for index in range(len(dataset)):
        dataset[index]


def _iterate(
    batches: _Batches[T_co], indices: range, config: Config, workers: int | None, pin_memory: bool
) -> Iterator[T_co]:
    """Yield batches in order, built here (0 workers) or ahead of time in worker processes."""
    workers = config.data.workers if workers is None else workers
    if workers == 0:
        for index in indices:
            yield batches[index]
        return
    if config.data.cache and multiprocessing.get_start_method() == "fork":
        _fill_cache(batches.dataset)
    # A separate generator. Otherwise DataLoader draws its base seed from the global state and
    # changes the result of a run.
    loader = DataLoader(
        _Guarded(batches),
        batch_size=None,
        sampler=indices,
        num_workers=min(workers, max(1, len(indices))),
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, _Failure):
            raise DataError(batch.message)
        yield batch
