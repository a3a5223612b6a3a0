"""Galleries and predictions, read back from what was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from deim_lab import figures
from deim_lab.figures import detections
from drawn import paper_figure, values

NAMES = ["disc", "ring", "star"]


@dataclass(frozen=True)
class Found:
    scores: torch.Tensor
    labels: torch.Tensor
    boxes_xyxy: torch.Tensor


def boxes_of(ax: Any) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle) and not patch.get_fill()]


def test_a_gallery_shows_each_image_with_its_boxes() -> None:
    red = torch.zeros(3, 20, 30, dtype=torch.uint8)
    red[0] = 200
    grey = np.full((40, 40, 3), 0.5)
    fig = detections.gallery(
        [red, grey],
        [torch.tensor([[1.0, 2, 11, 12], [3, 4, 9, 16]]), torch.zeros(0, 4)],
        [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)],
        NAMES,
    )
    first, second = fig.axes
    assert values(first.images[0])[0, 0].tolist() == [200, 0, 0]
    assert values(first.images[0]).shape == (20, 30, 3)
    assert [list(patch.get_bbox().extents) for patch in boxes_of(first)] == [
        [1, 2, 11, 12],
        [3, 4, 9, 16],
    ]
    assert [text.get_text() for text in first.texts] == ["disc", "star"]
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("2 targets", "0 targets")
    assert not boxes_of(second)
    table = figures.numbers(fig)
    assert table["name"].tolist() == ["disc", "star"]
    second_box: Any = table.loc[1]
    assert second_box[["x0_px", "y0_px", "x1_px", "y1_px"]].tolist() == [3, 4, 9, 16]


def test_a_class_has_one_colour_in_all_images() -> None:
    image, box = torch.zeros(3, 10, 10, dtype=torch.uint8), torch.tensor([[1.0, 1, 5, 5]])
    fig = detections.gallery(
        [image] * 3, [box] * 3, [torch.tensor([label]) for label in (0, 1, 0)], NAMES
    )
    tints = [boxes_of(ax)[0].get_edgecolor() for ax in fig.axes]
    assert tints[0] == tints[2] != tints[1]
    assert len(set(detections.CLASS_COLOURS)) == len(detections.CLASS_COLOURS)


def test_colours_are_those_of_drawn_pictures() -> None:
    """``predict`` draws a class in the colour that the figures give it."""
    from deim_lab.detections import Detections
    from deim_lab.inference import predict

    for label, tint in enumerate(detections.CLASS_COLOURS):
        found = Detections(
            torch.tensor([0.9]), torch.tensor([label]), torch.tensor([[30.0, 40, 60, 70]])
        )
        picture = predict.draw(torch.zeros(3, 90, 90, dtype=torch.uint8), found, ["name"] * 12)
        red, green, blue = np.asarray(picture)[70, 60] / 255
        assert to_hex((red, green, blue)) == tint.lower()


def test_a_crowd_is_named_by_a_legend() -> None:
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    boxes = torch.tensor([[float(x), 1, x + 3, 9] for x in range(detections.CROWDED + 1)])
    fig = detections.gallery([image], [boxes], [torch.arange(len(boxes)) % 2], NAMES)
    assert not fig.axes[0].texts
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["disc", "ring"]


def test_names_stay_inside_the_picture() -> None:
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    fig = detections.gallery(
        [image],
        [torch.tensor([[-3.0, -2, 30, 30], [20, 50, 60, 90]])],
        [torch.tensor([0, 1])],
        NAMES,
    )
    top, below = fig.axes[0].texts
    assert (top.get_verticalalignment(), top.get_position()) == ("top", (0, 0))
    assert (below.get_verticalalignment(), below.get_position()) == ("bottom", (20, 50))


def test_predictions_keep_what_reaches_the_threshold_best_on_top() -> None:
    image = torch.zeros(3, 50, 50, dtype=torch.uint8)
    found = Found(
        torch.tensor([0.9, 0.5, 0.499]),
        torch.tensor([0, 1, 2]),
        torch.tensor([[1.0, 10, 9, 20], [2, 10, 9, 20], [3, 10, 9, 20]]),
    )
    fig = detections.predictions(
        [image], [found], [(torch.tensor([[5.0, 10, 9, 20]]), torch.tensor([2]))], NAMES, 0.5
    )
    truth, drawn = fig.axes
    assert (truth.get_title(loc="left"), drawn.get_title(loc="left")) == ("truth: 1", "found: 2")
    assert [patch.get_x() for patch in boxes_of(truth)] == [5]
    assert [patch.get_x() for patch in boxes_of(drawn)] == [2, 1]
    assert [text.get_text() for text in drawn.texts] == ["ring 0.50", "disc 0.90"]
    assert figures.numbers(fig)["score"].dropna().tolist() == pytest.approx([0.9, 0.5])


def test_photographs_are_shown_as_jpeg() -> None:
    image = torch.zeros(3, 10, 10, dtype=torch.uint8)
    fig = paper_figure(detections.gallery([image], [torch.zeros(0, 4)], [torch.zeros(0)], NAMES))
    assert fig._repr_png_() is None
    shown = fig._repr_jpeg_()
    assert shown is not None
    assert shown[0][:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detections.gallery([], [], [], NAMES), "0 images"),
        (
            lambda: detections.gallery([np.zeros((5, 5, 3), np.uint8)], [], [[]], NAMES),
            "boxes_xyxy has 0 entries for 1",
        ),
        (
            lambda: detections.gallery([np.zeros((5, 5), np.uint8)], [[]], [[]], NAMES),
            r"shape \(5, 5\)",
        ),
        (
            lambda: detections.gallery([np.full((5, 5, 3), 128.0)], [[]], [[]], NAMES),
            "from 128 to 128",
        ),
        (
            lambda: detections.gallery(
                [np.zeros((5, 5, 3), np.uint8)], [[[1, 1, 2, 2]]], [[0, 1]], NAMES
            ),
            "labels has 2 entries for 1",
        ),
        (lambda: detections.predictions([], [], [], NAMES, 1.5), "threshold 1.5"),
        (lambda: detections.predictions([], [], [], NAMES, 0.5), "0 images"),
    ],
)
def test_what_can_not_be_drawn_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
