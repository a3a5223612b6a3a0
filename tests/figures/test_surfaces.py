"""Surfaces over score and IoU hold the same function, still and turning."""

from __future__ import annotations

import numpy as np
import pytest

from deim_lab import figures
from deim_lab.figures import surfaces
from drawn import xs, ys


def test_surface_and_its_turning_twin_hold_the_same_function() -> None:
    scores, ious, values = surfaces.grid("mal", "gradient", gamma=2.0, points=11)
    assert values == pytest.approx(scores[None, :] - ious[:, None] ** 2, abs=1e-12)
    fig = surfaces.turning("gradient", kinds=("vfl", "mal"), gamma=2.0, points=11)
    assert (
        type(fig).__name__ == "Figure"
    )  # not a FigureWidget, which puts megabytes into an executed notebook
    assert np.asarray(fig.data[1].z) == pytest.approx(values, abs=6e-4)
    assert len(fig.to_json()) < 60_000
    table = figures.numbers(surfaces.contours("gradient", kinds=("vfl", "mal"), gamma=2.0)).query(
        "panel == 'mal'"
    )
    assert table["gradient"].to_numpy() == pytest.approx(
        (table["score"] - table["iou"] ** 2).to_numpy(), abs=1e-12
    )


def test_contours_draw_the_minimum() -> None:
    fig = surfaces.contours("loss", kinds=("mal",), gamma=1.5)
    line = fig.axes[0].lines[0]
    assert xs(line) == pytest.approx(ys(line) ** 1.5, abs=1e-9)
    with pytest.raises(ValueError, match="did you mean 'gradient'"):
        surfaces.contours("gradients")
