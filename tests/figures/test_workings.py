"""Shares and stages of a run over its epochs, read back from what was drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from deim_lab import figures
from deim_lab.figures import style, training
from drawn import bars, values, ys


def test_composition_shows_when_mosaic_and_mixup_were_on(short_log: pd.DataFrame) -> None:
    fig = training.composition(short_log)
    lines = {line.get_label(): ys(line).tolist() for line in fig.axes[0].lines}
    assert lines == {
        "Mosaic, of the images": [0.0, 0.48, 0.0],
        "MixUp, of the steps": [0.0, 0.55, 0.0],
    }
    assert figures.numbers(fig)["phase"].tolist() == ["warm_up", "dense", "plain"]


def test_stages_stack_to_the_time_of_a_step(short_log: pd.DataFrame) -> None:
    fig = training.stages(short_log)
    ends = {(bar.get_x(), round(bar.get_y() + bar.get_height(), 6)) for bar in bars(fig.axes[0])}
    assert {(0, 90.0), (1, 120.0), (2, 150.0)} <= ends
    assert figures.numbers(fig)["forward_ms"].tolist() == pytest.approx([30, 60, 90])
    legend = fig.axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["backward 42 %", "forward 50 %", "data 8 %"]  # from the top down, as stacked


def test_a_phase_in_which_nothing_was_dense_is_not_shaded(short_log: pd.DataFrame) -> None:
    tints = [
        {to_hex(patch.get_facecolor()) for patch in training.composition(table).axes[0].patches}
        for table in (short_log, short_log.assign(mosaic_share=0.0, mixup_share=0.0))
    ]
    blue = style.COLOURS["dense"].lower()
    assert blue in tints[0]
    assert blue not in tints[1]


def test_workings_of_a_run_that_has_just_begun() -> None:
    fig = training.workings(pd.DataFrame())
    assert [ax.texts[0].get_text() for ax in fig.axes] == ["nothing logged yet"] * 2


def test_the_iou_heatmap_holds_the_share_of_each_bin(log: pd.DataFrame) -> None:
    fig = figures.training.iou_histogram(log)
    share = values(fig.axes[0].collections[0]).reshape(20, 6)
    assert share.sum(0) == pytest.approx(np.ones(6))
    for epoch in range(6):
        assert share[epoch, epoch] == pytest.approx(8 / 27)
    assert figures.numbers(fig)["pairs"].sum() == 6 * 27
