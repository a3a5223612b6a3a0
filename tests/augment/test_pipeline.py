"""augment/pipeline.py: the official operations in each phase, and what comes out."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from deim_lab.augment import OPERATIONS, Operation, mixup, single
from deim_lab.augment.mosaic import Mosaic
from deim_lab.augment.pipeline import Pipeline, generator_of
from deim_lab.config import AugmentConfig
from deim_lab.errors import ConfigError
from deim_lab.schedule import Phase, multiscale_sizes
from deim_lab.structures import Batch, Scene, Targets
from places import REFERENCE
from scenes import OFF, source

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
    assert build((640, 640))._mosaic == Mosaic(), "the defaults of the config at 640 px"
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


@pytest.mark.parametrize("input_size", [(32, 32), (32, 96)])
def test_multiscale_never_goes_below_32_pixels(input_size: tuple[int, int]) -> None:
    """The official sizes of a side of 32 are 0 and 32."""
    pipeline, images = build(input_size, multiscale_repeat=1), torch.zeros(1, 3, *input_size)
    shapes = {
        tuple(pipeline.multiscale(images, Phase.PLAIN, generator_of(seed)).shape[-2:])
        for seed in range(20)
    }
    assert shapes == {(32, 32), input_size}


def test_multiscale_takes_the_nearest_pixel() -> None:
    pipeline = build((64, 64), multiscale_repeat=1)
    images = torch.rand(1, 3, 64, 64)
    scaled = next(
        out
        for seed in range(50)
        if (out := pipeline.multiscale(images, Phase.PLAIN, generator_of(seed))).shape[-1] != 64
    )
    assert set(scaled.flatten().tolist()) <= set(images.flatten().tolist())


def test_an_added_operation_that_is_off_does_not_hide_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, phases in (("early", ("warm_up",)), ("late", ("plain",))):
        added = Operation(lambda scene, generator: scene, prob=1.0, phases=phases)
        monkeypatch.setitem(OPERATIONS, name, added)
    pipeline = build(extra=("early", "late"))
    for phase, name in ((Phase.WARM_UP, "early"), (Phase.PLAIN, "late")):
        assert pipeline.compose(source(), 0, phase, generator_of(0)).applied[0] == name


def test_an_added_operation_on_a_batch_gives_its_images_and_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def brighter(images: Tensor, targets: Targets, generator: Generator) -> tuple[Tensor, Targets]:
        return images + 1, targets

    monkeypatch.setitem(
        OPERATIONS, "brighter", Operation(brighter, of="batch", prob=1.0, phases=("plain",))
    )
    made = batch_of(build(extra=("brighter",)), source(), Phase.PLAIN)
    assert {names[-1] for names in made.applied} == {"brighter"}
    assert float(made.images.min()) >= 1


def short_of_a_label(scene: Scene, generator: Generator) -> Scene:
    made = replace(scene)
    object.__setattr__(made, "labels", scene.labels[1:])  # the shape check would refuse it
    return made


@pytest.mark.parametrize(
    ("of", "result", "named"),
    [
        ("image", lambda scene, _: scene.image, "returned Tensor. Expected a Scene"),
        ("image", short_of_a_label, "one label for each box"),
        ("batch", lambda images, targets, _: [images, targets], "returned list. Expected images"),
        ("batch", lambda images, targets, _: (images,), "returned tuple. Expected images"),
        ("batch", lambda images, targets, _: (images[1:], targets), "the shape .6, 3, 64, 64."),
    ],
)
def test_an_added_operation_with_another_result_is_refused(
    of: Any, result: Any, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATIONS, "wrong", Operation(result, of=of, prob=1.0, phases=("plain",)))
    with pytest.raises(ConfigError, match=named):
        batch_of(build(extra=("wrong",)), source(), Phase.PLAIN)


def test_each_setting_reaches_its_operation() -> None:
    pipeline = build(
        (64, 96),
        photometric_prob=0.1,
        zoom_out_prob=0.2,
        zoom_out_max=3.0,
        iou_crop_prob=0.4,
        min_box_px=5.0,
        flip_prob=0.6,
    )
    assert pipeline._singles == {
        "photometric": single.Photometric(prob=0.1),
        "zoom_out": single.ZoomOut(prob=0.2, max_ratio=3.0),
        "iou_crop": single.IouCrop(prob=0.4),
        "sanitise": single.Sanitise(min_px=5.0),
        "flip": single.Flip(prob=0.6),
        "resize": single.Resize(size_hw=(64, 96)),
    }


def test_a_key_gives_the_same_seed_in_every_version() -> None:
    """BLAKE2b of "0/1/2", 4 bytes: 6b 34 f3 9d. A run that is resumed draws on from it."""
    assert generator_of(0, 1, 2).initial_seed() == 0x9DF3346B
