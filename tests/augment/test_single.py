"""augment/single.py: boxes that stay on their objects, determinism, the official operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from deim_lab.augment import single
from deim_lab.augment.mosaic import Mosaic
from deim_lab.augment.pipeline import generator_of
from deim_lab.augment.single import Flip, IouCrop, Photometric, Resize, Sanitise, ZoomOut
from deim_lab.structures import Scene
from scenes import PALETTE, assert_same, painted


def assert_boxes_on_their_colour(scene: Scene) -> None:
    height, width = scene.size_hw
    for box, label in zip(scene.boxes_xyxy, scene.labels, strict=True):
        x1, y1, x2, y2 = box.tolist()
        if x1 <= 0 or y1 <= 0 or x2 >= width or y2 >= height or min(x2 - x1, y2 - y1) < 6:
            # cut at the border: the centre of what is left may be beside the turned object
            continue
        found = scene.image[:, int((y1 + y2) / 2), int((x1 + x2) / 2)]
        assert (found.int() - PALETTE[label].int()).abs().max() < 40, (
            box.tolist(),
            int(label),
            found.tolist(),
        )


def apply_mosaic(scene: Scene, generator: torch.Generator) -> Scene:
    others = [
        painted(*size, count, seed)
        for seed, (size, count) in enumerate([((80, 120), 8), ((120, 60), 3), ((64, 64), 0)])
    ]
    return Mosaic(tile_px=96)([scene, *others], 0, generator)


Operation = Callable[[Scene, torch.Generator], Scene]
OPERATIONS: dict[str, Operation] = {
    "zoom_out": ZoomOut(prob=1.0),
    "iou_crop": IouCrop(prob=1.0),
    "flip": Flip(prob=1.0),
    "resize": Resize(size_hw=(96, 160)),
    "sanitise": Sanitise(),
    "mosaic": apply_mosaic,
}
ALL_OPERATIONS: dict[str, Operation] = {**OPERATIONS, "photometric": Photometric(prob=1.0)}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("seed", range(8))
def test_boxes_follow_their_objects(name: str, seed: int) -> None:
    scene = OPERATIONS[name](painted(200, 240, 8, seed), generator_of(seed))
    assert len(scene.boxes_xyxy) == len(scene.labels)
    assert_boxes_on_their_colour(scene)


@pytest.mark.parametrize("name", ALL_OPERATIONS)
def test_same_generator_same_output_and_the_global_state_is_left_alone(name: str) -> None:
    operation = ALL_OPERATIONS[name]
    scene, state = painted(120, 160, 6), torch.get_rng_state()
    kept = scene.image.clone()
    first, second = (operation(scene, generator_of(3)) for _ in range(2))
    assert_same(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(scene.image, kept), "the input is not written to"
    if name not in ("flip", "resize", "sanitise"):
        others = [operation(scene, generator_of(seed)) for seed in range(4, 12)]
        assert any(
            item.image.shape != first.image.shape or not torch.equal(item.image, first.image)
            for item in others
        )


@pytest.mark.parametrize(
    "name", ["zoom_out", "iou_crop", "flip", "resize", "sanitise", "photometric"]
)
@pytest.mark.parametrize("count", [0, 5])
def test_without_pixels_the_boxes_are_the_same(name: str, count: int) -> None:
    operation = ALL_OPERATIONS[name]
    scene = painted(120, 160, count)
    whole, bare = (
        operation(scene, generator_of(5)),
        operation(replace(scene, image=scene.image.to("meta")), generator_of(5)),
    )
    assert bare.image.is_meta
    assert bare.image.shape == whole.image.shape
    assert torch.equal(bare.boxes_xyxy, whole.boxes_xyxy)


def test_flip_mirrors_pixels_and_boxes_to_the_pixel() -> None:
    """A box of whole pixels covers the same picture before and after, to its last column."""
    scene = painted(51, 71, 8)
    flipped = Flip(prob=1.0)(scene, generator_of(0))
    for before, after in zip(scene.boxes_xyxy.int(), flipped.boxes_xyxy.int(), strict=True):
        (x1, y1, x2, y2), (left, top, right, bottom) = before.tolist(), after.tolist()
        inside = scene.image[:, y1:y2, x1:x2]
        assert torch.equal(flipped.image[:, top:bottom, left:right], inside.flip(-1))
        assert inside.any(), "the box is painted"
        for column in (left - 1, right):  # what is next to the box is not painted
            assert not flipped.image[:, top:bottom, column].any(), (after.tolist(), column)
    assert flipped.boxes_xyxy[:, ::2].tolist() == [
        [71 - x2, 71 - x1] for x1, x2 in scene.boxes_xyxy[:, ::2].tolist()
    ]


def test_flip_twice_is_identity() -> None:
    scene, flip = painted(50, 70, 5), Flip(prob=1.0)
    once = flip(scene, generator_of(0))
    assert not torch.equal(once.image, scene.image)
    assert_same(flip(once, generator_of(0)), scene)


@pytest.mark.parametrize(
    "operation", [ZoomOut(prob=0.0), IouCrop(prob=0.0), Flip(prob=0.0), Photometric(prob=0.0)]
)
def test_probability_zero_does_nothing(
    operation: Operation,
) -> None:
    scene = painted(50, 70, 5)
    assert all(operation(scene, generator_of(seed)) is scene for seed in range(20))


@pytest.mark.parametrize("seed", range(6))
def test_photometric_equals_the_official_operations(seed: int) -> None:
    image = torch.randint(
        0, 256, (40, 60, 3), generator=generator_of(seed), dtype=torch.uint8
    ).permute(2, 0, 1)
    found = Photometric(prob=1.0)(
        Scene(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), generator_of(seed)
    ).image
    draw, spans = (
        generator_of(seed),
        {
            "brightness": (0.875, 1.125),
            "contrast": (0.5, 1.5),
            "saturation": (0.5, 1.5),
            "hue": (-0.05, 0.05),
        },
    )
    params: dict = {}
    for name, span in spans.items():
        assert single.coin(1.0, draw)
        params[f"{name}_factor"] = single.uniform(*span, draw)
    params["contrast_before"] = single.coin(0.5, draw)
    assert single.coin(1.0, draw)
    params["channel_permutation"] = torch.randperm(3, generator=draw)
    expected = v2.RandomPhotometricDistort().transform(single.to_pil(image), params)
    assert torch.equal(found, single.from_pil(expected))


def test_photometric_probability_is_of_each_operation() -> None:
    image = torch.randint(0, 256, (8, 8, 3), generator=generator_of(0), dtype=torch.uint8).permute(
        2, 0, 1
    )
    scene = Scene(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    untouched = sum(
        Photometric(prob=0.5)(scene, generator_of(seed)) is scene for seed in range(640)
    )
    assert 8 <= untouched <= 36, "all five coins miss in 1 of 32"


def test_iou_crop_draws_as_torchvision_does() -> None:
    """Same distribution: how often the image stays whole, how large the window is, how many boxes
    remain.
    """
    scene = painted(200, 300, 8, seed=4)
    ours = [IouCrop(prob=1.0)(scene, generator_of(seed)) for seed in range(700)]
    official, boxes = (
        v2.RandomIoUCrop(),
        tv_tensors.BoundingBoxes(scene.boxes_xyxy, format="XYXY", canvas_size=(200, 300)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [official(tv_tensors.Image(scene.image), boxes) for _ in range(700)]

    def summary(areas: list[int], counts: list[int]) -> list[float]:
        return [
            float(np.mean([area == 60000 for area in areas])),
            float(np.mean(areas)) / 60000,
            float(np.std(areas)) / 60000,
            float(np.mean(counts)) / 8,
        ]

    found = summary([item.image[0].numel() for item in ours], [len(item.labels) for item in ours])
    expected = summary(
        [image[0].numel() for image, _ in theirs],
        [int((box[:, 2] > box[:, 0]).sum()) for _, box in theirs],
    )
    assert found == pytest.approx(expected, abs=0.05)
    assert all(len(item.labels) >= 1 for item in ours)


def test_iou_crop_leaves_an_image_without_boxes_and_one_that_no_window_fits() -> None:
    empty = painted(60, 60, 0)
    assert all(IouCrop(prob=1.0)(empty, generator_of(seed)) is empty for seed in range(10))
    dot = Scene(
        torch.zeros(3, 1, 1, dtype=torch.uint8),
        torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
        torch.tensor([0]),
    )
    assert all(IouCrop(prob=1.0)(dot, generator_of(seed)) is dot for seed in range(5))


def test_zoom_out_stays_in_range_and_keeps_the_pixels() -> None:
    scene = painted(60, 80, 8)
    for seed in range(20):
        out = ZoomOut(prob=1.0, max_ratio=3.0)(scene, generator_of(seed))
        assert 60 <= out.size_hw[0] <= 180
        assert 80 <= out.size_hw[1] <= 240
        left, top = (out.boxes_xyxy - scene.boxes_xyxy)[0, :2].int().tolist()
        assert torch.equal(out.image[:, top : top + 60, left : left + 80], scene.image)
        assert int(out.image.sum()) == int(scene.image.sum()), "black around"


def test_sanitise_clips_and_drops() -> None:
    boxes = torch.tensor(
        [
            [-5.0, -5, 10, 10],
            [10, 10, 10.5, 30],
            [30, 30, 30, 40],
            [90, 90, 140, 140],
            [120, 120, 130, 130],
        ]
    )
    scene = Scene(torch.zeros(3, 100, 100, dtype=torch.uint8), boxes, torch.arange(5))
    clean = Sanitise(min_px=1.0)(scene)
    assert clean.labels.tolist() == [0, 3]
    assert clean.boxes_xyxy.tolist() == [[0, 0, 10, 10], [90, 90, 100, 100]]
    assert Sanitise(min_px=0.0)(scene).labels.tolist() == [0, 1, 3], (
        "a box of no area is never kept"
    )


def test_resize_is_the_pil_bilinear_of_the_official_pipeline() -> None:
    image = torch.randint(
        0, 256, (90, 130, 3), generator=generator_of(0), dtype=torch.uint8
    ).permute(2, 0, 1)
    for size_hw in [(64, 64), (160, 96), (200, 320)]:
        expected = np.asarray(
            single.to_pil(image).resize(size_hw[::-1], Image.Resampling.BILINEAR)
        ).astype(int)
        found = single.resize_pixels(image, size_hw).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected).max() <= 1
