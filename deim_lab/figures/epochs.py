"""Helpers for figures over epochs: rows of one kind of event, the epoch axis, the phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from deim_lab import palette
from deim_lab.figures import marks
from deim_lab.figures.schedule import PHASES
from deim_lab.schedule import Phase

_NOTHING = "nothing logged yet"


def rows_of(table: pd.DataFrame, kind: str, column: str) -> pd.DataFrame:
    """Rows of one kind that have the column, sorted by epoch.

    An empty table keeps the columns that the figure needs.
    """
    if table.empty or "kind" not in table or column not in table:
        return pd.DataFrame({"epoch": pd.Series(dtype=float), column: pd.Series(dtype=float)})
    rows = table[(table["kind"] == kind) & table[column].notna()]
    return (
        rows.loc[:, rows.notna().any() | rows.columns.isin(["epoch", column])]
        .sort_values("epoch")
        .reset_index(drop=True)
    )


def only(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Select the named columns that a table has."""
    return table[[name for name in names if name in table]]


def dots(rows: pd.DataFrame) -> str | None:
    """Marker for a line with so few epochs that the line alone would hide them, else None."""
    return "o" if len(rows) <= 8 else None


def phases_of(table: pd.DataFrame) -> list[str]:
    """The phase of each logged epoch."""
    return [str(phase) for phase in rows_of(table, "train", "phase")["phase"]]


def is_dense(table: pd.DataFrame) -> bool:
    """Whether Mosaic, MixUp or an added augmentation was ever on."""
    applied = [str(name) for name in table if str(name).startswith("applied/")]
    names = ("mosaic_share", "mixup_share", *applied)
    shares = (rows_of(table, "train", name)[name] for name in names)
    return any(len(share) and share.max() > 0 for share in shares)


def finish(ax: Axes, table: pd.DataFrame, *, empty: bool, last: int | None = None) -> None:
    """Format the epoch axis, and say so if nothing is logged. ``last``: the end of the axis."""
    ax.set_xlim(0, last or max(len(phases_of(table)), 1))
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=2))
    if empty:
        marks.say(ax, _NOTHING)


def shade(ax: Axes, table: pd.DataFrame, *, strip: bool = True) -> None:
    """Draw the phases behind the panel: Dense O2O tinted, a strip of all phases along the top."""
    for phase, start, end in _spans(phases_of(table), is_dense(table)):
        if phase is Phase.DENSE:
            ax.axvspan(start, end, color=palette.colour("dense"), alpha=0.10, linewidth=0, zorder=0)
        if strip:
            ax.axvspan(start, end, ymin=0.985, color=PHASES[phase][1], linewidth=0, zorder=3)


def _spans(phases: Sequence[str], dense: bool) -> Iterator[tuple[Phase, int, int]]:
    """List (phase, first epoch, end) of each run of equal phases; ends are exclusive.

    ``dense``: if False (no Mosaic or MixUp), the dense phase counts as plain.
    """
    start = 0
    for epoch in range(1, len(phases) + 1):
        if epoch == len(phases) or phases[epoch] != phases[start]:
            phase = Phase(phases[start])
            yield (Phase.PLAIN if phase is Phase.DENSE and not dense else phase), start, epoch
            start = epoch
