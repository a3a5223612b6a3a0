"""Effect of the losses on your run: matched IoUs under the curves, F1 per threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from deim_lab import palette
from deim_lab.figures import marks, style
from deim_lab.study.gradients import share
from deim_lab.study.gradients.curves import RECIPE_GAMMA, sizes_over_iou
from deim_lab.study.gradients.share import (
    LOW_IOU,
    share_of_gradient,
    share_of_low,
    share_over_all_scores,
)
from deim_lab.study.gradients.thresholds import F1, FIXED, f1_at, f1_table

# Public names of this module that are defined elsewhere.
__all__ = [
    "F1",
    "FIXED",
    "LOW_IOU",
    "f1_at",
    "f1_over_thresholds",
    "f1_table",
    "matches_under_curves",
    "share_of_gradient",
    "share_of_low",
    "share_over_all_scores",
]

_TINTS = {0.1: 0.45, 0.5: 1.0}  # opacity of the curves at two scores


def matches_under_curves(
    histogram: ArrayLike,
    *,
    gamma: float = RECIPE_GAMMA,
    low_iou: float = LOW_IOU,
    scores: Sequence[float] = (0.1, 0.5),
    name: str = "",
) -> Figure:
    """A run's matched IoUs, the losses' gradients at each IoU, and the share on poor matches.

    Left: matched IoUs (bars) under the size of each loss's gradient, at two scores. Right:
    ``share_of_gradient``.
    """
    matches = share.matches(histogram)
    shares = share_of_gradient(histogram, gamma=gamma, low_iou=low_iou)
    with style.context():
        fig = style.figure(style.DOUBLE, 2.7)
        left, right = fig.subplots(1, 2)
        _matched_ious(left, matches, low_iou, name)
        style.attach(fig, "matches", matches)
        sizes = sizes_over_iou(scores, gamma=gamma)
        _sizes_over_iou(left.twinx(), sizes)
        style.attach(fig, "gradient at the iou", sizes)
        _shares(right, shares, share_of_low(histogram, low_iou), low_iou)
        style.attach(fig, "share of gradient", shares.assign(gamma_mal=gamma, low_iou=low_iou))
        return fig


def f1_over_thresholds(
    curves: Mapping[str, F1], *, methods: Mapping[str, str] | None = None
) -> Figure:
    """F1 against the score threshold, one panel per run with the others in the background.

    A dot marks the run's own best threshold, a ring the fixed 0.5.

    Args:
        curves: run → ``evaluation.best_f1``.
        methods: run → the method whose colour it has (``mal``, ``vfl``, ``focal``); None: its name.
    """
    if not curves:
        raise ValueError("no run to draw: expected at least one F1 curve")
    with style.context():
        fig = style.figure(style.DOUBLE if len(curves) > 1 else style.SINGLE * 1.3, 2.6)
        tints = {
            name: palette.colour((methods or {}).get(name, name), position)
            for position, name in enumerate(curves)
        }
        panels = np.atleast_1d(fig.subplots(1, len(curves), sharey=True))
        for ax, (name, curve) in zip(panels, curves.items(), strict=True):
            for other, behind in curves.items():
                if other != name:
                    _steps(ax, behind, color=palette.FAINT, zorder=1)
            _steps(ax, curve, color=tints[name], zorder=3)
            fixed = f1_at(curve, FIXED)
            _two_thresholds(ax, curve, fixed, tints[name])
            ax.set(xlim=(0, 1), xlabel="score threshold", title=_short(name))
            ax.legend(loc="upper right", title="F1")
            style.attach(
                fig,
                name,
                {
                    "run": name,
                    "threshold": curve.thresholds,
                    "f1": curve.f1_at,
                    "best_threshold": curve.threshold,
                    "best_f1": curve.f1,
                    "f1_at_fixed": fixed,
                },
            )
        fig.axes[0].set_ylabel("F1 at IoU 0.5")
        fig.axes[0].set_ylim(0, 1.4 * max(0.05, *(curve.f1 for curve in curves.values())))
        return fig


def _matched_ious(ax: Axes, matches: pd.DataFrame, low_iou: float, title: str) -> None:
    """Draw the share of pairs at each IoU as bars, and a line where poor matches end."""
    ax.bar(
        matches["iou_from"],
        matches["share"],
        width=matches["iou_to"] - matches["iou_from"],
        align="edge",
        color=palette.FAINT,
        edgecolor="white",
        linewidth=0.3,
    )
    ax.set(xlim=(0, 1), xlabel="IoU of the match", ylabel="share of matched pairs", title=title)
    marks.in_percent(ax.yaxis)
    ax.axvline(low_iou, color=palette.INK, linewidth=0.6, linestyle=(0, (2, 2)))


def _sizes_over_iou(ax: Axes, sizes: pd.DataFrame) -> None:
    """Draw the size of the gradient against the IoU, one line per loss and score."""
    for _, rows in sizes.groupby(["kind", "score"], sort=False):
        kind, score = str(rows["kind"].iloc[0]), float(rows["score"].iloc[0])
        ax.plot(
            rows["iou"],
            rows["gradient_size"],
            color=palette.colour(kind),
            linestyle=palette.dashes(kind),
            alpha=_TINTS.get(score, 0.8),
            label=f"{style.label(kind)}, p = {score:g}",
        )
    ax.set(ylim=(0, 1.05), ylabel="size of the gradient")
    ax.spines["right"].set_visible(True)
    ax.legend(loc="upper center", frameon=True, framealpha=0.85, edgecolor="none")


def _shares(ax: Axes, shares: pd.DataFrame, of_pairs: float, low_iou: float) -> None:
    """Draw the share of the gradient on poor matches against the score, and that of pairs."""
    for kind, rows in shares.groupby("kind", sort=False):
        ax.plot(
            rows["score"],
            rows["share"],
            color=palette.colour(str(kind)),
            linestyle=palette.dashes(str(kind)),
            label=style.label(str(kind)),
        )
    ax.axhline(
        of_pairs,
        color=palette.colour("plain"),
        linewidth=0.8,
        linestyle=":",
        label="share of the pairs",
    )
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="score p of all pairs",
        ylabel=f"gradient on IoU < {low_iou:g}",
    )
    marks.in_percent(ax.yaxis)
    ax.legend(loc="best")


def _two_thresholds(ax: Axes, curve: F1, fixed: float, tint: str) -> None:
    """Mark F1 at the fixed threshold with a ring and at the best one with a dot."""
    ax.axvline(FIXED, color=palette.INK, linewidth=0.5, linestyle=(0, (2, 2)), zorder=0)
    ax.plot(
        [FIXED],
        [fixed],
        "o",
        color=tint,
        markerfacecolor="white",
        zorder=4,
        label=f"{fixed:.3f} at a fixed {FIXED:g}",
    )
    ax.plot(
        [curve.threshold],
        [curve.f1],
        "o",
        color=tint,
        zorder=5,
        label=f"{curve.f1:.3f} at its own {curve.threshold:.2f}",
    )


def _steps(ax: Axes, curve: F1, **options: Any) -> None:
    """Points of F1 as a step function of the threshold.

    F1 is constant between two scores, because detections of at least the threshold are counted.
    """
    thresholds, values = np.asarray(curve.thresholds)[::-1], np.asarray(curve.f1_at)[::-1]
    if len(thresholds):
        ax.step(
            np.concatenate([[0.0], thresholds]),
            np.concatenate([values[:1], values]),
            where="pre",
            **options,
        )


def _short(name: str, longest: int = 46) -> str:
    """Shorten a name to start and end: a run's folder has time first, fingerprint last."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
