"""The pipeline: the official operations in each phase, invariants of what comes out, and the
density that is measured on it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deim_lab.augment import mixup, single
from deim_lab.augment.pipeline import Pipeline, generator_of
from deim_lab.config import AugmentConfig
from deim_lab.schedule import Phase, multiscale_sizes
from deim_lab.structures import Batch, Scene, Targets
from deim_lab.study import density
from places import REFERENCE

CASES = json.loads((REFERENCE / "schedules.json").read_text(encoding="utf-8"))["augment"]
OFFICIAL_NAMES = {
    "Mosaic": "mosaic",
    "RandomPhotometricDistort": "photometric",
    "RandomZoomOut": "zoom_out",
    "RandomIoUCrop": "iou_crop",
    "SanitizeBoundingBoxes": "sanitise",
    "RandomHorizontalFlip": "flip",
    "Resize": "resize",
}
OFF = AugmentConfig(
    mosaic_prob=0.0,
    mixup_prob=0.0,
    photometric_prob=0.0,
    zoom_out_prob=0.0,
    iou_crop_prob=0.0,
    flip_prob=0.0,
)


def source(
    count: int = 12,
    boxes: int | None = None,
    sizes: tuple[tuple[int, int], ...] = ((48, 64), (64, 48), (50, 120)),
) -> list[Scene]:
    """Random pictures of several sizes; ``boxes`` each, or 0 to 6 by turns."""
    items = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        draw, number = generator_of(index, "source"), index % 7 if boxes is None else boxes
        corner = torch.rand(number, 2, generator=draw) * torch.tensor([width * 0.7, height * 0.7])
        size = 4 + torch.rand(number, 2, generator=draw) * torch.tensor(
            [width * 0.3 - 4, height * 0.3 - 4]
        )
        items.append(
            Scene(
                torch.randint(
                    0, 256, (height, width, 3), generator=draw, dtype=torch.uint8
                ).permute(2, 0, 1),
                torch.cat([corner, corner + size], 1),
                torch.randint(5, (number,), generator=draw),
                (100 + index,),
            )
        )
    return items


def build(input_size: tuple[int, int] = (64, 64), **values: Any) -> Pipeline:
    return Pipeline(augment=AugmentConfig(**values), input_size=input_size)


def batch_of(
    pipeline: Pipeline, items: list[Scene], phase: Phase, seed: int = 0, size: int = 6
) -> Batch:
    indices = list(range(size))
    return pipeline.batch(
        items,
        indices,
        phase,
        [generator_of(seed, index) for index in indices],
        generator_of(seed, "batch"),
    )


@pytest.mark.parametrize("tag", CASES)
def test_operations_are_the_official_ones_in_their_order(tag: str) -> None:
    """``coin_low``: every coin falls for the operation; ``coin_high``: none does."""
    case, items = CASES[tag], source()
    for run in case["runs"]:
        last = run is case["runs"][-1]
        low = run["state"]["coin_low"]["ops"]
        phase = (
            Phase.DENSE
            if "Mosaic" in low
            else Phase.PLAIN
            if "RandomIoUCrop" in low
            else Phase.CLEAN
            if last
            else Phase.WARM_UP
        )
        for fell, expected in run["state"].items():
            prob = 1.0 if fell == "coin_low" else 0.0
            pipeline = build(
                mosaic_prob=prob, mixup_prob=prob, multiscale_repeat=case["base_size_repeat"]
            )
            composed = pipeline.compose(items, 1, phase, generator_of(0))
            wanted = tuple(
                OFFICIAL_NAMES[name] for name in expected["ops"] if not name.startswith("Convert")
            )
            assert composed.applied == wanted, (tag, phase, fell)
            batches = [batch_of(pipeline, items, phase, seed, size=2) for seed in range(12)]
            assert all(batch.mixed is expected["mixup"] for batch in batches)
            assert (
                any(batch.images.shape[-1] != 64 for batch in batches) is expected["multiscale"]
            ), (tag, phase)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("input_size", [(64, 64), (64, 96), (96, 32)])
def test_what_comes_out_is_a_valid_batch(phase: Phase, input_size: tuple[int, int]) -> None:
    items = source(24)
    for seed in range(12):
        batch = batch_of(build(input_size, mosaic_prob=0.6, mixup_prob=0.6), items, phase, seed)
        assert batch.images.shape == (6, 3, *input_size)
        assert batch.images.dtype == torch.float32
        assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1
        batch.targets.check(num_classes=5)
        low, size = batch.targets.boxes_cxcywh[:, :2], batch.targets.boxes_cxcywh[:, 2:]
        assert bool(((low - size / 2 >= -1e-6) & (low + size / 2 <= 1 + 1e-6)).all())
        assert bool((size * torch.tensor(input_size[::-1]) >= 1 - 1e-4).all()), (
            "no box under min_box_px at the input size"
        )
        assert batch.targets.batch_size == 6
        assert batch.targets.image_ids == tuple(range(100, 106))
        assert batch.targets.image_index.tolist() == sorted(batch.targets.image_index.tolist())
        assert phase is Phase.DENSE or not (batch.mixed or any(batch.mosaics))


@pytest.mark.parametrize("phase", list(Phase))
def test_everything_off_is_exactly_the_resized_image(phase: Phase) -> None:
    pipeline, items = Pipeline(augment=OFF, input_size=(64, 96)), source(6, boxes=3)
    batch = batch_of(pipeline, items, phase)
    for index, item in enumerate(items):
        assert torch.equal(
            batch.images[index], single.resize_pixels(item.image, (64, 96)).float() / 255
        )
        height, width = item.image.shape[1:]
        boxes_cxcywh, labels = batch.targets.of_image(index)
        expected = torch.cat(
            [
                (item.boxes_xyxy[:, :2] + item.boxes_xyxy[:, 2:]) / 2,
                item.boxes_xyxy[:, 2:] - item.boxes_xyxy[:, :2],
            ],
            1,
        )
        torch.testing.assert_close(
            boxes_cxcywh, expected / torch.tensor([width, height, width, height])
        )
        assert torch.equal(labels, item.labels)


def test_same_generators_same_batch_and_the_global_state_is_left_alone() -> None:
    pipeline, items, state = build(multiscale_repeat=1), source(), torch.get_rng_state()
    first, again = (batch_of(pipeline, items, Phase.DENSE, seed=4) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets.boxes_cxcywh, again.targets.boxes_cxcywh)
    assert torch.equal(torch.get_rng_state(), state)
    other = batch_of(pipeline, items, Phase.DENSE, seed=5)
    assert other.images.shape != first.images.shape or not torch.equal(other.images, first.images)


@pytest.mark.parametrize("phase", list(Phase))
def test_images_without_boxes_pass_everywhere(phase: Phase) -> None:
    for seed in range(4):
        batch = batch_of(build(mosaic_prob=0.5, mixup_prob=1.0), source(8, boxes=0), phase, seed)
        assert len(batch.targets) == 0
        assert batch.targets.batch_size == 6
        assert batch.targets.boxes_cxcywh.shape == (0, 4)


def test_tile_is_half_the_shorter_side_unless_given() -> None:
    assert build((640, 640))._mosaic.tile_px == 320
    assert build((384, 640))._mosaic.tile_px == 192
    assert build((384, 640), mosaic_tile_px=256)._mosaic.tile_px == 256


def test_coins_fall_as_often_as_asked() -> None:
    pipeline, items = (
        build((32, 32), mosaic_prob=0.3, mixup_prob=0.7),
        source(6, boxes=1, sizes=((20, 20),)),
    )
    batches = [batch_of(pipeline, items, Phase.DENSE, seed, size=2) for seed in range(300)]
    assert np.mean([batch.mosaics for batch in batches]) == pytest.approx(0.3, abs=0.06)
    assert np.mean([batch.mixed for batch in batches]) == pytest.approx(0.7, abs=0.09)


def test_batch_of_one_is_never_mixed_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    mixup.note_single_image.cache_clear()
    pipeline = build(mixup_prob=1.0, mosaic_prob=0.0)
    targets = Targets.from_lists([torch.rand(2, 4)], [torch.tensor([0, 1])])
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            _, mixed_targets, mixed = pipeline.mix(
                torch.rand(1, 3, 8, 8), targets, Phase.DENSE, generator_of(seed)
            )
            assert not mixed
            assert len(mixed_targets) == 2
    assert [
        record.message.startswith("MixUp is off: a batch of one image") for record in caplog.records
    ] == [True]


@pytest.mark.parametrize(("height", "width"), [(640, 640), (384, 640), (640, 384), (320, 96)])
def test_multiscale_keeps_the_shape_of_a_rectangle(height: int, width: int) -> None:
    pipeline = build((height, width), multiscale_repeat=3)
    images = torch.zeros(1, 3, height, width)
    shapes = {
        tuple(pipeline.multiscale(images, Phase.PLAIN, generator_of(seed)).shape[-2:])
        for seed in range(150)
    }
    assert {min(shape) for shape in shapes} == set(multiscale_sizes(min(height, width), 3))
    for shape in shapes:
        assert shape[0] % 32 == 0
        assert shape[1] % 32 == 0
        assert abs(shape[0] / height - shape[1] / width) <= 32 / max(height, width), (
            "the longer side follows within half a step"
        )
    clean = pipeline.multiscale(images, Phase.CLEAN, generator_of(0))
    assert clean.shape[-2:] == (height, width)


def test_multiscale_takes_the_nearest_pixel() -> None:
    pipeline = build((64, 64), multiscale_repeat=1)
    images = torch.rand(1, 3, 64, 64)
    scaled = next(
        out
        for seed in range(50)
        if (out := pipeline.multiscale(images, Phase.PLAIN, generator_of(seed))).shape[-1] != 64
    )
    assert set(scaled.flatten().tolist()) <= set(images.flatten().tolist())


# --- density
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certain", [False, True])
def test_density_without_pixels_is_the_same_to_the_last_target(certain: bool) -> None:
    items, arms = source(20), density.variants(AugmentConfig(), certain=certain)
    whole, bare = (
        density.measure(items, arms, (64, 96), samples=30, seed=2, boxes_only=flag)
        for flag in (False, True)
    )
    assert whole.keys() == bare.keys() == {"variant", "image", "targets", "mosaic", "mixed"}
    for name in whole:
        assert np.array_equal(whole[name], bare[name]), name
    assert len(whole["targets"]) == 4 * 30


def test_density_decodes_no_picture_where_the_source_knows_its_sizes() -> None:
    items = source(9)

    class Known:
        image_ids = tuple(item.image_id for item in items)
        sizes_wh = torch.tensor([[item.image.shape[2], item.image.shape[1]] for item in items])

        def __len__(self) -> int:
            return len(items)

        def targets(self, index: int, /) -> tuple[Tensor, Tensor]:
            return items[index].boxes_xyxy, items[index].labels

        def __getitem__(self, index: int, /) -> Scene:
            raise AssertionError("decoded")

    arms = density.variants(AugmentConfig())
    known, decoded = (
        density.measure(each, arms, (64, 64), samples=18, boxes_only=True)
        for each in (Known(), items)
    )
    assert all(np.array_equal(known[name], decoded[name]) for name in known)


def test_density_of_the_four_arms() -> None:
    items = source(20, boxes=5)
    base = replace(OFF, mosaic_scale=(1.0, 1.0), mosaic_translate=0.0, mosaic_rotation_deg=0.0)
    found = density.means(
        density.measure(
            items,
            density.variants(base, certain=True),
            (64, 64),
            samples=40,
            seed=0,
            boxes_only=True,
        )
    )
    assert found == {"plain": 5.0, "mosaic": 20.0, "mixup": 10.0, "both": 40.0}, (
        "nothing cropped: exactly 4, 2 and 8 times"
    )
    official = density.means(
        density.measure(
            items,
            density.variants(AugmentConfig(), certain=True),
            (64, 64),
            samples=40,
            boxes_only=True,
        )
    )
    assert 2.5 < official["mosaic"] / official["plain"] < 6
    assert official["plain"] < official["mixup"] < official["mosaic"] < official["both"]


def test_density_takes_the_same_images_in_all_arms_and_repeats() -> None:
    items = source(9)
    table = density.measure(items, AugmentConfig(), (64, 64), samples=24, seed=1, boxes_only=True)
    again = density.measure(items, AugmentConfig(), (64, 64), samples=24, seed=1, boxes_only=True)
    other = density.measure(items, AugmentConfig(), (64, 64), samples=24, seed=2, boxes_only=True)
    assert np.array_equal(table["targets"], again["targets"])
    assert not np.array_equal(table["targets"], other["targets"])
    by_arm = [
        table["image"][table["variant"] == name].tolist()
        for name in ("plain", "mosaic", "mixup", "both")
    ]
    assert all(images == by_arm[0] for images in by_arm)
    assert set(by_arm[0]) == set(range(9)), "every image comes before any comes again"
    assert not table["mosaic"][table["variant"] == "mixup"].any()
    assert not table["mixed"][table["variant"] == "mosaic"].any()


def test_density_of_an_empty_source_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        density.measure([], AugmentConfig(), (64, 64))
