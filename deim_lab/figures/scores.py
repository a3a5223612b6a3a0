"""Detectors compared on one data set: COCO's numbers as dots, F1 over the score threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deim_lab import palette
from deim_lab.figures import marks, style
from deim_lab.study.gradients.thresholds import F1

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
_HIGHEST_ROW = 14  # detectors that one figure can distinguish


def comparison(table: pd.DataFrame, curves: Mapping[str, F1], *, data: str) -> Figure:
    """COCO's numbers of each detector (left) and its F1 at every threshold (right).

    A dot marks each detector's best F1.

    Args:
        table: ``model`` and ``SHOWN`` in percent, one row per detector; NaN (no object of that
            size) is not drawn.
        curves: detector → its F1 over thresholds.
        data: the data set that was scored, for the title.
    """
    names = [str(name) for name in table["model"]]
    if len(names) > _HIGHEST_ROW:
        raise ValueError(
            f"{len(names)} detectors are too many for one figure; expected at most {_HIGHEST_ROW}"
        )
    tints = dict(zip(names, palette.DETECTORS))
    shown = [name for name in SHOWN if table[name].notna().any()]
    with style.context():
        rows_of_legend = -(-len(names) // 3)
        height = 0.9 + 0.14 * rows_of_legend + len(shown) * (0.16 + 0.07 * len(names))
        fig = style.figure(style.DOUBLE, max(2.4, height))
        left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
        _numbers(left, table, shown, tints)
        left.set_title(f"{data}: COCO's numbers")
        f1 = _f1(right, curves, tints)
        fig.legend(
            handles=right.get_legend_handles_labels()[0],
            loc="outside lower left",
            ncols=3,
            fontsize=6.5,
        )
        style.attach(fig, "scores", table)
        style.attach(fig, "F1", f1)
        return fig


def _numbers(ax: Axes, table: pd.DataFrame, shown: Sequence[str], tints: Mapping[str, str]) -> None:
    """Draw one line per number, with a dot and its value for each detector."""
    names = [str(name) for name in table["model"]]
    for position, metric in enumerate(shown):
        ground = palette.BAND if position % 2 else "white"
        ax.axhspan(position - 0.5, position + 0.5, color=ground, zorder=0)
        for index, name in enumerate(names):
            value = table[metric].iloc[index]
            height = position + 0.6 * ((index + 0.5) / len(names) - 0.5)
            ax.plot(value, height, "o", color=tints[name], markersize=4.5, clip_on=False)
            if pd.notna(value):
                marks.beside(ax, f"{value:.1f}", (value, height), (4, -2), fontsize=5.5)
    ax.set_yticks(range(len(shown)), shown)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    low, high = float(np.nanmin(table[shown])), float(np.nanmax(table[shown]))
    ax.set_xlim(max(0.0, low - 0.12 * (high - low) - 1), high + 0.12 * (high - low) + 1)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("percent")


def _f1(ax: Axes, curves: Mapping[str, F1], tints: Mapping[str, str]) -> pd.DataFrame:
    """Draw F1 over the threshold, a step line per detector with a dot at its best.

    Returns the numbers.
    """
    parts = [pd.DataFrame(columns=["model", "threshold", "f1"])]
    for name, curve in curves.items():
        thresholds = np.asarray(curve.thresholds, dtype=float)
        values = np.asarray(curve.f1_at, dtype=float)
        ax.step(
            thresholds[::-1],
            values[::-1],
            where="pre",
            color=tints[name],
            linewidth=1.1,
            label=f"{name}: best F1 {curve.f1:.2f} at {curve.threshold:.2f}",
        )
        ax.plot(curve.threshold, curve.f1, "o", color=tints[name], markersize=5, clip_on=False)
        parts.append(_sparse(name, thresholds, values))
    numbers = pd.concat(parts[1:] or parts, ignore_index=True)
    # Scores in percent and logits keep their range.
    ax.set_xlim(0, max([1.0, *(float(part["threshold"].max()) for part in parts[1:])]))
    ax.set_ylim(0, 1)
    ax.set_xlabel("score threshold")
    ax.set_title("Which threshold is best? (F1 at IoU 0.5)")
    return numbers


def _sparse(name: str, thresholds: np.ndarray, values: np.ndarray, most: int = 400) -> pd.DataFrame:
    """Thin a curve's numbers to the resolution of a picture."""
    chosen = np.unique(
        np.linspace(0, len(thresholds) - 1, min(most, len(thresholds))).round().astype(int)
    )
    return pd.DataFrame({"model": name, "threshold": thresholds[chosen], "f1": values[chosen]})
