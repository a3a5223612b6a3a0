"""Loss and gradient against the score, by autograd through ``deim_lab.losses``.

The losses are the functions that train. The gradient is with respect to the logit. Gradient descent
subtracts it: above 0 it lowers the score, below 0 it raises the score. The weights in VFL and MAL
are constants to autograd, so the gradient of a negative is smaller than the slope of its drawn
loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from deim_lab import losses
from deim_lab.config import LossConfig
from deim_lab.errors import nearest

KINDS = losses.CLASSIFICATION

POINTS = 199
SCORES: NDArray[np.float64] = np.linspace(0, 1, POINTS + 2)[1:-1]  # 0.005, 0.01, … 0.995
IOUS: NDArray[np.float64] = np.linspace(0, 1, 101)
GAMMAS = (1.0, 1.3, 1.5, 1.8, 2.0, 2.5)
# γ of every official DEIM recipe; the default of the official code's class is 2.0
RECIPE_GAMMA = losses.CLASSIFICATION["mal"].default("gamma")
QUANTITIES = ("loss", "gradient")

_EDGE = 1e-12  # lowest score in the search for a minimum
_FINE: NDArray[np.float64] = np.concatenate([[_EDGE], np.linspace(0, 1, 2001)[1:-1], [1 - _EDGE]])


def loss_and_gradient(
    kind: str,
    score: ArrayLike,
    iou: ArrayLike,
    *,
    positive: bool = True,
    gamma: float | None = None,
    alpha: float | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute one loss and its gradient with respect to the logit, elementwise.

    Scores and IoUs are broadcast.

    Args:
        kind: a name of ``losses.CLASSIFICATION``.
        score: predicted probabilities, in (0, 1).
        iou: of the matched pair, in [0, 1]; without effect on negatives and on focal.
        positive: True for the class of a matched query, False for any other class.
        gamma, alpha: None takes the loss's own default.

    Raises:
        ValueError: unknown kind, or a score, an IoU, γ or α out of range.
    """
    if kind not in losses.CLASSIFICATION:
        kinds = ", ".join(losses.CLASSIFICATION)
        raise ValueError(
            f"unknown loss {kind!r}{nearest(kind, losses.CLASSIFICATION)}; known: {kinds}"
        )
    scores, ious = (np.asarray(values, dtype=np.float64) for values in (score, iou))
    if not ((scores > 0) & (scores < 1)).all():
        raise ValueError(
            f"score {_first(scores, (scores <= 0) | (scores >= 1))!r} is outside (0, 1)"
        )
    if not ((ious >= 0) & (ious <= 1)).all():
        raise ValueError(f"iou {_first(ious, ~((ious >= 0) & (ious <= 1)))!r} is outside [0, 1]")
    if gamma is not None and not 0 <= gamma < np.inf:
        raise ValueError(f"gamma {gamma!r} is not a finite number ≥ 0")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha!r} is outside [0, 1]")
    p, q = torch.broadcast_tensors(torch.from_numpy(scores), torch.from_numpy(ious))
    logits = torch.logit(p.contiguous()).requires_grad_()
    target = torch.full_like(logits, float(positive), requires_grad=False)
    options = _options(kind, gamma, alpha)
    # Each point is a separate image, for losses that depend on the other queries of an image.
    points = (tensor.reshape(-1, 1, 1) for tensor in (logits, target, q * target))
    value = losses.CLASSIFICATION.callable(kind)(*points, **options).reshape(logits.shape)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach().numpy(), gradient.numpy()


def _options(kind: str, gamma: float | None, alpha: float | None) -> dict[str, float | None]:
    """γ and α of one loss: the given values, else the loss's defaults."""
    loss = LossConfig(classification=kind, gamma=gamma, alpha=alpha)
    for name, value in (("gamma", gamma), ("alpha", alpha)):
        if value is not None and name not in loss.options:
            raise ValueError(f"{name} {value} would have no effect: the loss {kind!r} takes none")
    return loss.options


def curve(
    kind: str,
    *,
    iou: float,
    gamma: float | None = None,
    alpha: float | None = None,
    positive: bool = True,
) -> pd.DataFrame:
    """Compute one loss over ``SCORES``: columns ``score``, ``loss`` and ``gradient``.

    Arguments as in ``loss_and_gradient``.
    """
    loss, gradient = loss_and_gradient(
        kind, SCORES, iou, gamma=gamma, alpha=alpha, positive=positive
    )
    return pd.DataFrame({"score": SCORES, "loss": loss, "gradient": gradient})


def minimum(
    kind: str, iou: ArrayLike, *, gamma: float | None = None, alpha: float | None = None
) -> NDArray[np.float64]:
    """Find the score at which a positive's loss is least, for each IoU.

    It is the score where the gradient changes from below 0 to above. Between two neighbours of a
    fine grid, the gradient is taken as linear in the score, which is exact for VFL and MAL. 0 and 1
    stand for a loss that rises or falls all the way. NaN stands for a flat loss (VFL at IoU 0).
    """
    ious = np.asarray(iou, dtype=np.float64)
    _, gradient = loss_and_gradient(kind, _FINE, ious.reshape(-1, 1), gamma=gamma, alpha=alpha)
    rising = gradient > 0
    after = np.where(rising.any(1), rising.argmax(1), len(_FINE) - 1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(gradient))
    low, high = gradient[rows, before], gradient[rows, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        least_at = _FINE[before] - low * (_FINE[after] - _FINE[before]) / (high - low)
    least_at = np.where(rising[:, 0], 0.0, np.where(rising.any(1), least_at, 1.0))
    least_at = np.where((gradient == 0).all(1), np.nan, least_at)
    return least_at.reshape(ious.shape)


def gradient_ratio(
    iou: float, *, gamma: float = RECIPE_GAMMA, scores: ArrayLike = SCORES
) -> pd.DataFrame:
    """MAL's gradient over VFL's on a positive, one row per score.

    Columns ``score, vfl, mal, ratio``. The ratio is below 0 where one loss raises the score and the
    other lowers it. It is infinite where VFL's gradient is 0 and MAL's is not.
    """
    points = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    vfl, mal = (
        loss_and_gradient(kind, points, iou, gamma=gamma if kind == "mal" else None)[1]
        for kind in ("vfl", "mal")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(vfl == 0, np.where(mal == 0, np.nan, np.inf), mal / vfl)
    return pd.DataFrame({"score": points, "vfl": vfl, "mal": mal, "ratio": ratio})


def at_a_glance(
    gamma: float = RECIPE_GAMMA,
    iou: float = 0.05,
    *,
    alpha: float | None = None,
    kinds: Sequence[str] = ("vfl", "mal"),
    score: float = 0.1,
) -> pd.DataFrame:
    """Numbers next to the sliders, one row per loss: minimum, gradients and their ratio.

    Columns: ``minimum`` (score of a positive's least loss), ``positive`` and ``negative``
    (gradients at ``score``), and ``ratio``: the positive's gradient over VFL's. The ratio is
    infinite where only VFL's is 0, and below 0 where the two point in opposite directions.
    """
    base = loss_and_gradient("vfl", score, iou)[1]
    rows = {}
    for kind in kinds:
        options = {"gamma": gamma, "alpha": alpha} if kind == "mal" else {}
        positive, negative = (
            float(loss_and_gradient(kind, score, iou, positive=side, **options)[1])
            for side in (True, False)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = float(np.abs(np.divide(positive, base)) if base == 0 else positive / base)
        rows[kind] = {
            "minimum": float(minimum(kind, iou, **options)),
            "positive": positive,
            "negative": negative,
            "ratio": ratio,
        }
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["minimum", "positive", "negative", "ratio"]
    ).rename_axis("kind")


def ratios(ious: Sequence[float], *, gamma: float = RECIPE_GAMMA) -> pd.DataFrame:
    """``gradient_ratio`` at several IoUs, stacked: its columns plus ``iou, gamma_mal``."""
    return pd.concat(
        [gradient_ratio(iou, gamma=gamma).assign(iou=iou, gamma_mal=gamma) for iou in ious],
        ignore_index=True,
    )


def minima(gammas: Sequence[float]) -> pd.DataFrame:
    """``minimum`` over all IoUs, of VFL and of MAL with each γ.

    Columns ``kind, iou, minimum, gamma_mal``; ``gamma_mal`` is NaN for VFL.
    """
    vfl = pd.DataFrame({"kind": "vfl", "iou": IOUS, "minimum": minimum("vfl", IOUS)})
    mal = [
        pd.DataFrame(
            {
                "kind": "mal",
                "gamma_mal": gamma,
                "iou": IOUS,
                "minimum": minimum("mal", IOUS, gamma=gamma),
            }
        )
        for gamma in gammas
    ]
    return pd.concat([vfl, *mal], ignore_index=True)


def effect_of_gamma(gammas: Sequence[float], iou: float) -> pd.DataFrame:
    """MAL at each γ, as rows of ``gamma_mal, quantity, x, value``.

    The quantities are ``minimum`` (``x``: IoU), ``gradient of positive`` at this ``iou`` and
    ``gradient of negative`` (``x``: score).
    """
    parts = []
    for gamma in gammas:
        parts.append(_of_gamma(gamma, "minimum", IOUS, minimum("mal", IOUS, gamma=gamma)))
        for name, positive in (("positive", True), ("negative", False)):
            points = curve("mal", iou=iou, gamma=gamma, positive=positive)
            parts.append(
                _of_gamma(gamma, f"gradient of {name}", points["score"], points["gradient"])
            )
    return pd.concat(parts, ignore_index=True)


def sizes_over_iou(scores: Sequence[float], *, gamma: float = RECIPE_GAMMA) -> pd.DataFrame:
    """Size of the gradient of VFL and MAL over the IoU: ``kind, score, iou, gradient_size``."""
    ious = np.linspace(0, 1, 201)
    parts = []
    for kind in ("vfl", "mal"):
        for score in scores:
            _, gradient = loss_and_gradient(
                kind, score, ious, gamma=gamma if kind == "mal" else None
            )
            parts.append(
                pd.DataFrame(
                    {"kind": kind, "score": score, "iou": ious, "gradient_size": np.abs(gradient)}
                )
            )
    return pd.concat(parts, ignore_index=True)


def grid(
    kind: str, quantity: str = "gradient", *, gamma: float | None = None, points: int = 61
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute a positive's loss or gradient on a grid of scores and IoUs.

    Returns scores ``[P]`` in (0, 1), IoUs ``[P]`` in [0, 1], and values ``[P, P]`` (rows are IoUs).

    Raises:
        ValueError: an unknown quantity or loss, or a γ out of range.
    """
    if quantity not in QUANTITIES:
        raise ValueError(
            f"unknown quantity {quantity!r}{nearest(quantity, QUANTITIES)}; known: "
            f"{', '.join(QUANTITIES)}"
        )
    scores, ious = np.linspace(0.005, 0.995, points), np.linspace(0, 1, points)
    values = loss_and_gradient(kind, scores, ious[:, None], gamma=gamma)[QUANTITIES.index(quantity)]
    return scores, ious, values


def _of_gamma(gamma: float, quantity: str, x: ArrayLike, value: ArrayLike) -> pd.DataFrame:
    return pd.DataFrame({"gamma_mal": gamma, "quantity": quantity, "x": x, "value": value})


def _first(values: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    return float(values[wrong][0]) if wrong.any() else float("nan")
