"""The bounds of Mosaic's and zoom-out's canvas: reached by extreme pictures alone, announced once,
and boxes stay on their objects.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from deim_lab import schedule
from deim_lab.augment import canvas, mosaic, single
from deim_lab.augment.mosaic import Mosaic
from deim_lab.augment.pipeline import generator_of
from deim_lab.augment.sampling import WithoutPixels
from deim_lab.augment.single import ZoomOut
from deim_lab.config.presets import preset
from deim_lab.data import loader
from deim_lab.structures import Scene


def plain(height: int, width: int, *, box: tuple[float, float, float, float]) -> Scene:
    """A dark picture with one white box."""
    image = torch.full((3, height, width), 9, dtype=torch.uint8)
    x1, y1, x2, y2 = (int(value) for value in box)
    image[:, y1:y2, x1:x2] = 255
    return Scene(image, torch.tensor([box]), torch.tensor([0]), (1,))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    canvas._once.cache_clear()
    yield
    canvas._once.cache_clear()


def drawn(scenes: list[Scene], tile_px: int = 48, seed: int = 0) -> Scene:
    """A Mosaic that is neither turned, moved nor scaled."""
    still = Mosaic(tile_px=tile_px, rotation_deg=0.0, translate=0.0, scale=(1.0, 1.0))
    return still(scenes, 0, generator_of(seed))


LYING = (20, 1200)
STANDING = (1200, 20)


@pytest.mark.parametrize(
    "sizes",
    [
        (LYING, STANDING),
        (STANDING, LYING),
        ((3, 30_000), (30_000, 3)),
        ((1, 5000), (1, 5000)),
        ((40, 400), (400, 40)),
    ],
)
def test_no_mosaic_has_more_pixels_than_its_bound(sizes: tuple[tuple[int, int], ...]) -> None:
    scenes = [plain(*size, box=(0.0, 0.0, 1.0, 1.0)) for size in sizes]
    for seed in range(6):
        made = drawn(scenes, seed=seed)
        assert made.size_hw[0] * made.size_hw[1] <= canvas.MOSAIC_TILES * 48**2
        assert min(made.size_hw) >= 2


def test_no_tile_on_the_way_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip of 3 × 30,000 px would be a tile of 48 × 480,000 px before the canvas is bounded."""
    sides: list[int] = []

    def resize(scene: Scene, size_hw: tuple[int, int]) -> Scene:
        sides.extend(size_hw)
        return single.resize(scene, size_hw)

    monkeypatch.setattr(mosaic, "resize", resize)
    drawn([plain(3, 30_000, box=(0.0, 0.0, 3.0, 3.0)), plain(30_000, 3, box=(0.0, 0.0, 3.0, 3.0))])
    assert max(sides) <= canvas.MOSAIC_ASPECT * 48
    assert min(sides) >= 1


def test_boxes_stay_on_their_objects_in_a_bounded_mosaic() -> None:
    scenes = [
        plain(*LYING, box=(300.0, 4.0, 900.0, 16.0)),
        plain(*STANDING, box=(4.0, 300.0, 16.0, 900.0)),
    ]
    made = drawn(scenes)
    assert made.size_hw[0] * made.size_hw[1] > canvas.MOSAIC_TILES * 48**2 * 0.9
    for x1, y1, x2, y2 in made.boxes_xyxy.tolist():
        assert made.image[0, round((y1 + y2) / 2), round((x1 + x2) / 2)] > 100
    # the boxes have half the length of their strip, as in the pictures
    lengths = (made.boxes_xyxy[:, 2:] - made.boxes_xyxy[:, :2]).amax(1)
    strips = torch.tensor(made.size_hw).max() / 2
    assert torch.allclose(lengths, strips.float() / 2, rtol=0.02)


@pytest.mark.parametrize("sizes", [((48, 64), (64, 48)), ((20, 80), (80, 20)), ((30, 480),) * 2])
def test_a_mosaic_within_the_bound_is_the_official_one(
    sizes: tuple[tuple[int, int], ...], caplog: pytest.LogCaptureFixture
) -> None:
    scenes = [plain(*size, box=(1.0, 1.0, 15.0, 15.0)) for size in sizes]
    generator = generator_of(3)
    others = torch.randint(len(scenes), (3,), generator=generator).tolist()
    tiles = [mosaic.resize_shorter(scenes[item], 48) for item in (0, *others)]
    expected = mosaic.assemble(tiles)
    made = drawn(scenes, seed=3)
    assert torch.equal(made.image, expected.image)
    assert torch.equal(made.boxes_xyxy, expected.boxes_xyxy)
    assert not caplog.records


def test_pixels_or_none_a_bounded_canvas_has_the_same_boxes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(canvas, "ZOOM_OUT_PX", 100_000)
    scenes = [plain(*LYING, box=(9.0, 2.0, 99.0, 9.0)), plain(*STANDING, box=(2.0, 9.0, 9.0, 99.0))]
    empty = WithoutPixels(scenes)
    mosaics = [drawn(source, seed=1) for source in (scenes, empty)]  # type: ignore[arg-type]
    zoomed = [ZoomOut(prob=1.0)(source[0], generator_of(4)) for source in (scenes, empty)]
    for full, bare in (mosaics, zoomed):
        assert bare.image.is_meta
        assert full.size_hw == bare.size_hw
        assert torch.equal(full.boxes_xyxy, bare.boxes_xyxy)


@pytest.mark.parametrize(("height", "width"), [(4000, 6000), (6000, 4000), (900, 60_000)])
def test_zoom_out_of_a_large_photo_stays_within_its_bound(height: int, width: int) -> None:
    image = torch.empty(3, height, width, dtype=torch.uint8, device="meta")
    box = torch.tensor([[0.0, 0.0, width / 2, height / 2]])
    scene = Scene(image, box, torch.tensor([0]), (1,))
    for ratio in (4.0, 10.0):
        for seed in range(8):
            made = ZoomOut(prob=1.0, max_ratio=ratio)(scene, generator_of(seed))
            assert made.size_hw[0] * made.size_hw[1] <= canvas.ZOOM_OUT_PX
            side_w, side_h = (made.boxes_xyxy[0, 2:] - made.boxes_xyxy[0, :2]).tolist()
            assert side_w / side_h == pytest.approx(width / height, rel=0.01)


def test_zoom_out_draws_the_same_ratio_and_place_when_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = plain(300, 400, box=(50.0, 60.0, 350.0, 240.0))
    free = ZoomOut(prob=1.0)(scene, generator_of(5))
    monkeypatch.setattr(canvas, "ZOOM_OUT_PX", free.size_hw[0] * free.size_hw[1] // 4)
    bounded = ZoomOut(prob=1.0)(scene, generator_of(5))
    assert bounded.size_hw == pytest.approx([side / 2 for side in free.size_hw], abs=4)
    assert torch.allclose(bounded.boxes_cxcywh, free.boxes_cxcywh, atol=0.01)
    after = single.resize(bounded, (96, 96)).image.float()
    assert (after - single.resize(free, (96, 96)).image.float()).abs().mean() < 2


def test_usual_photos_keep_every_pixel_in_zoom_out(caplog: pytest.LogCaptureFixture) -> None:
    """Full HD at the default ratio of 4 is below the bound."""
    assert canvas.zoom_out_factor((1080, 1920), 4.0) == 1.0
    scene = plain(48, 64, box=(1.0, 1.0, 15.0, 15.0))
    made = ZoomOut(prob=1.0)(scene, generator_of(0))
    left, top = (int(value) - 1 for value in made.boxes_xyxy[0, :2])
    assert torch.equal(made.image[:, top : top + 48, left : left + 64], scene.image)
    assert not caplog.records


def test_each_bound_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "deim_lab")
    scenes = [plain(*size, box=(0.0, 0.0, 9.0, 9.0)) for size in (LYING, STANDING)]
    large = Scene(
        torch.empty(3, 9000, 9000, dtype=torch.uint8, device="meta"),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        (1,),
    )
    for seed in range(4):
        drawn(scenes, seed=seed)
        ZoomOut(prob=1.0, max_ratio=4.0)(large, generator_of(seed))
    messages = [record.getMessage() for record in caplog.records]
    assert sorted(message.split(":")[0] for message in messages) == ["Mosaic", "Zoom-out"]


class Sized:
    """A source that knows its sizes, as a data set does."""

    def __init__(self, *sizes_wh: tuple[int, int]) -> None:
        self.sizes_wh = torch.tensor(sizes_wh)
        self.image_ids = list(range(len(sizes_wh)))

    def __len__(self) -> int:
        return len(self.image_ids)

    def targets(self, index: int, /) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[1.0, 1.0, 15.0, 15.0]]), torch.tensor([0])

    def __getitem__(self, index: int, /) -> Scene:
        width, height = self.sizes_wh[index].tolist()
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        return Scene(image, *self.targets(index), (index,))


@pytest.mark.parametrize(
    ("sizes_wh", "overrides", "expected"),
    [
        ([(1200, 20), (20, 1200)], {}, ["Mosaic"]),
        ([(1200, 20), (20, 1200)], {"augment.mosaic_prob": 0.0}, []),
        ([(6000, 4000)], {"augment.zoom_out_prob": 0.5}, ["Zoom-out"]),
        ([(6000, 4000)], {}, []),  # the preset has no zoom-out
        ([(640, 480), (480, 640), (640, 160)], {"augment.zoom_out_prob": 0.5}, []),
    ],
)
def test_the_main_process_announces_what_workers_would_meet(
    sizes_wh: list[tuple[int, int]],
    overrides: dict[str, float],
    expected: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "deim_lab.augment.canvas")
    config = preset("smoke", {"data.batch_size": 1, "augment.mixup_prob": 0.0, **overrides})
    for epoch in range(2):
        loader.train_batches(Sized(*sizes_wh), config, schedule.build(config, 1), epoch, seed=0)
    messages = [r.getMessage() for r in caplog.records if r.name == "deim_lab.augment.canvas"]
    assert [message.split(":")[0] for message in messages] == expected
