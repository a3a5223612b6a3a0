"""Elements shared by several figures: notes, labels, bars with values, small multiples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from deim_lab import palette
from deim_lab.figures import style


def say(ax: Axes, sentence: str, **options: Any) -> None:
    """Write a sentence in the middle of an empty panel."""
    usual: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": palette.NOTE}
    ax.text(0.5, 0.5, sentence, transform=ax.transAxes, **(usual | options))


def beside(
    ax: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **options: Any
) -> None:
    """Write a small text next to a point; ``offset`` in points."""
    usual: dict[str, Any] = {"fontsize": 7, "textcoords": "offset points"}
    ax.annotate(text, at, xytext=offset, **(usual | options))


def above_the_axes(ax: Axes, text: str, x: float) -> None:
    """Write a small text above the panel, at ``x`` in data coordinates."""
    ax.annotate(
        text, (x, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7
    )


def bars(ax: Axes, values: ArrayLike, tints: Sequence[str], *, times: bool) -> NDArray[np.int64]:
    """Draw horizontal bars from the top down, each with its value; return their positions.

    ``times``: each bar except the first also shows its value as a multiple of the first one's.
    """
    heights = np.asarray(values, dtype=float)
    places = np.arange(len(heights))[::-1]
    ax.barh(places, heights, height=0.62, color=list(tints))
    for number, (place, value) in enumerate(zip(places, heights, strict=True)):
        text = f"{value:.1f}"
        if times and number > 0 and heights[0] > 0:
            text += f"  ({value / heights[0]:.1f}×)"
        beside(ax, text, (value, place), (3, 0), va="center")
    ax.tick_params(axis="y", length=0)
    return places


def small_multiples(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Make a double-column figure of ``count`` panels on common axes, three per row.

    A row is ``height`` inches high. Call this inside ``style.context``.
    """
    columns = min(3, count)
    lines = -(-count // columns)
    fig = style.figure(style.DOUBLE, 0.3 + height * lines)
    panels = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in panels[count:]:
        ax.set_visible(False)
    return fig, list(panels[:count])


def in_percent(axis: Axis, *, decimals: int | None = 0) -> None:
    """Format an axis of shares in [0, 1] as percent."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals, symbol=" %"))


def apart(values: Sequence[float]) -> list[float]:
    """Values that fit as ticks on a logarithmic axis: at least a sixth apart."""
    fitting = list(values[:1])
    for before, value in pairwise(values):
        if value > 1.17 * fitting[-1] and value != before:
            fitting.append(value)
    return fitting
