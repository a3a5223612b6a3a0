"""Figures of matching: cost matrices, pairs on the image, match quality, positives.

Tables are those of ``study.matching`` (or any with the same columns). The checkpoint of epoch e
(from 0, as in the log) is drawn at e + 1, the number of completed epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from deim_lab import palette
from deim_lab.figures import marks, style
from deim_lab.figures.pairs import (
    QUALITY,
    Drawn,
    Steps,
    few,
    levels_of,
    on_image,
    over_layers,
)

__all__ = [
    "QUALITY",
    "Drawn",
    "Steps",
    "cost_matrix",
    "few",
    "growth",
    "iou_histogram",
    "levels_of",
    "method_colours",
    "on_image",
    "over_epochs",
    "over_layers",
    "positives",
    "quality_and_stability",
    "shown_queries",
]

Array = NDArray[Any]
_PARTS = {"class": "class", "l1": "L1", "giou": "−GIoU"}
method_colours = palette.matchings


def cost_matrix(
    costs: Mapping[str, Array],
    pairs: Sequence[tuple[int, int]],
    *,
    target_names: Sequence[str] = (),
    limit: int | None = None,
) -> Figure:
    """One panel per part of the cost, and one for the sum: targets down, queries across.

    Dark is cheap. The assignment is drawn as squares.

    Args:
        costs: part → ``[T, Q]``, already weighted (``class``, ``l1``, ``giou``).
        pairs: assigned ``(query, target)``.
        target_names: of the rows.
        limit: maximal number of columns: the assigned queries first, then the cheapest others.
            None: all assigned and a few others, 16 to 40.
    """
    total = np.sum([np.asarray(part) for part in costs.values()], axis=0)
    columns = shown_queries(
        total, pairs, limit if limit is not None else min(max(16, len(pairs) + 4), 40)
    )
    with style.context():
        fig = style.figure(style.DOUBLE, 0.95 + min(0.3 * max(len(total), 3), 4.5))
        panels = {
            **{_PARTS.get(name, name): np.asarray(part) for name, part in costs.items()},
            "sum": total,
        }
        axes = fig.subplots(1, len(panels), sharey=True)
        for ax, (title, values) in zip(axes, panels.items(), strict=True):
            picture = _cost_panel(ax, values[:, columns], columns, pairs)
            ax.set_title(title)
            bar = fig.colorbar(picture, ax=ax, location="top", aspect=14, shrink=0.9, pad=0.02)
            bar.ax.tick_params(labelsize=6)
        rows = range(len(total))
        axes[0].set_yticks(rows, target_names or [str(row) for row in rows])
        axes[0].set_ylabel("target")
        style.attach(fig, "costs", _cost_table(panels, columns, pairs))
        return fig


def _cost_panel(
    ax: Axes, values: Array, columns: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> AxesImage:
    """Draw one part of the cost as an image, with a square at each assignment."""
    picture = ax.imshow(values, cmap="viridis", aspect="auto")
    place = {query: column for column, query in enumerate(columns)}
    drawn = [(place[query], target) for query, target in pairs if query in place]
    ax.plot(
        [column for column, _ in drawn],
        [target for _, target in drawn],
        "s",
        markersize=6,
        markerfacecolor="none",
        markeredgecolor=palette.ASSIGNED,
        markeredgewidth=1.4,
    )
    ax.set_xticks(range(len(columns)), [str(query) for query in columns], rotation=90, fontsize=5.5)
    ax.set_xlabel("query")
    return picture


def _cost_table(
    panels: Mapping[str, Array], columns: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """The numbers of the panels, one row per target and query."""
    target, column = np.indices((len(panels["sum"]), len(columns)))
    targets, queries = target.ravel(), np.asarray(columns)[column.ravel()]
    assigned = set(pairs)
    return {
        "target": targets,
        "query": queries,
        **{name: values[:, columns].ravel() for name, values in panels.items()},
        "assigned": [pair in assigned for pair in zip(queries.tolist(), targets.tolist())],
    }


def shown_queries(total: Array, pairs: Sequence[tuple[int, int]], limit: int) -> list[int]:
    """Columns of ``cost_matrix``: assigned queries by target, then the cheapest others.

    The cost of a query is its least cost for any target.
    """
    assigned = [query for query, _ in sorted(pairs, key=lambda pair: pair[1])]
    others = (
        [int(query) for query in total.min(axis=0).argsort() if query not in set(assigned)]
        if len(total)
        else []
    )
    return (assigned + others)[: max(limit, 1)]


def iou_histogram(pairs: pd.DataFrame, *, bins: int = 10, limit: int = 5) -> Figure:
    """Share of matched pairs by IoU, one panel per level, one line per epoch (light to dark).

    ``pairs``: columns ``epoch, level, iou``. At most ``limit`` epochs are drawn.
    """
    levels, epochs = (
        list(dict.fromkeys(pairs["level"])),
        list(few(dict.fromkeys(sorted(set(pairs["epoch"]))), limit)),
    )
    edges = np.linspace(0, 1, bins + 1)
    with style.context():
        fig = style.figure(style.DOUBLE, 2.0)
        tints = _by_epoch([epoch + 1 for epoch in epochs])
        for ax, level in zip(
            np.atleast_1d(fig.subplots(1, len(levels), sharey=True)), levels, strict=True
        ):
            for epoch in epochs:
                values = pairs.loc[
                    (pairs["level"] == level) & (pairs["epoch"] == epoch), "iou"
                ].to_numpy()
                count, _ = np.histogram(values, edges)
                share = count / max(len(values), 1)
                ax.stairs(share, edges, color=tints.to_rgba(epoch + 1), linewidth=1.3)
                style.attach(
                    fig,
                    f"{level}, epoch {epoch}",
                    {
                        "level": level,
                        "epoch": epoch,
                        "iou_from": edges[:-1],
                        "iou_to": edges[1:],
                        "pairs": count,
                        "share": share,
                    },
                )
            ax.axvline(0.5, color=palette.FAINT, linewidth=0.8, zorder=0)
            ax.set_title(level)
            ax.set_xlim(0, 1)
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            ax.set_ylim(bottom=0)
            ax.set_xlabel("IoU of the match")
        fig.axes[0].set_ylabel("share of matches")
        marks.in_percent(fig.axes[0].yaxis)
        bar = fig.colorbar(tints, ax=fig.axes, aspect=18, pad=0.01, label="epochs done")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        return fig


def over_epochs(
    table: pd.DataFrame, value: str, *, label: str | None = None, ax: Axes | None = None
) -> Figure:
    """``value`` against the epoch, one line per level.

    ``table``: columns ``epoch, level`` and ``value``, a share in [0, 1]. For
    ``study.matching.low_quality`` (``share``) and ``study.matching.stability_over`` (``changed``).
    """
    levels = list(dict.fromkeys(table["level"]))
    with style.context():
        fig, ax = style.canvas(ax)
        for level, tint in _by_level(levels).items():
            rows = table[table["level"] == level]
            ax.plot(rows["epoch"] + 1, rows[value], "o-", color=tint, label=level, clip_on=False)
        ax.set_ylim(0, 1)
        marks.in_percent(ax.yaxis, decimals=None)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epochs done")
        ax.set_ylabel(label or value)
        _room(ax, table["epoch"])
        if levels:
            ax.legend(loc="best", ncols=2)
        style.attach(fig, value, table[["epoch", "level", value]])
        return fig


def quality_and_stability(low: pd.DataFrame, changed: pd.DataFrame) -> Figure:
    """Share of low-quality matches and of targets whose query changed, side by side."""
    with style.context():
        fig = style.figure(style.DOUBLE, 2.3)
        left, right = fig.subplots(1, 2)
        over_epochs(low, "share", label="matches with IoU < 0.5", ax=left)
        over_epochs(changed, "changed", label="targets whose query changed", ax=right)
        left.get_legend().remove()
        return fig


def positives(counted: pd.DataFrame) -> Figure:
    """Mean positives per image of each method (bars), and positives per target.

    A line marks the targets of the same images. ``counted``: columns ``method, targets,
    positives``, one row per image (``study.matching.positives``).
    """
    means = counted.groupby("method", sort=False)[["targets", "positives"]].mean()
    names, per_target = list(means.index), (means["positives"] / means["targets"]).to_numpy()
    tints = method_colours(names)
    with style.context():
        fig = style.figure(style.DOUBLE, 0.75 + 0.36 * len(names))
        left, right = fig.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        rows = marks.bars(left, means["positives"], [tints[name] for name in names], times=True)
        marks.bars(right, per_target, [tints[name] for name in names], times=False)
        for ax, values, label in (
            (left, means["positives"].to_numpy(), "positives per image"),
            (right, per_target, "positives per target"),
        ):
            ax.set_xlim(0, float(np.max(values, initial=0)) * 1.3 or 1)
            ax.set_xlabel(label)
        left.vlines(
            means["targets"],
            rows - 0.42,
            rows + 0.42,
            color=palette.INK,
            linewidth=1.2,
            label="targets per image",
        )
        left.legend(
            loc="lower right"
            if means["positives"].iloc[-1] < means["positives"].max()
            else "upper right"
        )
        left.set_yticks(rows, [name.replace(" (", "\n(") for name in names])
        style.attach(
            fig,
            "positives",
            {
                "method": names,
                "targets_per_image": means["targets"].to_numpy(),
                "positives_per_image": means["positives"].to_numpy(),
                "positives_per_target": per_target,
            },
        )
        return fig


def growth(table: pd.DataFrame) -> Figure:
    """Positives per target of each method against the epoch.

    ``table``: columns ``epoch, method, per_target`` (``study.matching.positives_over``).
    """
    names = list(dict.fromkeys(table["method"]))
    with style.context():
        fig, ax = style.canvas(None)
        for name, tint in method_colours(names).items():
            rows = table[table["method"] == name]
            ax.plot(
                rows["epoch"] + 1, rows["per_target"], "o-", color=tint, label=name, clip_on=False
            )
        ax.set_ylim(0, max(2.0, 1.1 * float(table["per_target"].max())))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epochs done")
        ax.set_ylabel("positives per target")
        _room(ax, table["epoch"])
        ax.legend(loc="best")
        style.attach(fig, "growth", table[["epoch", "method", "per_target"]])
        return fig


def _room(ax: Axes, epochs: pd.Series) -> None:
    """Leave half an epoch before the first and after the last, even for one epoch or none."""
    first, last = (epochs.min(), epochs.max()) if len(epochs) else (0, 0)
    ax.set_xlim(first + 0.5, last + 1.5)


def _by_epoch(epochs: Sequence[int]) -> ScalarMappable:
    ramp = LinearSegmentedColormap.from_list("epochs", palette.EPOCH_RAMP)
    return ScalarMappable(
        Normalize(min(epochs, default=0), max(max(epochs, default=1), min(epochs, default=0) + 1)),
        ramp,
    )


def _by_level(levels: Sequence[str]) -> dict[str, Any]:
    ramp = LinearSegmentedColormap.from_list("levels", palette.LEVEL_RAMP)
    return {level: ramp(index / max(len(levels) - 1, 1)) for index, level in enumerate(levels)}
