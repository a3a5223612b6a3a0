"""Drawn scenes: boxes fit what is drawn, and only shape tells classes apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deim_lab.data import drawing


class TestScene:
    @pytest.fixture(scope="class")
    def scenes(self) -> list[tuple[Image.Image, list[drawing.Thing]]]:
        return [drawing.scene(np.random.default_rng([5, index]), (160, 160)) for index in range(80)]

    def test_boxes_lie_inside_and_have_the_promised_size(
        self, scenes: list[tuple[Image.Image, list[drawing.Thing]]]
    ) -> None:
        boxes = np.array([thing.box_xyxy for _, things in scenes for thing in things])
        assert boxes.min() >= 0
        assert boxes.max() <= 160
        longer = (boxes[:, 2:] - boxes[:, :2]).max(1) / 160
        assert longer.max() <= 0.51
        inside = ((boxes > 0.5) & (boxes < 159.5)).all(1)
        assert longer[inside].min() >= 0.145
        assert longer.max() / longer[inside].min() > 2.5

    def test_nothing_is_hidden_too_far(
        self, scenes: list[tuple[Image.Image, list[drawing.Thing]]]
    ) -> None:
        shares = np.array([thing.visible_share for _, things in scenes for thing in things])
        assert shares.min() >= 0.39
        assert (shares < 0.85).mean() > 0.05  # and yet some is hidden

    def test_density_and_negatives(
        self, scenes: list[tuple[Image.Image, list[drawing.Thing]]]
    ) -> None:
        counts = np.array([len(things) for _, things in scenes])
        assert 2.0 <= counts.mean() <= 4.0
        assert 0 < (counts == 0).mean() < 0.25
        assert len({thing.label for _, things in scenes for thing in things}) == len(
            drawing.CLASSES
        )

    @pytest.mark.parametrize("label", range(len(drawing.CLASSES)))
    def test_stamp_fills_its_box(self, label: int) -> None:
        for seed in range(10):
            stamp = drawing._stamp(np.random.default_rng(seed), label, 90.0)
            left, top, right, bottom = stamp.getbbox() or (0, 0, 0, 0)
            assert abs(max(right - left, bottom - top) - 90) <= 2
            assert stamp.width - (right - left) <= 2
            assert stamp.height - (bottom - top) <= 2

    def test_box_is_tight_around_what_was_painted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On an even ground without clutter, shadow or noise, the pixels that differ span the
        box.
        """
        monkeypatch.setattr(
            drawing,
            "_ground",
            lambda generator, height, width: Image.new("RGB", (width, height), (90, 90, 90)),
        )
        monkeypatch.setattr(drawing, "_clutter", lambda *_, **__: None)
        monkeypatch.setattr(drawing, "_expose", lambda generator, image: image)
        monkeypatch.setattr(drawing, "_THINGS_SHARE", (0.0, 1.0))
        paste = Image.Image.paste
        monkeypatch.setattr(
            Image.Image,
            "paste",
            lambda self, im, *rest: None if im == (12, 12, 18) else paste(self, im, *rest),
        )
        for seed in range(20):
            image, [thing] = drawing.scene(np.random.default_rng(seed), (160, 160))
            y, x = np.nonzero(np.abs(np.asarray(image).astype(int) - 90).max(-1) > 8)
            painted = (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert np.abs(np.array(painted) - thing.box_xyxy).max() < 1.5, seed

    def test_most_of_a_thing_is_inside_the_frame(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drawing, "_clutter", lambda *_, **__: None)
        monkeypatch.setattr(drawing, "_THINGS_SHARE", (0.0, 1.0))
        shares = np.array(
            [
                drawing.scene(np.random.default_rng(seed), (64, 64))[1][0].visible_share
                for seed in range(150)
            ]
        )
        assert shares.min() >= 0.64
        assert 0.02 < (shares < 0.97).mean() < 0.6

    def test_colour_says_nothing_of_the_class(self) -> None:
        """The mean colour of a class's fill is the mean over all classes, within what chance
        allows.
        """
        generator = np.random.default_rng(0)
        image = Image.new("RGB", (90, 90), (90, 90, 90))
        means = []
        for label in range(len(drawing.CLASSES)):
            fills = []
            for _ in range(60):
                painted = image.copy()
                stamp = drawing._stamp(generator, label, 80.0)
                mask = Image.new("L", image.size)
                mask.paste(stamp, (5, 5))
                drawing._paint(generator, painted, mask, stamp, (5, 5))
                fills.append(np.asarray(painted)[np.asarray(mask) > 0].mean(0))
            means.append(np.mean(fills, axis=0))
        assert np.ptp(np.array(means), axis=0).max() < 60
