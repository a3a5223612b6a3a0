"""augment/mosaic.py against the official numbers, and its draws."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from deim_lab.augment import mosaic
from deim_lab.augment.mosaic import Mosaic
from deim_lab.augment.pipeline import generator_of
from deim_lab.structures import Scene
from places import REFERENCE
from scenes import assert_same, painted


@pytest.fixture(scope="module")
def official() -> dict:
    return json.loads((REFERENCE / "mosaic.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiles(official: dict) -> list[Scene]:
    scenes = []
    parts = zip(official["input_sizes_wh"], official["colors"], official["items"], strict=True)
    for number, ((width, height), colour, item) in enumerate(parts):
        image = torch.tensor(colour, dtype=torch.uint8).expand(height, width, 3).permute(2, 0, 1)
        scenes.append(
            Scene(image, torch.tensor(item["boxes_xyxy"]), torch.tensor(item["labels"]), (number,))
        )
    return [mosaic.resize_shorter(scene, 320) for scene in scenes]


def test_tiles_are_resized_as_official(official: dict, tiles: list[Scene]) -> None:
    assert [list(tile.size_hw[::-1]) for tile in tiles] == official["resized_sizes_wh"]
    for tile, boxes in zip(tiles, official["resized_boxes"], strict=True):
        torch.testing.assert_close(tile.boxes_xyxy, torch.tensor(boxes), rtol=1e-6, atol=1e-4)


def test_canvas_is_the_official_one(official: dict, tiles: list[Scene]) -> None:
    canvas = mosaic.assemble(tiles)
    assert list(canvas.size_hw[::-1]) == official["canvas_wh"]
    assert canvas.labels.tolist() == official["merged"]["labels"]
    assert list(canvas.image_ids) == official["merged"]["image_id"]
    torch.testing.assert_close(
        canvas.boxes_xyxy, torch.tensor(official["merged"]["boxes"]), rtol=1e-6, atol=1e-3
    )
    for pixel in official["pixels"]:
        x, y = pixel["xy"]
        assert canvas.image[:, y, x].tolist() == pixel["rgb"], pixel


def test_affine_boxes_are_the_official_ones(official: dict, tiles: list[Scene]) -> None:
    values, canvas = official["affine"], mosaic.assemble(tiles)
    bare = replace(canvas, image=canvas.image.to("meta"))
    moved = mosaic.affine(
        bare, angle_deg=values["angle"], shift_xy=tuple(values["translate"]), scale=values["scale"]
    )
    torch.testing.assert_close(
        moved.boxes_xyxy, torch.tensor(values["boxes_out_xyxy"]), rtol=1e-6, atol=2e-3
    )


def test_affine_without_motion_is_identity() -> None:
    scene = painted(80, 120, 8)
    assert_same(mosaic.affine(scene, angle_deg=0.0, shift_xy=(0, 0), scale=1.0), scene)


def test_outside_the_turned_canvas_it_is_black() -> None:
    white = replace(painted(80, 120, 2), image=torch.full((3, 80, 120), 255, dtype=torch.uint8))
    moved = mosaic.affine(white, angle_deg=10.0, shift_xy=(8, 0), scale=0.5)
    assert set(moved.image.flatten().tolist()) == {0, 255}
    assert moved.image[:, 0, 0].tolist() == [0, 0, 0]


def test_mosaic_keeps_the_own_image_first_and_draws_the_others_from_all() -> None:
    source = [painted(40, 40, 1, seed, image_id=seed) for seed in range(6)]
    ids = [Mosaic(tile_px=32)(source, 2, generator_of(seed)).image_ids for seed in range(60)]
    assert all(len(item) == 4 and item[0] == 2 for item in ids)
    assert {image_id for item in ids for image_id in item[1:]} == set(range(6)), (
        "with replacement, the own one included"
    )


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (0, 3, 0, 0), (2, 0, 0, 1)])
def test_mosaic_of_images_without_boxes(counts: tuple[int, ...]) -> None:
    canvas = mosaic.assemble([painted(40, 60, count) for count in counts])
    moved = mosaic.affine(canvas, angle_deg=5.0, shift_xy=(3, -2), scale=0.9)
    assert moved.boxes_xyxy.shape == (sum(counts), 4)
    assert moved.labels.shape == (sum(counts),)


def test_mosaic_draws_inside_its_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict] = []
    monkeypatch.setattr(mosaic, "affine", lambda scene, **values: seen.append(values))
    source = [painted(40, 60, 2)]
    for seed in range(200):
        Mosaic(tile_px=40, rotation_deg=10, translate=0.1, scale=(0.5, 1.5))(
            source, 0, generator_of(seed)
        )
    angles, scales = [item["angle_deg"] for item in seen], [item["scale"] for item in seen]
    shifts = [item["shift_xy"] for item in seen]
    assert -10 <= min(angles) < -8 < 8 < max(angles) <= 10
    assert 0.5 <= min(scales) < 0.6 < 1.4 < max(scales) <= 1.5
    assert {min(x for x, _ in shifts), max(x for x, _ in shifts)} == {-12, 12}, (
        "a tenth of a canvas 120 wide"
    )
    assert {min(y for _, y in shifts), max(y for _, y in shifts)} == {-8, 8}, (
        "a tenth of a canvas 80 high"
    )
