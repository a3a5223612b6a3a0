"""augment/mixup.py against the official numbers, and its draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deim_lab.augment import mixup
from deim_lab.augment.pipeline import generator_of
from deim_lab.structures import Targets
from places import REFERENCE


def test_mixup_is_the_official_one() -> None:
    values = np.load(REFERENCE / "unit_ops.npz")
    boxes, labels = (
        [torch.from_numpy(values[f"mixup.in.{i}.{name}"]) for i in range(3)]
        for name in ("boxes", "labels")
    )
    mixed = mixup.mix_targets(Targets.from_lists(boxes, labels, [11, 12, 13]))
    images = mixup.mix_images(torch.from_numpy(values["mixup.in_images"]), 0.471235)
    torch.testing.assert_close(
        images, torch.from_numpy(values["mixup.out_images"]), rtol=0, atol=1e-7
    )
    assert mixed.image_ids == (11, 12, 13)
    for index in range(3):
        found_boxes, found_labels = mixed.of_image(index)
        assert np.array_equal(found_boxes.numpy(), values[f"mixup.out.{index}.boxes"])
        assert np.array_equal(found_labels.numpy(), values[f"mixup.out.{index}.labels"])
    assert mixed.image_index.tolist() == sorted(mixed.image_index.tolist())


def test_mixup_of_a_batch_without_targets() -> None:
    empty = Targets.from_lists([torch.zeros(0, 4)] * 3, [torch.zeros(0, dtype=torch.int64)] * 3)
    mixed = mixup.mix_targets(empty)
    assert len(mixed) == 0
    assert mixed.counts.tolist() == [0, 0, 0]


@pytest.mark.parametrize("counts", [(1, 0), (0, 1), (1,), (40, 0, 30)])
def test_each_image_has_its_own_targets_then_those_of_the_previous_image(
    counts: tuple[int, ...],
) -> None:
    labels = list(torch.arange(sum(counts)).split(counts))
    boxes = [torch.rand(count, 4) for count in counts]
    mixed = mixup.mix_targets(Targets.from_lists(boxes, labels))
    assert mixed.batch_size == len(counts)
    for index in range(len(counts)):
        found_boxes, found_labels = mixed.of_image(index)
        assert torch.equal(found_labels, torch.cat([labels[index], labels[index - 1]]))
        assert torch.equal(found_boxes, torch.cat([boxes[index], boxes[index - 1]]))


def test_mixup_ratio_is_rounded_and_in_range() -> None:
    ratios = [mixup.draw_ratio((0.45, 0.55), generator_of(seed)) for seed in range(200)]
    assert all(round(ratio, 6) == ratio for ratio in ratios)
    assert any(round(ratio, 5) != ratio for ratio in ratios)
    assert 0.45 <= min(ratios) < 0.46 < 0.54 < max(ratios) <= 0.55
