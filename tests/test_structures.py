"""The values that travel between rooms: shapes of empty batches, bounds of the checks, shares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deim_lab.errors import TargetsError
from deim_lab.structures import (
    Batch,
    DecoderOutput,
    DetectorOutput,
    Matches,
    Scene,
    Targets,
    at_least_float32,
)


def targets(image_ids: tuple[int, ...] = ()) -> Targets:
    """Two targets in the first image, none in the second, one in the third."""
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    return Targets.from_lists(
        [boxes[:2], boxes[:0], boxes[2:]],
        [torch.tensor([0, 4]), torch.zeros(0, dtype=torch.int64), torch.tensor([2])],
        image_ids,
    )


def test_a_scene_knows_its_sizes() -> None:
    scene = Scene(
        torch.zeros(3, 40, 80, dtype=torch.uint8),
        torch.tensor([[0.0, 0.0, 40.0, 40.0], [20.0, 10.0, 60.0, 30.0]]),
        torch.tensor([0, 1]),
        (7, 3),
    )
    assert scene.image_id == 7
    assert scene.size_hw == (40, 80)
    assert scene.size_wh == (80, 40)
    assert scene.boxes_cxcywh.tolist() == [[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5]]


def test_targets_are_flat_and_know_their_images() -> None:
    made = targets((11, 12, 13))
    assert len(made) == 3
    assert made.image_index.tolist() == [0, 0, 2]
    assert made.counts.tolist() == [2, 0, 1]
    assert made.offsets.tolist() == [0, 2, 2]
    assert made.batch_size == 3
    assert made.image_ids == (11, 12, 13)
    boxes, labels = made.of_image(0)
    assert torch.equal(boxes, made.boxes_cxcywh[:2])
    assert labels.tolist() == [0, 4]
    assert made.of_image(1)[0].shape == (0, 4)
    moved = made.to("cpu")
    assert moved.labels.tolist() == [0, 4, 2]
    assert moved.image_ids == made.image_ids
    assert moved.batch_size == 3


def test_a_batch_of_no_images_and_images_without_targets() -> None:
    nothing = Targets.from_lists([], [])
    assert nothing.boxes_cxcywh.shape == (0, 4)
    assert nothing.labels.dtype == nothing.image_index.dtype == torch.int64
    assert (len(nothing), nothing.batch_size) == (0, 0)
    empty = Targets.from_lists([torch.zeros(0)], [torch.zeros(0)])
    assert empty.boxes_cxcywh.shape == (0, 4)
    assert empty.labels.dtype == torch.int64
    assert empty.counts.tolist() == empty.offsets.tolist() == [0]
    empty.check(1)


def test_what_training_can_use_passes_the_check() -> None:
    targets().check(num_classes=5)
    edge = torch.tensor([[-1e-4, 1.0, 1.0, 1e-6]] * 3)
    replace(targets(), boxes_cxcywh=edge).check(5)


@pytest.mark.parametrize(
    ("box", "named"),
    [
        ([-2e-4, 0.5, 0.1, 0.1], r"\[-0.0002, 0.5, 0.1, 0.1\]"),
        ([0.5, 1.0002, 0.1, 0.1], "1.0002"),
        ([0.5, 0.5, 0.0, 0.1], r"0.0, 0.1\]"),
        ([0.5, 0.5, 0.1, 0.0], r"0.1, 0.0\]"),
        ([0.5, float("nan"), 0.1, 0.1], "nan"),
        ([0.5, 0.5, float("inf"), 0.1], "inf"),
    ],
)
def test_a_box_that_is_none_is_named(box: list[float], named: str) -> None:
    boxes = targets().boxes_cxcywh.clone()
    boxes[2] = torch.tensor(box)
    with pytest.raises(TargetsError, match=named) as error:
        replace(targets((11, 12, 13)), boxes_cxcywh=boxes).check(5)
    assert "of image 13 is not a valid box" in str(error.value)


@pytest.mark.parametrize(("classes", "labels"), [(4, [0, 4, 2]), (5, [0, -1, 2])])
def test_a_label_outside_is_named_by_its_image(classes: int, labels: list[int]) -> None:
    wrong = replace(targets(), labels=torch.tensor(labels))
    with pytest.raises(TargetsError, match=f"label {labels[1]} of image at position 0 of the batc"):
        wrong.check(classes)
    third = replace(targets((11, 12, 13)), labels=torch.tensor([0, 0, 9]))
    with pytest.raises(TargetsError, match="label 9 of image 13 is outside"):
        third.check(classes)
    two_ids = replace(targets((11, 12)), labels=torch.tensor([0, 0, 9]))
    with pytest.raises(TargetsError, match="label 9 of image at position 2"):
        two_ids.check(classes)


@pytest.mark.parametrize(
    ("applied", "mosaics", "mixed"),
    [
        ((("mosaic", "flip"), ("flip",), (), ()), (True, False, False, False), False),
        ((("mosaic", "mixup"), ("mixup",), ("mixup",), ("mixup",)), (True, *[False] * 3), True),
    ],
)
def test_a_batch_says_what_its_images_went_through(
    applied: Any, mosaics: tuple[bool, ...], mixed: bool
) -> None:
    batch = Batch(torch.zeros(4, 3, 8, 8), targets(), applied)
    assert batch.mosaics == mosaics
    assert batch.mosaic_share == 0.25
    assert batch.mixed is mixed
    share = {"flip": sum("flip" in names for names in applied) / 4, "crop": 0.0}
    assert batch.shares(["flip", "crop"]) == share


def test_pinning_a_batch_pins_each_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a GPU has page-locked memory, so pinning adds 1 here."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch = Batch(torch.zeros(3, 3, 8, 8), targets((11, 12, 13)), ((), (), ()))
    pinned = batch.pin_memory()
    assert torch.equal(pinned.images, batch.images + 1)
    for name in ("boxes_cxcywh", "labels", "image_index"):
        assert torch.equal(getattr(pinned.targets, name), getattr(batch.targets, name) + 1), name
    assert pinned.targets.image_ids == (11, 12, 13)
    assert pinned.targets.batch_size == 3


def test_matches_of_one_level() -> None:
    image, query, target = torch.arange(9).reshape(3, 3)
    matches = Matches(image, query, target, torch.tensor([0, 1, 1]))
    assert len(matches) == 3
    second = matches.of_level(1)
    assert (second.image.tolist(), second.query.tolist()) == ([1, 2], [4, 5])
    assert second.target.tolist() == [7, 8]
    assert second.level is None
    with pytest.raises(ValueError, match="no level axis"):
        second.of_level(0)


def test_a_prediction_is_the_last_level_of_the_first_group() -> None:
    levels = ("encoder", "layer_0", "layer_1")
    logits, boxes = torch.rand(3, 2, 6, 5), torch.rand(3, 2, 6, 4)
    one = DetectorOutput(DecoderOutput(levels, logits, boxes))
    assert one.matching.num_layers == 2
    assert one.dn_groups == 0
    assert torch.equal(one.prediction.logits, logits[2])
    assert torch.equal(one.prediction.boxes_cxcywh, boxes[2])
    three = DetectorOutput(DecoderOutput(levels, logits, boxes, groups=3))
    assert torch.equal(three.prediction.logits, logits[2, :, :2])
    assert torch.equal(three.prediction.boxes_cxcywh, boxes[2, :, :2])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_precision_is_raised_and_never_lowered(dtype: torch.dtype, expected: torch.dtype) -> None:
    value: Tensor = torch.tensor([0.5], dtype=dtype)
    assert at_least_float32(value).dtype == expected
