"""Detectors beside one another on one data set: COCO's numbers as dots, and F1 over the score
threshold.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deim_lab import palette
from deim_lab.figures import style
from deim_lab.figures.quality import F1

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
_HIGHEST_ROW = 14  # detectors that one figure tells apart


def comparison(table: pd.DataFrame, curves: Mapping[str, F1], *, data: str) -> Figure:
    """Left: the numbers of each detector, a line a number; right: F1 at every threshold, a dot at
    each one's best.

    Args:
        table: ``model`` and ``SHOWN`` in percent, a row a detector; NaN (no object of that size)
            isn't drawn.
        curves: detector → its F1 over thresholds.
        data: what they were scored on, for the title.
    """
    names = [str(name) for name in table["model"]]
    if len(names) > _HIGHEST_ROW:
        raise ValueError(
            f"{len(names)} detectors are more than a figure can tell apart; at most {_HIGHEST_ROW}"
        )
    tints = dict(zip(names, palette.DETECTORS))
    shown = [name for name in SHOWN if table[name].notna().any()]
    with style.context():
        fig = style.figure(
            style.DOUBLE,
            max(2.4, 0.9 + 0.14 * -(-len(names) // 3) + len(shown) * (0.16 + 0.07 * len(names))),
        )
        left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
        for position, metric in enumerate(shown):
            left.axhspan(
                position - 0.5,
                position + 0.5,
                color=palette.BAND if position % 2 else "white",
                zorder=0,
            )
            for index, name in enumerate(names):
                value = table[metric].iloc[index]
                offset = 0.6 * ((index + 0.5) / len(names) - 0.5)
                left.plot(
                    value, position + offset, "o", color=tints[name], markersize=4.5, clip_on=False
                )
                if pd.notna(value):
                    left.annotate(
                        f"{value:.1f}",
                        (value, position + offset),
                        xytext=(4, -2),
                        textcoords="offset points",
                        fontsize=5.5,
                    )
        left.set_yticks(range(len(shown)), shown)
        left.set_ylim(len(shown) - 0.5, -0.5)
        low, high = float(np.nanmin(table[shown])), float(np.nanmax(table[shown]))
        left.set_xlim(max(0.0, low - 0.12 * (high - low) - 1), high + 0.12 * (high - low) + 1)
        left.tick_params(axis="y", length=0)
        left.set_xlabel("percent")
        left.set_title(f"{data}: COCO's numbers")
        rows = []
        for name, curve in curves.items():
            thresholds, values = (
                np.asarray(curve.thresholds, dtype=float),
                np.asarray(curve.f1_at, dtype=float),
            )
            right.step(
                thresholds[::-1],
                values[::-1],
                where="pre",
                color=tints[name],
                linewidth=1.1,
                label=f"{name}: best F1 {curve.f1:.2f} at {curve.threshold:.2f}",
            )
            right.plot(
                curve.threshold, curve.f1, "o", color=tints[name], markersize=5, clip_on=False
            )
            rows.append(_sparse(name, thresholds, values))
        right.set_xlim(
            0, max([1.0, *(float(part["threshold"].max()) for part in rows)])
        )  # scores in percent, logits: as they are
        right.set_ylim(0, 1)
        right.set_xlabel("score threshold")
        right.set_title("F1 at IoU 0.5; each one's best")
        fig.legend(
            handles=right.get_legend_handles_labels()[0],
            loc="outside lower left",
            ncols=3,
            fontsize=6.5,
        )  # type: ignore[call-arg]
        style.attach(fig, "scores", table)
        style.attach(
            fig,
            "F1",
            pd.concat(rows, ignore_index=True)
            if rows
            else pd.DataFrame(columns=["model", "threshold", "f1"]),
        )
        return fig


def _sparse(name: str, thresholds: np.ndarray, values: np.ndarray, most: int = 400) -> pd.DataFrame:
    """A curve's numbers, thinned to what a picture can show."""
    chosen = np.unique(
        np.linspace(0, len(thresholds) - 1, min(most, len(thresholds))).round().astype(int)
    )
    return pd.DataFrame({"model": name, "threshold": thresholds[chosen], "f1": values[chosen]})
