"""What a drawn figure holds, with a type: matplotlib's own say only "something like an array"."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from deim_lab.figures.style import PaperFigure


def xs(line: Line2D) -> np.ndarray:
    """The x of each point of a line."""
    return np.asanyarray(line.get_xdata())


def ys(line: Line2D) -> np.ndarray:
    """The y of each point of a line."""
    return np.asanyarray(line.get_ydata())


def points(line: Line2D) -> list[tuple[float, float]]:
    """x and y of each point of a line."""
    return [(float(x), float(y)) for x, y in zip(xs(line), ys(line), strict=True)]


def dots(collection: Collection) -> np.ndarray:
    """x and y of each dot of a scatter, a row each."""
    return np.asanyarray(collection.get_offsets())


def values(artist: ScalarMappable) -> np.ndarray:
    """The numbers behind the colours of an image or a collection."""
    found = artist.get_array()
    assert found is not None
    return np.asarray(found)


def bars(ax: Axes) -> list[Rectangle]:
    """The patches of a panel in which all are rectangles."""
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(found) == len(ax.patches)
    return found


def paper_figure(fig: Figure) -> PaperFigure:
    """The figure as one that shows itself in a notebook."""
    assert isinstance(fig, PaperFigure)
    return fig


def legend(ax: Axes) -> str:
    """The entries of the legend of a panel, with ``|`` between them."""
    found = ax.get_legend()
    return "|".join(item.get_text() for item in found.get_texts()) if found else ""
