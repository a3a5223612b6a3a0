"""study/density.py: targets of an image in the four arms, with pixels and without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from deim_lab.config import AugmentConfig
from deim_lab.structures import Scene
from deim_lab.study import density
from scenes import OFF, source


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
