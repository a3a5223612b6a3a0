"""Matched pairs on an image, read back from their artists, and the checkpoint slider."""

from __future__ import annotations

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import Collection
from matplotlib.figure import Figure

from deim_lab import figures, widgets
from deim_lab.figures import matching
from drawn import values

IMAGE = np.zeros((40, 60, 3))
LEVELS = ("encoder", "layer_0")


def pairs_table(shift: float = 0.0) -> pd.DataFrame:
    """Two targets at two levels; the second target of ``layer_0`` has no query."""
    rows = []
    for level in LEVELS:
        for target, x in enumerate((5.0, 30.0)):
            lost = level == "layer_0" and target == 1
            query = [np.nan] * 4 if lost else [x + shift, 5.0, x + shift + 20, 25.0]
            rows.append(
                [level, target, np.nan if lost else 0.8 - shift / 100, *query, x, 5.0, x + 20, 25.0]
            )
    sides = ("x1", "y1", "x2", "y2")
    return pd.DataFrame(
        rows,
        columns=[
            "level",
            "target",
            "iou",
            *(f"query_{s}" for s in sides),
            *(f"target_{s}" for s in sides),
        ],
    )


def segments(collection: Collection) -> list[list[float]]:
    """Corner boxes of a collection of outlines."""
    corners = [np.asarray(path.vertices) for path in collection.get_paths()]
    return [[*path.min(0), *path.max(0)] for path in corners]


def test_pairs_are_drawn_where_they_are() -> None:
    table = pairs_table(shift=2.0)
    fig = matching.on_image(IMAGE, table[table["level"] == "layer_0"], title="layer_0")
    halo, targets, missed, queries, links = fig.axes[0].collections
    assert segments(targets) == segments(halo) == [[5, 5, 25, 25]]
    assert segments(queries) == [[7, 5, 27, 25]]
    assert segments(missed) == [[30, 5, 50, 25]]
    np.testing.assert_array_equal(links.get_paths()[0].vertices, [[17, 15], [15, 15]])
    np.testing.assert_allclose(values(queries), np.array([0.78]))
    assert fig.axes[0].get_title(loc="left") == "layer_0: IoU 0.78"


def test_an_image_without_any_match_is_drawn() -> None:
    table = pairs_table()
    fig = matching.on_image(IMAGE, table[(table["level"] == "layer_0") & (table["target"] == 1)])
    assert fig.axes[0].get_title(loc="left") == "no match"
    matching.on_image(IMAGE, table[:0])


def test_steps_move_the_same_artists_and_the_slider_shows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = {f"epoch {index}": pairs_table(shift=float(index)) for index in range(4)}
    monkeypatch.setenv(widgets.LIVE_VARIABLE, "live")
    panel = widgets.matching_steps(IMAGE, steps)
    assert isinstance(panel, ipywidgets.Widget)
    first, artists = panel.picture.value, [id(artist) for artist in panel.figure.findobj()]
    assert panel.readout.value.startswith("epoch 3: mean matched IoU encoder 0.77")
    panel.sliders["index"].value = 0
    assert panel.readout.value.startswith("epoch 0: mean matched IoU encoder 0.80")
    assert panel.picture.value != first
    assert [id(artist) for artist in panel.figure.findobj()] == artists
    panel.sliders["index"].value = 3
    assert panel.picture.value == first

    twin = widgets.matching_steps(IMAGE, steps, static=True)
    assert isinstance(twin, Figure)
    assert [ax.get_ylabel() for ax in twin.axes if ax.images and ax.get_ylabel()] == ["epoch 3"]
    grid = matching.over_layers(IMAGE, matching.few(steps))
    assert [ax.get_ylabel() for ax in grid.axes if ax.images and ax.get_ylabel()] == [
        "epoch 0",
        "epoch 2",
        "epoch 3",
    ]
    assert list(figures.numbers(grid)["panel"].unique()) == ["epoch 0", "epoch 2", "epoch 3"]


def test_few_keeps_first_and_last() -> None:
    assert list(matching.few(dict.fromkeys(range(10)), 3)) in ([0, 4, 9], [0, 5, 9])
    assert list(matching.few({"only": 1})) == ["only"]
