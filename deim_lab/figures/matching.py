"""Matching made visible: cost matrices, matched pairs on the image, match quality and stability
over epochs, positives per image.

Tables are those of ``microscope`` (or any with the same columns). Matched pairs to be drawn are a
table, a row a target at a level: ``level, iou`` and both boxes in pixels, ``query_x1 … query_y2``
(NaN: the target has no query) and ``target_x1 … target_y2``. The checkpoint of epoch e (from 0, as
in the log) stands at e + 1, the epochs then done.
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
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from deim_lab import palette
from deim_lab.figures import style

Array = NDArray[Any]
# Match quality from poor to good, in the order of lightness and of two hues that colour-blind
# readers tell apart.
QUALITY = LinearSegmentedColormap.from_list("quality", palette.QUALITY_RAMP)
_PARTS = {"class": "class", "l1": "L1", "giou": "−GIoU"}
_SIDES = ("x1", "y1", "x2", "y2")
method_colours = palette.matchings


def cost_matrix(
    costs: Mapping[str, Array],
    pairs: Sequence[tuple[int, int]],
    *,
    target_names: Sequence[str] = (),
    limit: int | None = None,
) -> Figure:
    """One panel a part of the cost, and their sum: targets down, queries across, dark is cheap; the
    assignment as squares.

    Args:
        costs: part → ``[T, Q]`` with its weight in it (``class``, ``l1``, ``giou``).
        pairs: assigned ``(query, target)``.
        target_names: of the rows.
        limit: columns at most: the assigned queries first, then the cheapest of the others. None:
            all assigned and a few others, 16 to 40.
    """
    total = np.sum([np.asarray(part) for part in costs.values()], axis=0)
    columns = shown_queries(
        total, pairs, limit if limit is not None else min(max(16, len(pairs) + 4), 40)
    )
    place = {query: column for column, query in enumerate(columns)}
    rows = len(total)
    with style.context():
        fig = style.figure(style.DOUBLE, 0.95 + min(0.3 * max(rows, 3), 4.5))
        panels = {
            **{_PARTS.get(name, name): np.asarray(part) for name, part in costs.items()},
            "sum": total,
        }
        for ax, (title, values) in zip(
            fig.subplots(1, len(panels), sharey=True), panels.items(), strict=True
        ):
            picture = ax.imshow(values[:, columns], cmap="viridis", aspect="auto")
            ax.plot(
                [place[q] for q, _ in pairs if q in place],
                [t for q, t in pairs if q in place],
                "s",
                markersize=6,
                markerfacecolor="none",
                markeredgecolor=palette.ASSIGNED,
                markeredgewidth=1.4,
            )
            ax.set_title(title)
            ax.set_xticks(
                range(len(columns)), [str(query) for query in columns], rotation=90, fontsize=5.5
            )
            ax.set_yticks(range(rows), target_names or [str(row) for row in range(rows)])
            ax.set_xlabel("query")
            fig.colorbar(
                picture, ax=ax, location="top", aspect=14, shrink=0.9, pad=0.02
            ).ax.tick_params(labelsize=6)
        fig.axes[0].set_ylabel("target")
        target, column = np.indices((rows, len(columns)))
        queries = np.asarray(columns)[column.ravel()]
        assigned = set(pairs)
        style.attach(
            fig,
            "costs",
            {
                "target": target.ravel(),
                "query": queries,
                **{name: values[:, columns].ravel() for name, values in panels.items()},
                "assigned": [
                    pair in assigned
                    for pair in zip(queries.tolist(), target.ravel().tolist(), strict=True)
                ],
            },
        )
        return fig


def shown_queries(total: Array, pairs: Sequence[tuple[int, int]], limit: int) -> list[int]:
    """The columns of ``cost_matrix``: assigned queries by target, then those with the least cost
    for any target.
    """
    assigned = [query for query, _ in sorted(pairs, key=lambda pair: pair[1])]
    others = (
        [int(query) for query in total.min(axis=0).argsort() if query not in set(assigned)]
        if len(total)
        else []
    )
    return (assigned + others)[: max(limit, 1)]


def on_image(
    image: Array, pairs: pd.DataFrame, *, ax: Axes | None = None, title: str = ""
) -> Figure:
    """Targets (black on white) and their queries on the image: a query's colour is the IoU, a line
    joins the centres.

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
    """A row a step (checkpoint), a column a level: the static twin of the checkpoint slider.
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
    """At most ``limit`` of the steps, evenly from the first to the last."""
    keys = list(steps)
    chosen = sorted(
        {round(index) for index in np.linspace(0, len(keys) - 1, min(limit, len(keys)))}
    )
    return {keys[index]: steps[keys[index]] for index in chosen}


class Drawn:
    """The artists of ``on_image``, made once; ``update`` moves them to other pairs. The slider and
    the still picture share it.
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
        """What ``update`` changes, in drawing order."""
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
    """All levels of one image, stepping through checkpoints: what the slider shows.

    ``axes``: one a level of ``steps`` (name → pairs of all levels), in order.
    """

    def __init__(
        self, image: Array, steps: Mapping[str, pd.DataFrame], axes: Sequence[Axes]
    ) -> None:
        self.steps, self.levels = list(steps.items()), levels_of(steps)
        self.drawn = [Drawn(image, ax) for ax in axes]

    @property
    def moving(self) -> list[Artist]:
        """What ``update`` changes, in drawing order."""
        return [artist for drawn in self.drawn for artist in drawn.moving]

    def update(self, index: int) -> str:
        """Show step ``index``; returns its numbers as text."""
        step, pairs = self.steps[index]
        for drawn, level in zip(self.drawn, self.levels, strict=True):
            drawn.update(pairs[pairs["level"] == level], level)
        means = pairs.groupby("level", sort=False)["iou"].mean()
        return f"{step}: mean matched IoU " + ", ".join(
            f"{level} {value:.2f}" for level, value in means.items()
        )


def iou_histogram(pairs: pd.DataFrame, *, bins: int = 10, limit: int = 5) -> Figure:
    """Share of matched pairs by IoU, a panel a level, a line an epoch (light to dark), ``limit``
    epochs at most.

    ``pairs``: columns ``epoch, level, iou``.
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
        fig.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        bar = fig.colorbar(tints, ax=fig.axes, aspect=18, pad=0.01, label="epochs done")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        return fig


def over_epochs(
    table: pd.DataFrame, value: str, *, label: str | None = None, ax: Axes | None = None
) -> Figure:
    """One line a level of ``value`` against the epoch; ``table``: columns ``epoch, level`` and
    ``value``, a share in [0, 1].

    For ``microscope.low_quality`` (``share``) and ``microscope.stability_over`` (``changed``).
    """
    levels = list(dict.fromkeys(table["level"]))
    with style.context():
        fig, ax = style.canvas(ax)
        for level, tint in _by_level(levels).items():
            rows = table[table["level"] == level]
            ax.plot(rows["epoch"] + 1, rows[value], "o-", color=tint, label=level, clip_on=False)
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epochs done")
        ax.set_ylabel(label or value)
        _room(ax, table["epoch"])
        if levels:
            ax.legend(loc="best", ncols=2)
        style.attach(fig, value, table[["epoch", "level", value]])
        return fig


def quality_and_stability(low: pd.DataFrame, changed: pd.DataFrame) -> Figure:
    """Share of low-quality matches, and of targets whose query changed, side by side."""
    with style.context():
        fig = style.figure(style.DOUBLE, 2.3)
        left, right = fig.subplots(1, 2)
        over_epochs(low, "share", label="matches with IoU < 0.5", ax=left)
        over_epochs(changed, "changed", label="targets whose query changed", ax=right)
        left.get_legend().remove()
        return fig


def positives(counted: pd.DataFrame) -> Figure:
    """Mean positives an image of each method (bars, with the targets of those images as a line) and
    positives a target.

    ``counted``: columns ``method, targets, positives``, a row an image (``microscope.positives``).
    """
    means = counted.groupby("method", sort=False)[["targets", "positives"]].mean()
    names, per_target = list(means.index), (means["positives"] / means["targets"]).to_numpy()
    tints = method_colours(names)
    with style.context():
        fig = style.figure(style.DOUBLE, 0.75 + 0.36 * len(names))
        left, right = fig.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        rows = np.arange(len(names))[::-1]
        for ax, values, label in (
            (left, means["positives"].to_numpy(), "positives per image"),
            (right, per_target, "positives per target"),
        ):
            ax.barh(rows, values, height=0.62, color=[tints[name] for name in names])
            for row, value in zip(rows, values, strict=True):
                times = (
                    f"  ({value / values[0]:.1f}×)"
                    if ax is left and row != rows[0] and values[0]
                    else ""
                )
                ax.annotate(
                    f"{value:.1f}{times}",
                    (value, row),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                )
            ax.set_xlim(0, float(np.max(values, initial=0)) * 1.3 or 1)
            ax.set_xlabel(label)
            ax.tick_params(axis="y", length=0)
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
    """Positives a target of each method against the epoch; ``table``: columns
    ``epoch, method, per_target`` (``microscope.positives_over``).
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


def levels_of(steps: Mapping[str, pd.DataFrame]) -> list[str]:
    """Names of the levels that the steps have, in order."""
    return list(dict.fromkeys(str(level) for pairs in steps.values() for level in pairs["level"]))


def _outline(box: Array) -> list[tuple[float, float]]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]


def _centre(box: Array) -> tuple[float, float]:
    return float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2


def _room(ax: Axes, epochs: pd.Series) -> None:
    """Half an epoch beside the first and the last: an axis also where there is one epoch, or
    none.
    """
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
