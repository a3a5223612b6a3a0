"""The one paper style: column widths, fonts, and ``save`` for a picture and its numbers.

pyplot is not used: figures are plain objects without a global registry, so they do not accumulate
in a kernel. They show themselves in a notebook.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from deim_lab import palette
from deim_lab.config.entries import CLASSIFICATION, OPERATIONS
from deim_lab.figures import lettering
from deim_lab.host import files
from deim_lab.host.files import user_path

SINGLE = 3.4  # inches: one column of a two-column paper
DOUBLE = 7.0  # inches: both columns

# Public names of ``palette``.
COLOURS, OTHERS, DASHES = palette.METHODS, palette.OTHERS, palette.DASHES
INK, FAINT = palette.INK, palette.FAINT
colour, colours, dashes = palette.colour, palette.colours, palette.dashes

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "patch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "image.interpolation": "nearest",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 144,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "deim-lab",
    "text.parse_math": False,  # names of classes and arms are text: "$5 or $10" is no formula
}
_SCREEN_DPI, _SCREEN_PX_PER_INCH, _PRINT_DPI = 144, 104, 300


class PaperFigure(Figure):
    """A figure that shows itself in a notebook (PNG, or JPEG for photos) and has its numbers.

    Attributes:
        tables: panel → the numbers drawn in it, attached by the function that drew them.
        photographic: shown as JPEG, a tenth of the size if images fill the panels.
    """

    def __init__(self, *args: Any, photographic: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tables: dict[str, pd.DataFrame] = {}
        self.photographic = photographic
        FigureCanvasAgg(self)

    def draw(self, renderer: RendererBase) -> None:
        """Draw the figure, with glyphs for all of its text."""
        lettering.complete(self)
        super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]] | None:
        return None if self.photographic else self._shown("png", {})

    def _repr_jpeg_(self) -> tuple[bytes, dict[str, int]] | None:
        return self._shown("jpeg", {"pil_kwargs": {"quality": 82}}) if self.photographic else None

    def _shown(self, kind: str, options: dict[str, Any]) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        with context():
            self.savefig(buffer, format=kind, dpi=_SCREEN_DPI, **options)
        return buffer.getvalue(), {"width": round(self.get_figwidth() * _SCREEN_PX_PER_INCH)}


class _PlainNumbers(LogFormatter):
    """Label the same ticks as matplotlib does, with 0.01 instead of a formula for 10⁻²."""

    def _num_to_string(self, x: float, vmin: float, vmax: float) -> str:
        return f"{x:g}"


def context() -> AbstractContextManager[None]:
    """Context manager that applies the style and restores the settings afterwards."""
    return matplotlib.rc_context(cast(Any, _RC))


def figure(
    width: float = SINGLE, height: float | None = None, *, photographic: bool = False
) -> PaperFigure:
    """Make an empty figure of ``width`` × ``height`` inches (default: golden ratio).

    Call this inside ``context``.
    """
    return PaperFigure(
        figsize=(width, height or width / 1.5), layout="constrained", photographic=photographic
    )


def canvas(
    ax: Axes | None, width: float = SINGLE, height: float | None = None
) -> tuple[Figure, Axes]:
    """The given axes and its figure, or one axes on a new figure."""
    if ax is not None:
        lettering.as_text(ax)
        return _root(ax), ax
    fresh = figure(width, height)
    return fresh, fresh.add_subplot()


def attach(fig: Figure, panel: str, columns: Mapping[str, Any] | pd.DataFrame) -> None:
    """Attach the numbers of a panel to the figure, for ``numbers`` and ``save``.

    Works for figures of other classes too.
    """
    tables: dict[str, pd.DataFrame] = getattr(fig, "tables", {})
    tables[panel] = pd.DataFrame(columns)
    fig.tables = tables  # type: ignore[attr-defined]


def numbers(fig: Figure) -> pd.DataFrame:
    """The numbers of a figure as one tidy table; several panels get a ``panel`` column."""
    tables: dict[str, pd.DataFrame] = getattr(fig, "tables", {})
    if not tables:
        raise ValueError(
            "this figure has no numbers attached. Draw it with a function of deim_lab.figures, or "
            "pass save(…, data=…)"
        )
    if len(tables) == 1:
        return next(iter(tables.values()))
    return pd.concat(
        [table.assign(panel=panel) for panel, table in tables.items()], ignore_index=True
    ).pipe(lambda table: table[["panel", *(name for name in table.columns if name != "panel")]])


def save(
    fig: Figure, path_stem: str | Path, data: pd.DataFrame | Mapping[str, Any] | None = None
) -> tuple[Path, Path, Path, Path]:
    """Write the figure as PNG (300 dpi), SVG and PDF (fonts embedded), and its numbers as CSV.

    Args:
        path_stem: path without a suffix; folders are created, files from an earlier call are
            replaced entirely.
        data: the numbers; by default those attached by the function that drew the figure.

    Returns:
        The four paths: ``.png``, ``.svg``, ``.pdf``, ``.csv``.
    """
    stem = user_path(path_stem)
    if stem.suffix.lower() in {".png", ".svg", ".pdf", ".csv"}:
        raise ValueError(
            f"{stem.name!r} has a suffix; expected a path without one (save writes .png, .svg, "
            f".pdf and .csv)"
        )
    table = numbers(fig) if data is None else pd.DataFrame(data)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = {end: stem.with_name(f"{stem.name}.{end}") for end in ("png", "svg", "pdf", "csv")}
    with context():
        lettering.complete(fig)
        for suffix in ("png", "svg", "pdf"):
            # No date in the file: the same numbers give the same bytes.
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
            with files.writing_whole(paths[suffix]) as temporary:
                fig.savefig(temporary, format=suffix, dpi=_PRINT_DPI, metadata=metadata)
    with files.writing_whole(paths["csv"]) as temporary:
        table.to_csv(temporary, index=False)
    return paths["png"], paths["svg"], paths["pdf"], paths["csv"]


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with numbers; matplotlib's own labels are formulas."""
    axis.set_major_formatter(_PlainNumbers())
    axis.set_minor_formatter(_PlainNumbers())


def label(name: str) -> str:
    """Name of a method as printed."""
    for table in (CLASSIFICATION, OPERATIONS):
        if name in table:
            return table.label(name)
    return {
        "plain": "plain",
        "both": "Mosaic + MixUp",
        "dense": "Dense O2O",
    }.get(name, name)


def _root(ax: Axes) -> Figure:
    figure_of_axes = ax.get_figure(root=True)
    if figure_of_axes is None:
        raise ValueError("these axes do not belong to a figure")
    return figure_of_axes
