"""Compare arms over seeds: differences, curves, epochs to reach, γ, density, cost.

The tables come from the views of ``study.ablation``; nothing more is averaged here. An arm that is
left out of the conclusions (factor never active, another budget) is drawn hollow. ``tints`` maps
arms to colours (``colours`` gives them for all arms of a comparison). It keeps an arm's colour when
a table lacks some arms. By default the table's own arms are coloured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deim_lab import palette
from deim_lab.figures import marks, style
from deim_lab.figures.arm_rows import (
    TITLES,
    differences,
    halves,
    in_conclusions,
    reaching,
    title,
)
from deim_lab.study.gradients.curves import RECIPE_GAMMA

__all__ = [
    "TITLES",
    "colours",
    "curves",
    "density",
    "differences",
    "gammas",
    "halves",
    "price",
    "reaching",
    "title",
]

_MARKERS = "osD^vP*X"  # a marker shape per arm, for print in grey

colours = palette.arms


def curves(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    target: float | None = None,
    baseline: str | None = None,
    left_out: Collection[str] = (),
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The metric over epochs: mean over seeds as a line, their range as a band.

    Args:
        table: ``arm, seed, epochs_done`` and the metric (``study.ablation.curves``).
        target: drawn as a level: the baseline's score at the end.
        baseline: the baseline's name, for the label of the level.
        left_out: arms that are in no conclusion: drawn thin, with hollow marks.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.DOUBLE * 0.72, 3.0)
        tints = tints or colours(table["arm"].unique())
        bands = []
        for name, part, marker in _arms(table):
            over = _over_seeds(part, metric)
            seeds = part["seed"].nunique()
            _band(ax, over, name, seeds, tints[name], marker, left_out=name in left_out)
            bands.append(over.assign(arm=name))
        if target is not None:
            ax.axhline(target, color=palette.INK, linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=1)
            text = f"{baseline or 'baseline'}'s end: {target:.3f}"
            marks.beside(ax, text, (0, target), (3, 2), xycoords=("axes fraction", "data"))
        _epochs(ax, table["epochs_done"])
        ax.set_ylabel(f"{title(metric)} (mean; band: all seeds)")
        ax.legend(loc="lower right")
        combined = pd.concat(bands, ignore_index=True) if bands else pd.DataFrame({"arm": []})
        style.attach(fig, "curves", combined)
        return fig


def gammas(
    table: pd.DataFrame, metric: str = "AP", *, recipe: float = RECIPE_GAMMA, ax: Axes | None = None
) -> Figure:
    """The metric against MAL's γ: a dot per run, the mean as a line, ± one standard deviation.

    The recipe's own γ is marked. ``table``: ``gamma, seed`` and the metric
    (``study.ablation.gammas``).
    """
    with style.context():
        fig, ax = style.canvas(ax)
        over = table.groupby("gamma")[metric].agg(["mean", "std", "count"]).reset_index()
        colour = palette.METHODS["mal"]
        ax.plot(
            table["gamma"],
            table[metric],
            "o",
            markersize=2.8,
            color=colour,
            alpha=0.5,
            markeredgewidth=0,
        )
        ax.errorbar(
            over["gamma"],
            over["mean"],
            over["std"].fillna(0),
            color=colour,
            marker="s",
            capsize=2,
            linewidth=1.4,
            elinewidth=0.8,
        )
        if len(over):
            ax.axvline(recipe, color=palette.INK, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1)
            marks.above_the_axes(ax, "recipe", recipe)
        else:
            marks.say(ax, "γ was not varied (grids/gamma.yaml)")
        ax.set_xlabel("γ of MAL")
        ax.set_ylabel(f"{title(metric)} (mean ± sd)")
        style.attach(fig, "gamma", table)
        return fig


def density(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The metric against measured targets per image: a dot per run, a large mark per arm.

    Large marks are means. Targets are the mean over the entire run. ``table``: ``arm, seed,
    targets_per_image`` and the metric, ``standing`` (``study.ablation.densities``).
    """
    return _against(
        table,
        "targets_per_image",
        "targets per image over the run, measured",
        metric,
        "density",
        ax,
        tints,
    )


def price(
    table: pd.DataFrame, metric: str = "AP", *, tints: Mapping[str, str] | None = None
) -> Figure:
    """The metric against wall time in minutes (left) and peak memory (right).

    A dot per run, a large mark per arm's mean. ``table``: ``arm, minutes, peak_memory_mib`` and the
    metric (``study.ablation.price``).
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.5)
        left, right = fig.subplots(1, 2, sharey=True)
        _against(
            table, "minutes", "minutes a run (wall)", metric, "time", left, tints, legend=False
        )
        _against(table, "peak_memory_mib", "peak memory, MiB", metric, "memory", right, tints)
        right.set_ylabel("")
        return fig


def _against(
    table: pd.DataFrame,
    column: str,
    label: str,
    metric: str,
    panel: str,
    ax: Axes | None,
    tints: Mapping[str, str] | None,
    *,
    legend: bool = True,
) -> Figure:
    """Draw a dot per run and a large mark at each arm's mean."""
    with style.context():
        fig, ax = style.canvas(ax, style.DOUBLE * 0.72, 2.7)
        tints = tints or colours(table["arm"].unique())
        for name, part, marker in _arms(table):
            tint = tints[name]
            counts = "standing" not in part or in_conclusions(part["standing"].iloc[0])
            ax.scatter(
                part[column],
                part[metric],
                s=12,
                marker=marker,
                facecolors=to_rgba(tint, 0.45) if counts else "none",
                edgecolors=tint,
                linewidths=0 if counts else 0.7,
            )
            ax.scatter(
                part[column].mean(),
                part[metric].mean(),
                s=46,
                marker=marker,
                facecolors=tint if counts else "none",
                edgecolors=tint,
                linewidths=1.0,
                label=name,
                zorder=3,
            )
        ax.set_xlabel(label)
        ax.set_ylabel(title(metric))
        ax.margins(x=0.08, y=0.1)
        if legend and len(table):
            ax.legend(
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                title="mean (large), runs",
                title_fontsize=7,
            )
        if table[column].isna().all():
            marks.say(ax, "not in the log")
        shown = [name for name in ("arm", "seed", column, metric, "standing") if name in table]
        style.attach(fig, panel, table[shown])
        return fig


def _arms(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Each arm's name, rows and mark, in the order of the table."""
    parts = table.groupby("arm", sort=False)
    for (name, part), marker in zip(parts, cycle(_MARKERS), strict=False):
        yield str(name), part, marker


def _over_seeds(part: pd.DataFrame, metric: str) -> pd.DataFrame:
    """``epochs_done, mean, min, max, count`` over seeds, at the epochs that every seed has.

    Other epochs are left out, because a mean over fewer seeds would jump.
    """
    over = (
        part.groupby("epochs_done")[metric]
        .agg(["mean", "min", "max", "count"])
        .dropna()
        .reset_index()
    )
    return over[over["count"] == over["count"].max()]


def _band(
    ax: Axes,
    over: pd.DataFrame,
    name: str,
    seeds: int,
    tint: str,
    marker: str,
    *,
    left_out: bool,
) -> None:
    """Draw one arm's mean as a line and the range of its seeds behind it."""
    label = f"{name} ({seeds} seed)" if seeds == 1 else f"{name} ({seeds} seeds)"
    (line,) = ax.plot(
        over["epochs_done"],
        over["mean"],
        color=tint,
        marker=marker,
        linestyle=palette.dashes(name),
        label=label,
    )
    if left_out:
        line.set(
            linewidth=0.7,
            markerfacecolor="white",
            markeredgewidth=0.7,
            label=f"{label}, left out",
        )
    if seeds > 1:
        ax.fill_between(
            over["epochs_done"], over["min"], over["max"], color=tint, alpha=0.15, linewidth=0
        )


def _epochs(ax: Axes, epochs_done: pd.Series) -> None:
    ax.set_xlim(0, 1.02 * float(epochs_done.max()) if len(epochs_done) else 1)
    ax.set_xlabel("epochs")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=2))
