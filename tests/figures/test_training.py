"""Shares and stages of a run, galleries and predictions, read back from what was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from deim_lab import figures
from deim_lab.figures import detections, style, training
from drawn import bars, paper_figure, values, ys

NAMES = ["disc", "ring", "star"]


@dataclass(frozen=True)
class Found:
    scores: torch.Tensor
    labels: torch.Tensor
    boxes_xyxy: torch.Tensor


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    """Three epochs as the log has them, the second one dense."""
    phases, shares = ("warm_up", "dense", "plain"), ((0.0, 0.0), (0.48, 0.55), (0.0, 0.0))
    return pd.DataFrame(
        [
            {
                "kind": "train",
                "epoch": epoch,
                "step": 10 * (epoch + 1),
                "phase": phase,
                "targets_per_image": 3.0,
                "matched_iou": 0.5,
                "mosaic_share": mosaic,
                "mixup_share": mixup,
                "seconds/data": 0.01,
                "seconds/forward": 0.03 * (epoch + 1),
                "seconds/backward": 0.05,
            }
            for epoch, (phase, (mosaic, mixup)) in enumerate(zip(phases, shares, strict=True))
        ]
    )


def boxes_of(ax: Any) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle) and not patch.get_fill()]


# --- training
# --------------------------------------------------------------------------------------------------


def test_composition_shows_when_mosaic_and_mixup_were_on(log: pd.DataFrame) -> None:
    fig = training.composition(log)
    lines = {line.get_label(): ys(line).tolist() for line in fig.axes[0].lines}
    assert lines == {
        "Mosaic, of the images": [0.0, 0.48, 0.0],
        "MixUp, of the steps": [0.0, 0.55, 0.0],
    }
    assert figures.numbers(fig)["phase"].tolist() == ["warm_up", "dense", "plain"]


def test_stages_stack_to_the_time_of_a_step(log: pd.DataFrame) -> None:
    fig = training.stages(log)
    ends = {(bar.get_x(), round(bar.get_y() + bar.get_height(), 6)) for bar in bars(fig.axes[0])}
    assert {(0, 90.0), (1, 120.0), (2, 150.0)} <= ends
    assert figures.numbers(fig)["forward_ms"].tolist() == pytest.approx([30, 60, 90])
    legend = fig.axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["backward 42 %", "forward 50 %", "data 8 %"]  # from the top down, as stacked


def test_a_phase_in_which_nothing_was_dense_is_not_shaded(log: pd.DataFrame) -> None:
    tints = [
        {to_hex(patch.get_facecolor()) for patch in training.composition(table).axes[0].patches}
        for table in (log, log.assign(mosaic_share=0.0, mixup_share=0.0))
    ]
    blue = style.COLOURS["dense"].lower()
    assert blue in tints[0]
    assert blue not in tints[1]


def test_compared_runs_show_ap50_in_the_colour_of_their_ap(log: pd.DataFrame) -> None:
    scored = pd.concat(
        [log, pd.DataFrame([{"kind": "val", "epoch": 2, "step": 30, "AP": 0.3, "AP50": 0.6}])]
    )
    ap, ap50 = training.side_by_side({"DEIM": scored}).axes[0].lines
    assert (ys(ap).tolist(), ys(ap50).tolist()) == ([0.3], [0.6])
    assert ap.get_color() == ap50.get_color() == style.COLOURS["dense"]
    assert (
        training.side_by_side({"DEIM": log}).axes[0].get_ylabel().startswith("AP")
    )  # not evaluated yet


def test_workings_of_a_run_that_has_just_begun() -> None:
    fig = training.workings(pd.DataFrame())
    assert [ax.texts[0].get_text() for ax in fig.axes] == ["nothing logged yet"] * 2


# --- detections
# --------------------------------------------------------------------------------------------------


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
