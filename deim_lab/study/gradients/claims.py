"""Check claims about MAL by autograd: each claim has its numbers and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deim_lab.study.gradients.curves import (
    GAMMAS,
    RECIPE_GAMMA,
    SCORES,
    gradient_ratio,
    loss_and_gradient,
    minimum,
)

POOR, GOOD = 0.05, 0.95  # the two IoUs of the paper's figure
# Scores over which "nearly zero" is judged: beyond the minima of both losses at IoU 0.05.
FROM, TO = 0.1, 0.9
NEARLY_ZERO = 0.05  # relative to 1, the largest size of a gradient of BCE
PARITY = 1e-9


@dataclass(frozen=True)
class Claim:
    """One claim: a sentence with the measured numbers, the numbers by name, whether it holds."""

    name: str
    holds: bool
    sentence: str
    numbers: dict[str, float]

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return f"[{verdict}] {self.sentence}"


def claims(gamma: float = RECIPE_GAMMA, *, other_gamma: float = 2.0) -> tuple[Claim, ...]:
    """Compute the paper's claims about MAL with ``gamma``, and the effect of ``other_gamma``."""
    return (
        poor_match(gamma),
        where_larger(gamma),
        direction(gamma),
        perfect_match(gamma),
        good_match(gamma),
        minima_at(gamma),
        gammas(gamma, other_gamma),
        poor_gradient_of_gammas(gamma, other_gamma),
        negatives(gamma, other_gamma),
    )


def poor_match(gamma: float = RECIPE_GAMMA, iou: float = POOR) -> Claim:
    """Claim: on a poor match, VFL's gradient nearly vanishes and MAL's does not."""
    ratios = gradient_ratio(
        iou, gamma=gamma, scores=SCORES[(SCORES > FROM - 1e-9) & (SCORES < TO + 1e-9)]
    )
    vfl, mal, ratio = ratios["vfl"].abs(), ratios["mal"].abs(), ratios["ratio"]
    numbers = {
        "largest_vfl": vfl.max(),
        "smallest_mal": mal.min(),
        "largest_mal": mal.max(),
        "least_factor": ratio.min(),
        "most_factor": ratio.max(),
    }
    return Claim(
        "poor_match",
        bool(vfl.max() < NEARLY_ZERO and mal.min() > vfl.max()),
        f"At IoU {iou:g}, over scores {FROM:g} to {TO:g}, VFL's gradient is nearly zero (at most "
        f"{vfl.max():.3f}) and MAL's (γ = {gamma:g}) "
        f"is not ({mal.min():.3f} to {mal.max():.3f}): {ratio.min():.0f} to {ratio.max():.0f} "
        f"times VFL's.",
        _plain(numbers),
    )


def where_larger(gamma: float = RECIPE_GAMMA, iou: float = POOR, factor: float = 10.0) -> Claim:
    """Claim: MAL's gradient is many times VFL's over most scores; also where it is smaller."""
    scores = np.linspace(0, 1, 10_001)[1:-1]
    size = gradient_ratio(iou, gamma=gamma, scores=scores)["ratio"].abs().to_numpy()
    many, fewer = scores[size > factor], scores[size < 1]
    numbers = {
        "from": many.min(initial=1.0),
        "to": many.max(initial=0.0),
        "smaller_from": fewer.min(initial=1.0),
        "smaller_to": fewer.max(initial=0.0),
        "share_of_scores": float((size > factor).mean()),
    }
    span = f"{numbers['smaller_from']:.4f} and {numbers['smaller_to']:.4f}"
    exception = (
        f"; it is the smaller one only between {span}, around its own minimum" if len(fewer) else ""
    )
    return Claim(
        "where_larger",
        numbers["share_of_scores"] > 0.9,
        f"At IoU {iou:g} MAL's gradient is more than {factor:g} times VFL's for "
        f"{numbers['share_of_scores']:.0%} of all scores "
        f"({numbers['from']:.3f} to {numbers['to']:.3f}){exception}.",
        _plain(numbers),
    )


def direction(gamma: float = RECIPE_GAMMA, iou: float = POOR) -> Claim:
    """Claim: on a poor match, MAL lowers the score (to IoU^γ) and does not raise it."""
    least = float(minimum("mal", iou, gamma=gamma))
    _, gradient = loss_and_gradient("mal", SCORES, iou, gamma=gamma)
    above = least < SCORES
    numbers = {"minimum": least, "share_lowered": float((gradient > 0).mean())}
    return Claim(
        "direction",
        bool((gradient[above] > 0).all() and (gradient[~above] <= 0).all()),
        f"MAL pushes down: at IoU {iou:g} it lowers every score above {least:.4f} "
        f"({numbers['share_lowered']:.0%} of the range), so a "
        "confident poor match is corrected instead of ignored.",
        _plain(numbers),
    )


def perfect_match(gamma: float = RECIPE_GAMMA) -> Claim:
    """Claim: at IoU 1 the two losses are the same function."""
    (loss_v, grad_v), (loss_m, grad_m) = (
        loss_and_gradient(kind, SCORES, 1.0, gamma=g) for kind, g in (("vfl", None), ("mal", gamma))
    )
    apart = {
        "loss": float(np.abs(loss_v - loss_m).max()),
        "gradient": float(np.abs(grad_v - grad_m).max()),
    }
    return Claim(
        "perfect_match",
        max(apart.values()) < PARITY,
        f"At IoU 1 the two agree at every score: the losses differ by at most {apart['loss']:.1g}, "
        f"the gradients by "
        f"{apart['gradient']:.1g}.",
        apart,
    )


def good_match(gamma: float = RECIPE_GAMMA, iou: float = GOOD) -> Claim:
    """Claim: at a high IoU the two losses nearly agree."""
    ratios = gradient_ratio(iou, gamma=gamma)
    apart = float((ratios["vfl"] - ratios["mal"]).abs().max())
    return Claim(
        "good_match",
        apart < NEARLY_ZERO,
        f"At IoU {iou:g} they nearly agree: the gradients are at most {apart:.3f} apart.",
        {"gradient": apart},
    )


def minima_at(gamma: float = RECIPE_GAMMA, ious: Sequence[float] = (0.3, 0.5, 0.7, 0.9)) -> Claim:
    """Claim: VFL is least at p = IoU, MAL at p = IoU^γ."""
    points = np.asarray(ious, dtype=np.float64)
    vfl, mal = minimum("vfl", points), minimum("mal", points, gamma=gamma)
    off = {
        "vfl": float(np.abs(vfl - points).max()),
        "mal": float(np.abs(mal - points**gamma).max()),
    }
    listed = ", ".join(
        f"IoU {q:g}: {v:.3f} and {m:.3f}" for q, v, m in zip(points, vfl, mal, strict=True)
    )
    return Claim(
        "minima",
        max(off.values()) < 1e-6,
        f"VFL is least at p = IoU, MAL at p = IoU^{gamma:g} ({listed}): MAL's confidences are "
        f"lower.",
        off,
    )


def gammas(gamma: float = RECIPE_GAMMA, other: float = 2.0, iou: float = 0.5) -> Claim:
    """Claim: a larger γ lowers the target score, most of all at middle IoUs."""
    first, second = (float(minimum("mal", iou, gamma=g)) for g in (gamma, other))
    return Claim(
        "gammas",
        (second < first) == (other > gamma) or other == gamma,
        f"A match of IoU {iou:g} should score {first:.3f} with γ = {gamma:g} and {second:.3f} with "
        f"γ = {other:g}.",
        {"minimum": first, "minimum_other": second},
    )


def poor_gradient_of_gammas(
    gamma: float = RECIPE_GAMMA, other: float = 2.0, iou: float = POOR, score: float = 0.5
) -> Claim:
    """Claim: on a very poor match γ hardly matters, because the target is near 0 for any γ."""
    first, second = (
        float(loss_and_gradient("mal", score, iou, gamma=g)[1]) for g in (gamma, other)
    )
    apart = abs(second / first - 1)
    return Claim(
        "poor_gradient_of_gammas",
        apart < NEARLY_ZERO,
        f"On a poor match (IoU {iou:g}, score {score:g}) γ hardly matters: the gradient is "
        f"{first:.3f} with γ = {gamma:g} and "
        f"{second:.3f} with γ = {other:g}, {apart:.1%} apart.",
        {"gradient": first, "gradient_other": second, "apart": apart},
    )


def negatives(gamma: float = RECIPE_GAMMA, other: float = 2.0, score: float = 0.3) -> Claim:
    """Claim: γ acts on negatives too, as the focusing exponent; MAL has no α."""
    sizes = {"vfl": float(loss_and_gradient("vfl", score, 0.0, positive=False)[1])}
    sizes |= {
        name: float(loss_and_gradient("mal", score, 0.0, positive=False, gamma=g)[1])
        for name, g in (("mal", gamma), ("mal_other", other))
    }
    return Claim(
        "negatives",
        (sizes["mal_other"] < sizes["mal"]) == (other > gamma) or other == gamma,
        f"On a negative of score {score:g} the gradient is {sizes['vfl']:.3f} under VFL, "
        f"{sizes['mal']:.3f} under MAL with γ = {gamma:g} "
        f"and {sizes['mal_other']:.3f} with γ = {other:g}: a larger γ also "
        f"down-weights easy negatives.",
        sizes,
    )


def gamma_table(
    values: Sequence[float] = GAMMAS,
    ious: Sequence[float] = (0.05, 0.3, 0.5, 0.7, 0.9),
    score: float = 0.1,
) -> pd.DataFrame:
    """One row per γ: the target score at each IoU, and a positive's gradient at one score.

    Columns are pairs (quantity, IoU).
    """
    points = np.asarray(ious, dtype=np.float64)
    rows = {
        gamma: [
            *minimum("mal", points, gamma=gamma),
            *loss_and_gradient("mal", score, points, gamma=gamma)[1],
        ]
        for gamma in values
    }
    columns = pd.MultiIndex.from_product(
        [["least at score", f"gradient at score {score:g}"], points], names=["", "IoU"]
    )
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("γ")


def _plain(numbers: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items()}
