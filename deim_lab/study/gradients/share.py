"""Estimate how much of a run's classification gradient comes from poor matches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from deim_lab.study.gradients.curves import RECIPE_GAMMA, SCORES, loss_and_gradient

LOW_IOU = 0.5
_WITHIN = 10  # points in each bin of the histogram


def share_of_gradient(
    histogram: ArrayLike,
    *,
    gamma: float = RECIPE_GAMMA,
    low_iou: float = LOW_IOU,
    scores: ArrayLike = SCORES,
    kinds: Sequence[str] = ("vfl", "mal"),
) -> pd.DataFrame:
    """Share of the positives' classification gradient that comes from poor matches.

    A run logs the IoU of its matched pairs but not their scores. The result therefore assumes one
    score p for all pairs, whatever their IoU. Read it as a function of p: p near 0 is early
    training, or pairs whose class is not detected yet. A trained detector gives poor pairs lower
    scores than good ones, so no single p gives its true share. Within a bin the IoUs are taken as
    evenly spread. Gradients count by their size: above its target (IoU for VFL, IoU^γ for
    MAL) a poor pair is pushed *down*.

    Args:
        histogram: ``[N]`` counts of matched pairs in N equal bins of IoU over [0, 1] (a run's
            ``matched_iou_histogram``).
        gamma: MAL's γ.
        low_iou: pairs below this IoU are poor, in [0, 1].
        scores: at which to evaluate, in (0, 1).

    Returns:
        One row per score and loss: ``score, kind, low, total, share``. ``total`` is the mean size
            of a pair's gradient, ``low`` the part from poor pairs, and ``share = low / total``.

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
    """Loss → share of the gradient on poor matches, if all scores are equally frequent.

    The two parts are summed over the table's scores, then divided.
    """
    sums = shares.groupby("kind", sort=False)[["low", "total"]].sum()
    return {str(kind): float(row["low"] / row["total"]) for kind, row in sums.iterrows()}


def share_of_low(histogram: ArrayLike, low_iou: float = LOW_IOU) -> float:
    """Share of the pairs whose IoU is below ``low_iou``, evenly spread within a bin.

    Compare the share of the gradient with this number.
    """
    counts = _counts(histogram)
    edges = np.linspace(0, 1, len(counts) + 1)
    return float(np.interp(low_iou, edges, np.concatenate([[0.0], counts.cumsum()])) / counts.sum())


def matches(histogram: ArrayLike) -> pd.DataFrame:
    """A run's histogram of matched IoUs as rows of ``iou_from, iou_to, pairs, share``."""
    counts = _counts(histogram)
    edges = np.linspace(0, 1, len(counts) + 1)
    return pd.DataFrame(
        {
            "iou_from": edges[:-1],
            "iou_to": edges[1:],
            "pairs": counts,
            "share": counts / counts.sum(),
        }
    )


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
            f"[0, 1], at least one above 0"
        )
    return counts
