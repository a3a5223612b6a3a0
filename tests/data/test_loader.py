"""The loader: one stream whatever the workers, exact continuation, shards, small and broken sets,
evaluation in order.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch

from deim_lab import schedule
from deim_lab.augment import mixup, single
from deim_lab.augment.pipeline import generator_of
from deim_lab.config import Config, override
from deim_lab.config.presets import preset
from deim_lab.data import loader
from deim_lab.data.loader import eval_batches, steps_per_epoch, train_batches
from deim_lab.errors import DataError
from deim_lab.schedule import Phase, Schedule
from deim_lab.structures import Batch, Scene


@dataclass(frozen=True)
class Made:
    """``count`` images of changing size with ids from 100; reading one of ``broken`` fails as a
    data set does.
    """

    count: int
    broken: tuple[int, ...] = ()
    error: type[Exception] = DataError

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Scene:
        if index in self.broken:
            raise self.error(f"images/{index}.jpg: truncated after 17 bytes; replace the file")
        draw, height, width = generator_of(index, "made"), 40 + index % 3 * 8, 48
        boxes = torch.tensor([[2.0, 3, 30, 30], [10, 10, 44, 38], [5, 6, 20, 20]])[: index % 4]
        image = torch.randint(
            0, 256, (height, width, 3), generator=draw, dtype=torch.uint8
        ).permute(2, 0, 1)
        return Scene(image, boxes, torch.arange(len(boxes)), (100 + index,))


def build(**overrides: object) -> tuple[Config, Schedule]:
    values = {
        "data.batch_size": 4,
        "model.num_queries": 20,
        "data.input_size": 64,
        "data.workers": 0,
        "train.device": "cpu",
        "augment.zoom_out_prob": 0.5,
        "augment.iou_crop_prob": 0.8,
        "augment.multiscale_repeat": 2,
        "schedule.warmup_epochs": 0,
        "train.epochs": 10,
    }
    config = override(
        preset("smoke"),
        values | {key.replace("__", "."): value for key, value in overrides.items()},
    )
    return config, schedule.build(config, 5)


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets.boxes_cxcywh, other.targets.boxes_cxcywh)
        assert torch.equal(one.targets.labels, other.targets.labels)
        assert torch.equal(one.targets.image_index, other.targets.image_index)
        assert (one.targets.image_ids, one.applied) == (other.targets.image_ids, other.applied)


def test_the_stream_does_not_depend_on_the_workers() -> None:
    config, plan = build()
    assert plan.phase(0) is Phase.DENSE
    state = torch.get_rng_state()
    alone = list(train_batches(Made(22), config, plan, 0, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    helped = list(train_batches(Made(22), config, plan, 0, seed=3, workers=2))
    assert torch.equal(torch.get_rng_state(), state), (
        "workers take nothing from the global random state"
    )
    assert len(alone) == 5
    assert_same(alone, helped)
    assert any(batch.mixed for batch in alone)
    assert any(0 < batch.mosaic_share <= 1 for batch in alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_can_start_at_any_batch(workers: int) -> None:
    config, plan = build()
    whole = list(train_batches(Made(22), config, plan, 1, seed=3))
    assert_same(
        list(train_batches(Made(22), config, plan, 1, seed=3, start_batch=3, workers=workers)),
        whole[3:],
    )
    assert (
        list(train_batches(Made(22), config, plan, 1, seed=3, start_batch=5, workers=workers)) == []
    )


def test_seed_and_epoch_change_order_and_augmentation() -> None:
    config, plan = build()
    ids = {
        (seed, epoch): [
            image_id
            for batch in train_batches(Made(20), config, plan, epoch, seed=seed)
            for image_id in batch.targets.image_ids
        ]
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    }
    assert len({tuple(order) for order in ids.values()}) == 3
    assert all(sorted(order) == list(range(100, 120)) for order in ids.values()), (
        "each image once an epoch"
    )
    assert ids[0, 0] != sorted(ids[0, 0])


def test_one_image_is_augmented_anew_in_every_epoch() -> None:
    config, plan = build(augment__multiscale_repeat=None, augment__photometric_prob=1.0)
    images = [
        next(train_batches(Made(1), config, plan, epoch, seed=0)).images for epoch in range(3)
    ]
    assert {plan.phase(epoch) for epoch in range(3)} == {Phase.DENSE}
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


def test_images_and_targets_are_ready_for_the_detector() -> None:
    config, plan = build(data__input_size=[64, 96])
    for epoch in range(plan.epochs):
        for batch in train_batches(Made(12), config, plan, epoch, seed=0):
            assert batch.images.dtype == torch.float32
            assert batch.images.shape[:2] == (4, 3)
            assert batch.images.is_contiguous()
            assert batch.images.shape[-2] % 32 == 0
            assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1
            batch.targets.check(num_classes=3)
            assert batch.targets.batch_size == len(batch.targets.image_ids) == 4
            dense = plan.phase(epoch) is Phase.DENSE
            assert dense or (not batch.mixed and batch.mosaic_share == 0)


def test_shards_are_disjoint_and_equally_long() -> None:
    config, plan = build()
    shards = [
        list(train_batches(Made(27), config, plan, 0, seed=0, rank=rank, world_size=3))
        for rank in range(3)
    ]
    assert [len(shard) for shard in shards] == [2, 2, 2]
    assert steps_per_epoch(Made(27), config, world_size=3) == 2
    ids = [image_id for shard in shards for batch in shard for image_id in batch.targets.image_ids]
    assert len(set(ids)) == len(ids) == 24


@pytest.mark.parametrize(
    ("images", "world_size", "batches"),
    [(4, 1, 1), (7, 1, 1), (8, 1, 2), (3, 1, 1), (1, 1, 1), (23, 2, 2), (5, 2, 1)],
)
def test_steps_per_epoch(images: int, world_size: int, batches: int) -> None:
    config, plan = build()
    assert steps_per_epoch(Made(images), config, world_size=world_size) == batches
    assert (
        len(list(train_batches(Made(images), config, plan, 0, seed=0, world_size=world_size)))
        == batches
    )


def test_a_set_smaller_than_a_batch_makes_one_smaller_batch_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loader._note_small_set.cache_clear()
    config, plan = build()
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            (batch,) = train_batches(Made(3), config, plan, epoch, seed=0)
            assert sorted(batch.targets.image_ids) == [100, 101, 102]
    assert [record.message for record in caplog.records] == [
        "the training set of 3 images is smaller than one batch (data.batch_size 4). An epoch is "
        "one batch of 3."
    ]


def test_batch_size_one_is_not_mixed_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    mixup.note_single_image.cache_clear()
    config, plan = build(data__batch_size=1, augment__mixup_prob=1.0)
    with caplog.at_level(logging.WARNING):
        batches = [
            batch
            for epoch in range(2)
            for batch in train_batches(Made(3), config, plan, epoch, seed=0)
        ]
    assert not any(batch.mixed for batch in batches)
    assert len(caplog.records) == 1


def test_an_empty_set_and_too_many_processes_are_refused_at_once() -> None:
    config, plan = build()
    with pytest.raises(DataError, match="empty"):
        train_batches(Made(0), config, plan, 0, seed=0)
    with pytest.raises(DataError, match="2 images can't be shared by 3 processes"):
        steps_per_epoch(Made(2), config, world_size=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_error_arrives_with_its_own_message(workers: int) -> None:
    config, plan = build(augment__mosaic_prob=0.0)
    with pytest.raises(DataError) as caught:
        list(train_batches(Made(12, broken=(7,)), config, plan, 0, seed=0, workers=workers))
    assert str(caught.value) == "images/7.jpg: truncated after 17 bytes; replace the file"
    with pytest.raises(DataError) as caught:
        list(eval_batches(Made(12, broken=(7,)), config, workers=workers))
    assert str(caught.value) == "images/7.jpg: truncated after 17 bytes; replace the file"


def test_another_error_of_a_worker_is_not_swallowed() -> None:
    config, plan = build(augment__mosaic_prob=0.0)
    with pytest.raises(ZeroDivisionError):
        list(
            train_batches(
                Made(8, broken=(1,), error=ZeroDivisionError), config, plan, 0, seed=0, workers=1
            )
        )


def test_an_iterator_may_be_left_in_the_middle() -> None:
    config, plan = build()
    taken = list(islice(train_batches(Made(22), config, plan, 0, seed=3, workers=2), 1))
    assert_same(taken, list(islice(train_batches(Made(22), config, plan, 0, seed=3), 1)))


def test_with_a_cache_workers_read_nothing_that_was_read_before() -> None:
    """Workers live for an epoch: the cache must be filled on this side of the fork."""
    read: list[int] = []

    class Remembering(Made):
        def __getitem__(self, index: int, /) -> Scene:
            read.append(index)
            return super().__getitem__(index)

    config, plan = build(data__cache=True)
    batches = list(train_batches(Remembering(9), config, plan, 0, seed=0, workers=2))
    assert read == list(range(9))
    assert_same(batches, list(train_batches(Made(9), config, plan, 0, seed=0)))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_all_images_in_order(workers: int) -> None:
    config, _ = build(data__input_size=[64, 96], data__eval_batch_size=3)
    batches = list(eval_batches(Made(8), config, workers=workers))
    assert [batch.image_ids for batch in batches] == [(100, 101, 102), (103, 104, 105), (106, 107)]
    items = [Made(8)[index] for index in range(8)]
    assert torch.cat([batch.sizes_wh for batch in batches]).tolist() == [
        [48, item.image.shape[1]] for item in items
    ]
    expected = (
        torch.stack([single.resize_pixels(item.image, (64, 96)) for item in items]).float() / 255
    )
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected)


def test_evaluation_of_the_first_few_and_of_none() -> None:
    config, _ = build()
    assert config.data.eval_batch_size == 16
    assert [batch.image_ids for batch in eval_batches(Made(8), config, limit=3, batch_size=2)] == [
        (100, 101),
        (102,),
    ]
    unset = replace(config, data=replace(config.data, eval_batch_size=None))
    assert [len(batch.image_ids) for batch in eval_batches(Made(9), unset)] == [8, 1], (
        "twice the training batch"
    )
    assert list(eval_batches(Made(0), config)) == []
