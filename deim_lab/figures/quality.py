"""What the losses mean for one's own run: its matched IoUs under the curves, and F1 at each run's
own threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from deim_lab import palette
from deim_lab.figures import style
from deim_lab.figures.losses import RECIPE_GAMMA, SCORES, loss_and_gradient

LOW_IOU = 0.5
FIXED = 0.5  # the threshold at which nobody should compare a MAL run with a VFL run
_WITHIN = 10  # points in each bin of the histogram
_TINTS = {0.1: 0.45, 0.5: 1.0}  # opacity of the curves at two scores


class F1(Protocol):
    """The part of ``evaluate.F1Curve`` that is drawn: thresholds falling, F1 at each, the best
    threshold and F1.
    """

    @property
    def thresholds(self) -> NDArray[np.float64]: ...
    @property
    def f1_at(self) -> NDArray[np.float64]: ...
    @property
    def threshold(self) -> float: ...
    @property
    def f1(self) -> float: ...


def share_of_gradient(
    histogram: ArrayLike,
    *,
    gamma: float = RECIPE_GAMMA,
    low_iou: float = LOW_IOU,
    scores: ArrayLike = SCORES,
    kinds: Sequence[str] = ("vfl", "mal"),
) -> pd.DataFrame:
    """How much of the positives' classification gradient falls on poor matches, as a function of
    the score they are given.

    Assumption: every matched pair is predicted with the same score p, whatever its IoU, because a
    run records the IoU of its pairs but not their scores. So read the result as a function of p:
    near 0 is early training, or pairs whose class isn't found yet. A trained detector gives poor
    pairs lower scores than good ones, and its true share is then none of these values. Within a bin
    the IoUs are taken as evenly spread. Gradients count by their size: above its target (IoU for
    VFL, IoU^γ for MAL) a poor pair is pushed *down*.

    Args:
        histogram: ``[N]`` counts of matched pairs in N equal bins of IoU over [0, 1] (a run's
            ``matched_iou_histogram``).
        gamma: MAL's.
        low_iou: pairs below it are poor, in [0, 1].
        scores: at which to evaluate, in (0, 1).

    Returns:
        A row a score and loss: ``score, kind, low, total, share``; ``total`` is the mean size of
        the gradient of a pair, ``low`` the part of it that
        comes from poor pairs, ``share = low / total``.

    Raises:
        ValueError: a histogram that is empty, negative or not finite; an IoU, a score or a γ out of
            range.
    """
    counts = _counts(histogram)
    if not 0 <= low_iou <= 1:
        raise ValueError(f"low_iou {low_iou!r} is outside [0, 1]")
    points = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    ious = (np.arange(len(counts) * _WITHIN) + 0.5) / (len(counts) * _WITHIN)
    weights = np.repeat(counts, _WITHIN) / (counts.sum() * _WITHIN)
    parts = []
    for kind in kinds:
        _, gradient = loss_and_gradient(
            kind, points[:, None], ious, gamma=gamma if kind == "mal" else None
        )
        size = np.abs(gradient) * weights
        low, total = size[:, ious < low_iou].sum(1), size.sum(1)
        parts.append(
            pd.DataFrame(
                {"score": points, "kind": kind, "low": low, "total": total, "share": low / total}
            )
        )
    return pd.concat(parts, ignore_index=True)


def share_over_all_scores(shares: pd.DataFrame) -> dict[str, float]:
    """Loss → share of the gradient on poor matches when all scores of the table are equally
    frequent (sums of both parts, then divided).
    """
    sums = shares.groupby("kind", sort=False)[["low", "total"]].sum()
    return {str(kind): float(row["low"] / row["total"]) for kind, row in sums.iterrows()}


def share_of_low(histogram: ArrayLike, low_iou: float = LOW_IOU) -> float:
    """Share of the pairs themselves whose IoU is below ``low_iou``, evenly spread within a bin:
    what the gradient is to be compared with.
    """
    counts = _counts(histogram)
    edges = np.linspace(0, 1, len(counts) + 1)
    return float(np.interp(low_iou, edges, np.concatenate([[0.0], counts.cumsum()])) / counts.sum())


def matches_under_curves(
    histogram: ArrayLike,
    *,
    gamma: float = RECIPE_GAMMA,
    low_iou: float = LOW_IOU,
    scores: Sequence[float] = (0.1, 0.5),
    name: str = "",
) -> Figure:
    """Left: a run's matched IoUs (bars) under the size of each loss's gradient at that IoU, at two
    scores. Right: ``share_of_gradient``.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.7)
        left, right = fig.subplots(1, 2)
        counts = _counts(histogram)
        edges = np.linspace(0, 1, len(counts) + 1)
        left.bar(
            edges[:-1],
            counts / counts.sum(),
            width=np.diff(edges),
            align="edge",
            color=palette.FAINT,
            edgecolor="white",
            linewidth=0.3,
        )
        left.set(
            xlim=(0, 1), xlabel="IoU of the match", ylabel="share of matched pairs", title=name
        )
        left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        left.axvline(low_iou, color=palette.INK, linewidth=0.6, linestyle=(0, (2, 2)))
        style.attach(
            fig,
            "matches",
            {
                "iou_from": edges[:-1],
                "iou_to": edges[1:],
                "pairs": counts,
                "share": counts / counts.sum(),
            },
        )
        _sizes_over_iou(fig, left.twinx(), gamma, scores)
        shares = share_of_gradient(counts, gamma=gamma, low_iou=low_iou)
        for kind, rows in shares.groupby("kind", sort=False):
            right.plot(
                rows["score"],
                rows["share"],
                color=palette.colour(str(kind)),
                linestyle=palette.dashes(str(kind)),
                label=style.label(str(kind)),
            )
        pairs = share_of_low(counts, low_iou)
        right.axhline(
            pairs,
            color=palette.colour("plain"),
            linewidth=0.8,
            linestyle=":",
            label="of the pairs themselves",
        )
        right.set(
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel="score p of all pairs",
            ylabel=f"gradient on IoU < {low_iou:g}",
        )
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        right.legend(loc="best")
        style.attach(fig, "share of gradient", shares.assign(gamma_mal=gamma, low_iou=low_iou))
        return fig


def f1_at(curve: F1, threshold: float) -> float:
    """F1 if the detections of at least this score were kept; 0 where none has it."""
    kept = np.asarray(curve.thresholds) >= threshold
    return float(np.asarray(curve.f1_at)[kept][-1]) if kept.any() else 0.0


def f1_table(curves: Mapping[str, F1]) -> pd.DataFrame:
    """A row a run: the best F1 and its threshold, and what a fixed 0.5 would have said:
    ``run, threshold, f1, f1_at_fixed``.
    """
    return pd.DataFrame(
        [
            {
                "run": name,
                "threshold": curve.threshold,
                "f1": curve.f1,
                "f1_at_fixed": f1_at(curve, FIXED),
            }
            for name, curve in curves.items()
        ],
        columns=["run", "threshold", "f1", "f1_at_fixed"],
    )


def f1_over_thresholds(
    curves: Mapping[str, F1], *, methods: Mapping[str, str] | None = None
) -> Figure:
    """F1 against the score threshold, a panel a run with the others behind it; a dot at its own
    best threshold, a ring at the fixed 0.5.

    Args:
        curves: run → ``evaluate.best_f1``.
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
        for ax, (name, curve) in zip(
            np.atleast_1d(fig.subplots(1, len(curves), sharey=True)), curves.items(), strict=True
        ):
            for other, behind in curves.items():
                _steps(
                    ax,
                    behind,
                    color=tints[other] if other == name else palette.FAINT,
                    zorder=3 if other == name else 1,
                )
            fixed = f1_at(curve, FIXED)
            ax.axvline(FIXED, color=palette.INK, linewidth=0.5, linestyle=(0, (2, 2)), zorder=0)
            ax.plot(
                [FIXED],
                [fixed],
                "o",
                color=tints[name],
                markerfacecolor="white",
                zorder=4,
                label=f"{fixed:.3f} at a fixed {FIXED:g}",
            )
            ax.plot(
                [curve.threshold],
                [curve.f1],
                "o",
                color=tints[name],
                zorder=5,
                label=f"{curve.f1:.3f} at its own {curve.threshold:.2f}",
            )
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


def _sizes_over_iou(fig: Figure, ax: Axes, gamma: float, scores: Sequence[float]) -> None:
    ious = np.linspace(0, 1, 201)
    rows = []
    for kind in ("vfl", "mal"):
        for score in scores:
            _, gradient = loss_and_gradient(
                kind, score, ious, gamma=gamma if kind == "mal" else None
            )
            ax.plot(
                ious,
                np.abs(gradient),
                color=palette.colour(kind),
                linestyle=palette.dashes(kind),
                alpha=_TINTS.get(score, 0.8),
                label=f"{style.label(kind)}, p = {score:g}",
            )
            rows.append(
                pd.DataFrame(
                    {"kind": kind, "score": score, "iou": ious, "gradient_size": np.abs(gradient)}
                )
            )
    ax.set(ylim=(0, 1.05), ylabel="size of the gradient")
    ax.spines["right"].set_visible(True)
    ax.legend(loc="upper center", frameon=True, framealpha=0.85, edgecolor="none")
    style.attach(fig, "gradient at the iou", pd.concat(rows, ignore_index=True))


def _steps(ax: Axes, curve: F1, **options: Any) -> None:
    """F1 is constant between two scores that occur: the kept detections are those of at least the
    threshold.
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
    """The start and the end of a long name: a run's folder says its time first and its fingerprint
    last.
    """
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _counts(histogram: ArrayLike) -> NDArray[np.float64]:
    counts = np.asarray(histogram, dtype=np.float64)
    if (
        counts.ndim != 1
        or not len(counts)
        or not np.isfinite(counts).all()
        or (counts < 0).any()
        or counts.sum() == 0
    ):
        raise ValueError(
            f"histogram {counts.tolist()!r}: expected counts of pairs in equal bins of IoU over "
            f"[0, 1], not all of them 0"
        )
    return counts
