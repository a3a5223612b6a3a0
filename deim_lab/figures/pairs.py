"""Matched pairs on their image, and artists that step through checkpoints.

Pairs are a table with one row per target and level: ``level, iou`` and the two boxes in pixels,
``query_x1 … query_y2`` (NaN: the target has no query) and ``target_x1 … target_y2``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deim_lab import palette
from deim_lab.figures import style

Array = NDArray[Any]
# Match quality from poor to good, ordered by lightness and by two hues that colour-blind readers
# can distinguish.
QUALITY = LinearSegmentedColormap.from_list("quality", palette.QUALITY_RAMP)
_SIDES = ("x1", "y1", "x2", "y2")


def on_image(
    image: Array, pairs: pd.DataFrame, *, ax: Axes | None = None, title: str = ""
) -> Figure:
    """Targets (black on white) and their queries on the image.

    A query's colour is the IoU. A line joins the centres of a pair.

    Args:
        image: ``[H, W, 3]``, uint8 or float in [0, 1].
        pairs: of one level.
    """
    with style.context():
        fig, ax = style.canvas(
            ax, style.SINGLE, style.SINGLE * image.shape[0] / image.shape[1] + 0.3
        )
        Drawn(image, ax).update(pairs, title)
        style.attach(fig, title or "pairs", pairs)
        return fig


def over_layers(image: Array, steps: Mapping[str, pd.DataFrame]) -> Figure:
    """One row per step (checkpoint), one column per level: a static checkpoint slider.

    ``steps``: name → pairs of all levels.
    """
    levels = levels_of(steps)
    with style.context():
        side = style.DOUBLE / len(levels)
        fig = style.figure(
            style.DOUBLE,
            0.5 + len(steps) * (side * image.shape[0] / image.shape[1] + 0.2),
            photographic=True,
        )
        panels = fig.subplots(len(steps), len(levels), squeeze=False)
        for row, (step, pairs) in zip(panels, steps.items(), strict=True):
            for ax, level in zip(row, levels, strict=True):
                Drawn(image, ax).update(pairs[pairs["level"] == level], level)
            row[0].set_ylabel(step)
            style.attach(fig, step, pairs)
        bar = fig.colorbar(
            ScalarMappable(Normalize(0, 1), QUALITY),
            ax=list(panels.ravel()),
            location="bottom",
            aspect=60,
            fraction=0.03,
            pad=0.02,
        )
        bar.set_label(
            "IoU of the match: the query's colour; targets are black, unmatched ones dashed",
            fontsize=7,
        )
        return fig


def few(steps: Mapping[Any, Any], limit: int = 3) -> dict[Any, Any]:
    """Choose at most ``limit`` of the steps, evenly from the first to the last."""
    keys = list(steps)
    chosen = sorted(
        {round(index) for index in np.linspace(0, len(keys) - 1, min(limit, len(keys)))}
    )
    return {keys[index]: steps[keys[index]] for index in chosen}


class Drawn:
    """The artists of ``on_image``, made once; ``update`` moves them to other pairs.

    The slider and the static figure share them.
    """

    def __init__(self, image: Array, ax: Axes) -> None:
        self.ax = ax
        ax.imshow(image)
        ax.set_xlim(-0.5, image.shape[1] - 0.5)
        ax.set_ylim(image.shape[0] - 0.5, -0.5)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        quality: dict[str, Any] = {"cmap": QUALITY, "norm": Normalize(0, 1)}
        self.halo = LineCollection([], colors="white", linewidths=2.6)
        self.targets = LineCollection([], colors="black", linewidths=1.2)
        self.missed = LineCollection([], colors=palette.PINK, linewidths=1.2, linestyles="dashed")
        self.queries = LineCollection([], linewidths=1.5, **quality)
        self.links = LineCollection([], linewidths=1.2, linestyles="dotted", **quality)
        for collection in (self.halo, self.targets, self.missed, self.queries, self.links):
            ax.add_collection(collection)
        self.title = ax.set_title(" ")

    @property
    def moving(self) -> list[Artist]:
        """The artists that ``update`` changes, in drawing order."""
        return [self.halo, self.targets, self.missed, self.queries, self.links, self.title]

    def update(self, pairs: pd.DataFrame, title: str = "") -> None:
        """Show the pairs of one level."""
        matched = pairs[pairs["query_x1"].notna()]
        queries, targets, missed = (
            table[[f"{who}_{side}" for side in _SIDES]].to_numpy(dtype=float)
            for table, who in (
                (matched, "query"),
                (matched, "target"),
                (pairs[pairs["query_x1"].isna()], "target"),
            )
        )
        for collection, boxes in (
            (self.halo, targets),
            (self.targets, targets),
            (self.missed, missed),
            (self.queries, queries),
        ):
            collection.set_segments([_outline(box) for box in boxes])
        self.links.set_segments(
            [
                [_centre(query), _centre(target)]
                for query, target in zip(queries, targets, strict=True)
            ]
        )
        iou = matched["iou"].to_numpy(dtype=float)
        self.queries.set_array(iou)
        self.links.set_array(iou)
        mean = f"IoU {iou.mean():.2f}" if len(iou) else "no match"
        self.title.set_text(f"{title}: {mean}" if title else mean)


class Steps:
    """All levels of one image, stepping through checkpoints, for the slider.

    ``axes``: one per level of ``steps`` (name → pairs of all levels), in order.
    """

    def __init__(
        self, image: Array, steps: Mapping[str, pd.DataFrame], axes: Sequence[Axes]
    ) -> None:
        self.steps, self.levels = list(steps.items()), levels_of(steps)
        self.drawn = [Drawn(image, ax) for ax in axes]

    @property
    def moving(self) -> list[Artist]:
        """The artists that ``update`` changes, in drawing order."""
        return [artist for drawn in self.drawn for artist in drawn.moving]

    def update(self, index: int) -> str:
        """Show step ``index``; return its numbers as text."""
        step, pairs = self.steps[index]
        for drawn, level in zip(self.drawn, self.levels, strict=True):
            drawn.update(pairs[pairs["level"] == level], level)
        means = pairs.groupby("level", sort=False)["iou"].mean()
        return f"{step}: mean matched IoU " + ", ".join(
            f"{level} {value:.2f}" for level, value in means.items()
        )


def levels_of(steps: Mapping[str, pd.DataFrame]) -> list[str]:
    """Names of the levels in the steps, in order."""
    return list(dict.fromkeys(str(level) for pairs in steps.values() for level in pairs["level"]))


def _outline(box: Array) -> list[tuple[float, float]]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]


def _centre(box: Array) -> tuple[float, float]:
    return float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
