"""One row per arm: difference from the baseline, or epochs to the baseline's score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deim_lab import palette
from deim_lab.config.entries import VALIDATION
from deim_lab.figures import marks, style

TITLES = {"best_f1": VALIDATION.label("best_f1")}
_ROW = 0.34  # inches: height of an arm's row


def title(metric: str) -> str:
    """Name of a metric as printed."""
    return VALIDATION.label(metric)


def in_conclusions(standing: str) -> bool:
    """Whether an arm of this standing is in the conclusions; others are drawn hollow."""
    return standing in ("counts", "baseline")


def differences(
    summary: pd.DataFrame,
    per_run: pd.DataFrame,
    metric: str = "AP",
    *,
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Each arm's mean difference from the baseline, 95 % interval, and a dot per shared seed.

    An interval that contains 0 is grey: not significant.

    Args:
        summary: ``arm, difference, low, high, standing``, the baseline first
            (``study.ablation.summary``).
        per_run: ``arm, seed`` and the metric (``study.ablation.per_run``).
    """
    baseline = str(summary["arm"].iloc[0])
    rows = summary[summary["difference"].notna()].reset_index(drop=True)
    seeds = {name: part.set_index("seed")[metric] for name, part in per_run.groupby("arm")}
    with style.context():
        fig, ax = _canvas(ax, len(rows))
        tints = tints or palette.arms(summary["arm"])
        dots: list[dict[str, Any]] = []
        for place, row in enumerate(rows.iloc[::-1].to_dict("records")):
            tint = _interval(ax, place, row, tints[row["arm"]])
            gaps = (seeds[row["arm"]] - seeds[baseline]).dropna()
            dots += [{"arm": row["arm"], "seed": seed, "gap": gap} for seed, gap in gaps.items()]
            ax.plot(
                gaps,
                np.full(len(gaps), place + 0.24),
                "o",
                markersize=2.6,
                color=tint,
                alpha=0.75,
                markeredgewidth=0,
                zorder=3,
            )
        ax.axvline(0, color=palette.INK, linewidth=0.8, zorder=1)
        _name_rows(ax, list(rows["arm"])[::-1])
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
        ax.set_xlabel(f"{title(metric)} − {baseline}'s: mean, 95 % interval, each seed")
        if rows.empty:
            marks.say(ax, "no arm to compare")
        style.attach(
            fig,
            "differences",
            rows[["arm", "difference", "low", "high", "p", "test", "pairs", "standing"]],
        )
        style.attach(fig, "seeds", pd.DataFrame(dots, columns=["arm", "seed", "gap"]))
        return fig


def halves(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Differences of arms at half the epochs from the baseline at all epochs, with intervals.

    ``table``: ``arm, epochs, baseline_epochs, difference, low, high, standing``
    (``study.ablation.halves``). Intervals are 95 %.
    """
    with style.context():
        fig, ax = _canvas(ax, len(table))
        tints = tints or palette.arms(table["arm"])
        names = []
        for place, row in enumerate(table.iloc[::-1].to_dict("records")):
            _interval(ax, place, row, tints[row["arm"]], width_outside=2.2)
            names.append(f"{row['arm']} ({row['epochs']:.0f})")
        ax.axvline(0, color=palette.INK, linewidth=0.8, zorder=1)
        _name_rows(ax, names)
        budget = f" at {table['baseline_epochs'].iloc[0]:.0f} epochs" if len(table) else ""
        ax.set_xlabel(f"{title(metric)} at half the epochs − the baseline's{budget}")
        if table.empty:
            marks.say(ax, "no arm ran half as long as the baseline (grids/half_epochs.yaml)")
        style.attach(fig, "half the epochs", table)
        return fig


def reaching(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Epochs until each run first scores what the baseline scores at its end.

    A dot per seed, a bar at the mean; ``never`` is on the right. ``table``: ``arm, seed,
    epochs_to_reach`` (NaN: never), ``epochs, standing``, the baseline first
    (``study.ablation.reaching``).
    """
    with style.context():
        arms = list(table["arm"].unique())
        fig, ax = _canvas(ax, len(arms))
        tints = tints or palette.arms(arms)
        longest = float(table["epochs"].max()) if len(table) else 1.0
        for place, name in enumerate(arms[::-1]):
            part = table[table["arm"] == name].sort_values("epochs_to_reach")
            _draw_reached(ax, place, part, tints[name], never=1.12 * longest)
            ax.axhline(place, color=palette.FAINT, linewidth=0.5, zorder=1)
        some_never = table["epochs_to_reach"].isna().any()
        if some_never:
            ax.axvline(1.06 * longest, color=palette.INK, linewidth=0.6, linestyle=(0, (1, 2)))
            marks.above_the_axes(ax, "never", 1.12 * longest)
        _name_rows(ax, arms[::-1])
        ax.set_xlim(0, 1.18 * longest if some_never else 1.03 * longest)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        baseline = arms[0] if arms else "the baseline"
        ax.set_xlabel(
            f"epochs to {baseline}'s final {title(metric)} (first evaluation at least as high)"
        )
        style.attach(fig, "epochs to reach", table)
        return fig


def _canvas(ax: Axes | None, rows: int) -> tuple[Figure, Axes]:
    return style.canvas(ax, style.DOUBLE * 0.72, 0.75 + _ROW * max(2, rows))


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Write the arms' names on the left, from below."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.6, max(len(names), 1) - 0.3)
    ax.tick_params(axis="y", length=0)


def _interval(
    ax: Axes, place: int, row: dict[Any, Any], tint: str, *, width_outside: float = 1.0
) -> str:
    """Draw a row's difference, its interval and a remark on the right; return its colour.

    ``width_outside``: interval width of an arm that is in no conclusion.
    """
    counts = in_conclusions(row["standing"])
    tint = tint if counts and _is_significant(row) else palette.NOT_SIGNIFICANT
    if pd.notna(row["low"]):
        ax.plot(
            [row["low"], row["high"]],
            [place, place],
            color=tint,
            linewidth=2.2 if counts else width_outside,
            solid_capstyle="butt",
            zorder=2,
        )
    ax.plot(
        row["difference"],
        place,
        "s",
        markersize=5.5,
        color=tint,
        markerfacecolor=tint if counts else "white",
        zorder=4,
    )
    ax.annotate(
        _remark(row), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=7
    )
    return tint


def _is_significant(row: dict[Any, Any]) -> bool:
    """Whether there is an interval that excludes 0."""
    return bool(pd.notna(row["low"]) and not row["low"] <= 0 <= row["high"])


def _remark(row: dict[Any, Any]) -> str:
    if not in_conclusions(row["standing"]):
        return str(row["standing"])
    if pd.isna(row["low"]):
        return "no interval: one seed"
    if not _is_significant(row):
        return "not significant"
    return "higher" if row["difference"] > 0 else "lower"


def _draw_reached(ax: Axes, place: int, part: pd.DataFrame, tint: str, *, never: float) -> None:
    """Draw an arm's runs as dots, and their mean if every run reached the score."""
    epochs = part["epochs_to_reach"]
    at = epochs.fillna(never).to_numpy(dtype=float)
    lift = 0.13 * (np.arange(len(at)) - (len(at) - 1) / 2)  # equal values side by side
    ax.plot(
        at,
        place + lift,
        "o",
        color=tint,
        markersize=4,
        markerfacecolor=tint if in_conclusions(part["standing"].iloc[0]) else "white",
        clip_on=False,
        zorder=3,
    )
    if epochs.isna().any() or epochs.empty:
        return
    mean = epochs.mean()
    ax.plot([mean] * 2, [place - 0.32, place + 0.32], color=tint, linewidth=1.6)
    ax.annotate(
        f"{mean:.1f}",
        (mean, place + 0.34),
        ha="center",
        va="bottom",
        fontsize=6.5,
        annotation_clip=False,
    )
