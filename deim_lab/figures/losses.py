"""Loss and gradient against the score, computed by autograd through the very functions that train
(``deim_lab.losses``).

The gradient is with respect to the logit: what a step of descent subtracts. Above 0 it lowers the
score, below 0 it raises it. The weights in VFL and MAL are constants to autograd, so the gradient
of a negative is smaller than the slope of its drawn loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from deim_lab import losses, palette
from deim_lab.errors import nearest
from deim_lab.figures import style

KINDS: Mapping[str, Callable[..., Tensor]] = {
    "focal": losses.focal,
    "vfl": losses.vfl,
    "mal": losses.mal,
}
POINTS = 199
SCORES: NDArray[np.float64] = np.linspace(0, 1, POINTS + 2)[1:-1]  # 0.005, 0.01, … 0.995
LOSS_TOP = 5.5  # of the loss axis: −log 0.005 is 5.3
GAMMAS = (1.0, 1.3, 1.5, 1.8, 2.0, 2.5)
RECIPE_GAMMA = 1.5  # of every official DEIM recipe; the class's default in the official code is 2.0

_EDGE = 1e-12  # the lowest score looked at for a minimum
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
    """One loss and its gradient with respect to the logit, elementwise over scores and IoUs that
    broadcast.

    Args:
        kind: ``focal``, ``vfl`` or ``mal``.
        score: predicted probabilities, in (0, 1).
        iou: of the matched pair, in [0, 1]; without effect on negatives and on focal.
        positive: the class of a matched query, or any other class.
        gamma, alpha: None takes the loss's own default.

    Raises:
        ValueError: unknown kind, or a score, an IoU, γ or α out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown loss {kind!r}{nearest(kind, KINDS)}; known: {', '.join(KINDS)}")
    scores, ious = (np.asarray(values, dtype=np.float64) for values in (score, iou))
    if not ((scores > 0) & (scores < 1)).all():
        raise ValueError(
            f"score {_first(scores, (scores <= 0) | (scores >= 1))!r} is outside (0, 1)"
        )
    if not ((ious >= 0) & (ious <= 1)).all():
        raise ValueError(f"iou {_first(ious, ~((ious >= 0) & (ious <= 1)))!r} is outside [0, 1]")
    if gamma is not None and not 0 <= gamma < np.inf:
        raise ValueError(f"gamma {gamma!r} is not a number from 0")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha!r} is outside [0, 1]")
    p, q = torch.broadcast_tensors(torch.from_numpy(scores), torch.from_numpy(ious))
    logits = torch.logit(p.contiguous()).requires_grad_()
    target = torch.full_like(logits, float(positive), requires_grad=False)
    options = {
        name: value for name, value in (("gamma", gamma), ("alpha", alpha)) if value is not None
    }
    value = KINDS[kind](logits, target, q * target, **options)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach().numpy(), gradient.numpy()


def curve(
    kind: str,
    *,
    iou: float,
    gamma: float | None = None,
    alpha: float | None = None,
    positive: bool = True,
) -> pd.DataFrame:
    """One loss over ``SCORES``: columns ``score``, ``loss`` and ``gradient``; arguments as in
    ``loss_and_gradient``.
    """
    loss, gradient = loss_and_gradient(
        kind, SCORES, iou, gamma=gamma, alpha=alpha, positive=positive
    )
    return pd.DataFrame({"score": SCORES, "loss": loss, "gradient": gradient})


def minimum(
    kind: str, iou: ArrayLike, *, gamma: float | None = None, alpha: float | None = None
) -> NDArray[np.float64]:
    """The score at which a positive's loss is least, for each IoU: where its gradient changes from
    below 0 to above.

    Found from the gradient, not from a formula: between two neighbours of a fine grid it is taken
    as linear in the score, which VFL's and MAL's are. 0 and 1 stand for a loss that falls all the
    way; NaN for one that is flat (VFL at IoU 0).
    """
    ious = np.asarray(iou, dtype=np.float64)
    _, gradient = loss_and_gradient(kind, _FINE, ious.reshape(-1, 1), gamma=gamma, alpha=alpha)
    rising = gradient > 0
    after = np.where(rising.any(1), rising.argmax(1), len(_FINE) - 1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(gradient))
    low, high = gradient[rows, before], gradient[rows, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = _FINE[before] - low * (_FINE[after] - _FINE[before]) / (high - low)
    found = np.where(rising[:, 0], 0.0, np.where(rising.any(1), found, 1.0))
    found = np.where((gradient == 0).all(1), np.nan, found)
    return found.reshape(ious.shape)


def gradient_ratio(
    iou: float, *, gamma: float = RECIPE_GAMMA, scores: ArrayLike = SCORES
) -> pd.DataFrame:
    """MAL's gradient over VFL's on a positive, a row a score: columns ``score, vfl, mal, ratio``.

    The ratio is below 0 where one raises the score and the other lowers it, infinite where VFL's
    gradient is 0 and MAL's is not.
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
    """The numbers that the sliders show, a row a loss: ``minimum`` (score of the least loss of a
    positive), ``positive`` and ``negative`` (gradients at ``score``) and ``ratio``, the positive's
    gradient over VFL's (infinite where only VFL's is 0, below 0 where they point in opposite
    directions).
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


def curves(
    gamma: float = RECIPE_GAMMA,
    iou: float = 0.05,
    *,
    kinds: Sequence[str] = ("vfl", "mal"),
    alpha: float | None = None,
    positive: bool = True,
) -> Figure:
    """Loss (left) and its gradient with respect to the logit (right) against the score, one line a
    loss; a dot at each minimum.

    ``gamma`` and ``alpha`` are MAL's (the official recipes train with γ = 1.5); the other losses
    keep their own.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.5)
        shown = Curves(fig.subplots(1, 2), kinds=kinds, positive=positive)
        shown.update(gamma, iou, alpha)
        style.attach(fig, "curves", shown.table())
        return fig


def overview(
    iou: float = 0.5,
    gamma: float = RECIPE_GAMMA,
    *,
    alpha: float | None = None,
    kinds: Sequence[str] = ("focal", "vfl", "mal"),
) -> Figure:
    """Loss and gradient of positives (above) and of negatives (below): the whole of the
    classification term at one IoU.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 4.4)
        axes = fig.subplots(2, 2)
        for row, positive in zip(axes, (True, False), strict=True):
            shown = Curves(row, kinds=kinds, positive=positive, legend=positive)
            shown.update(gamma, iou, alpha)
            style.attach(fig, "positives" if positive else "negatives", shown.table())
        for ax in axes[0]:
            ax.set_xlabel("")
        return fig


def paper_panels(
    ious: Sequence[float] = (0.05, 0.95),
    gamma: float = RECIPE_GAMMA,
    *,
    kinds: Sequence[str] = ("vfl", "mal"),
) -> Figure:
    """The loss of a poor and of a good match against the score: the two panels with which the paper
    argues for MAL.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.5)
        for ax, iou in zip(
            np.atleast_1d(fig.subplots(1, len(ious), sharey=True)), ious, strict=True
        ):
            shown = Curves((ax, None), kinds=kinds, legend=iou == ious[0])
            shown.update(gamma, iou)
            ax.label_outer()
            ax.set_xlabel("predicted score p")
            style.attach(fig, f"iou {iou:g}", shown.table())
        return fig


def curves_grid(
    settings: Sequence[tuple[float, float]] = (
        (1.5, 0.05),
        (1.5, 0.5),
        (1.5, 0.95),
        (2.0, 0.05),
        (2.0, 0.5),
        (2.0, 0.95),
    ),
    *,
    kinds: Sequence[str] = ("vfl", "mal"),
) -> Figure:
    """The gradient panel at several (γ, IoU): the static twin of the sliders."""
    with style.context():
        columns = min(3, len(settings))
        lines = -(-len(settings) // columns)
        fig = style.figure(style.DOUBLE, 0.3 + 1.6 * lines)
        panels = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax, (gamma, iou) in zip(panels, settings, strict=False):
            shown = Curves((None, ax), kinds=kinds, legend=ax is panels[0])
            shown.update(gamma, iou)
            ax.set_title(f"γ = {gamma:g}, IoU = {iou:g}")
            style.attach(fig, f"gamma {gamma:g}, iou {iou:g}", shown.table())
            ax.label_outer()
        for ax in panels[len(settings) :]:
            ax.set_visible(False)
        return fig


def ratio(
    ious: Sequence[float] = (0.05, 0.3, 0.6, 0.9, 1.0),
    gamma: float = RECIPE_GAMMA,
    *,
    ax: Axes | None = None,
) -> Figure:
    """How many times VFL's gradient MAL's is, against the score, one line an IoU; dotted where the
    two point in opposite directions.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.3, 2.7)
        rows = []
        for iou, tint in zip(ious, _shades(len(ious)), strict=True):
            found = gradient_ratio(iou, gamma=gamma)
            size = found["ratio"].abs().replace([np.inf, 0.0], np.nan)
            same = found["ratio"] > 0
            ax.plot(found["score"], size.where(same), color=tint, label=f"IoU {iou:g}")
            ax.plot(found["score"], size.where(~same), color=tint, linestyle=":")
            rows.append(found.assign(iou=iou, gamma_mal=gamma))
        ax.axhline(1, color=palette.INK, linewidth=0.5, zorder=0)
        ax.set(
            xlim=(0, 1),
            yscale="log",
            ylim=(0.05, 200),
            xlabel="predicted score p",
            ylabel="|gradient MAL / VFL|",
        )
        ax.set_title(f"γ = {gamma:g}; dotted: opposite directions")
        ax.legend(loc="upper right", ncols=3)
        style.attach(fig, "ratio", pd.concat(rows, ignore_index=True))
        return fig


def minima(gammas: Sequence[float] = (1.5, 2.0), *, ax: Axes | None = None) -> Figure:
    """The score that each loss asks of a positive, against its IoU: VFL's p = IoU, MAL's p = IoU^γ,
    found from the gradients.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE, 2.7)
        ious = np.linspace(0, 1, 101)
        rows = [pd.DataFrame({"kind": "vfl", "iou": ious, "minimum": minimum("vfl", ious)})]
        ax.plot(
            ious,
            rows[0]["minimum"],
            color=palette.colour("vfl"),
            linestyle=palette.dashes("vfl"),
            label="VFL",
        )
        for position, gamma in enumerate(gammas):
            found = minimum("mal", ious, gamma=gamma)
            ax.plot(
                ious,
                found,
                color=palette.colour("mal"),
                alpha=1 - 0.6 * position / max(len(gammas) - 1, 1),
                label=f"MAL, γ = {gamma:g}",
            )
            rows.append(
                pd.DataFrame({"kind": "mal", "gamma_mal": gamma, "iou": ious, "minimum": found})
            )
        ax.set(
            xlim=(0, 1), ylim=(0, 1), xlabel="IoU of the match", ylabel="score of the least loss"
        )
        ax.legend(loc="upper left")
        style.attach(fig, "minima", pd.concat(rows, ignore_index=True))
        return fig


def gamma_panel(gammas: Sequence[float] = GAMMAS, iou: float = 0.5) -> Figure:
    """What MAL's γ changes: the score it asks for, the gradient of a positive at one IoU, and the
    gradient of negatives. A line a γ.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.5)
        asked, positives, negatives = fig.subplots(1, 3)
        ious = np.linspace(0, 1, 101)
        rows = []
        for gamma, tint in zip(gammas, _shades(len(gammas)), strict=True):
            label, width = f"γ = {gamma:g}", 2.0 if gamma == RECIPE_GAMMA else 1.1
            least = minimum("mal", ious, gamma=gamma)
            asked.plot(ious, least, color=tint, linewidth=width, label=label)
            rows.append(
                pd.DataFrame({"gamma_mal": gamma, "quantity": "minimum", "x": ious, "value": least})
            )
            for ax, positive in ((positives, True), (negatives, False)):
                found = curve("mal", iou=iou, gamma=gamma, positive=positive)
                ax.plot(found["score"], found["gradient"], color=tint, linewidth=width, label=label)
                rows.append(
                    pd.DataFrame(
                        {
                            "gamma_mal": gamma,
                            "quantity": f"gradient of {'positive' if positive else 'negative'}",
                            "x": found["score"],
                            "value": found["gradient"],
                        }
                    )
                )
        asked.set(
            xlim=(0, 1), ylim=(0, 1), xlabel="IoU of the match", ylabel="score of the least loss"
        )
        positives.set(
            xlim=(0, 1),
            ylim=(-1.05, 1.05),
            xlabel="predicted score p",
            ylabel="gradient (logit)",
            title=f"positive, IoU = {iou:g}",
        )
        positives.axhline(0, color=palette.INK, linewidth=0.5)
        negatives.set(
            xlim=(0, 1),
            ylim=(-0.05, 1.05),
            xlabel="predicted score p",
            ylabel="gradient (logit)",
            title="negative",
        )
        asked.legend(loc="upper left")
        style.attach(fig, "gamma", pd.concat(rows, ignore_index=True))
        return fig


class Curves:
    """The artists of ``curves``, made once; ``update`` moves their data. The sliders and the still
    picture share it.
    """

    def __init__(
        self,
        axes: Sequence[Axes | None] | np.ndarray,
        *,
        kinds: Sequence[str] = ("vfl", "mal"),
        positive: bool = True,
        legend: bool = True,
    ) -> None:
        self.kinds, self.positive = tuple(kinds), positive
        self.panels: dict[str, Axes] = {
            name: ax for name, ax in zip(("loss", "gradient"), axes, strict=True) if ax is not None
        }
        self.lines = {
            (quantity, kind): ax.plot(
                [],
                [],
                color=palette.colour(kind),
                linestyle=palette.dashes(kind),
                label=style.label(kind),
            )[0]
            for quantity, ax in self.panels.items()
            for kind in kinds
        }
        self.minima = {
            (quantity, kind): ax.plot([], [], "o", color=palette.colour(kind), clip_on=False)[0]
            for quantity, ax in self.panels.items()
            for kind in kinds
        }
        self.data: dict[str, pd.DataFrame] = {}
        self.setting: tuple[float, float] = (0.0, 0.0)
        for dot in self.minima.values():
            dot.set_in_layout(
                False
            )  # an empty line that isn't clipped has no extent, which would upset the layout
        for quantity, ax in self.panels.items():
            ax.set_xlim(0, 1)
            ax.set_xlabel("predicted score p")
            ax.set_ylabel("loss" if quantity == "loss" else "gradient (logit)")
            ax.axhline(0, color=palette.INK, linewidth=0.5)
        if "loss" in self.panels:
            self.panels["loss"].set_ylim(0, LOSS_TOP)
        if "gradient" in self.panels:
            # A positive's gradient lies in [−1, 1]; MAL's on a negative reaches 1 as well.
            self.panels["gradient"].set_ylim(-1.05 if positive else -0.05, 1.05)
        last = list(self.panels.values())[-1]
        self.legend = (
            last.legend(
                loc="lower right" if positive and "gradient" in self.panels else "upper left"
            )
            if legend
            else None
        )
        self.title = next(iter(self.panels.values())).set_title(" ")

    @property
    def moving(self) -> list[Artist]:
        """What ``update`` changes and what lies over it, in drawing order."""
        return [
            *self.lines.values(),
            *self.minima.values(),
            self.title,
            *([self.legend] if self.legend else []),
        ]

    def update(
        self,
        gamma: float,
        iou: float,
        alpha: float | None = None,
        kinds: Sequence[str] | None = None,
    ) -> dict[str, pd.DataFrame]:
        """Move the lines to this γ, IoU and α; returns the curve of each loss. ``kinds``: those to
        show, None: all.
        """
        self.setting = (gamma, iou)
        self.data = {}
        for position, kind in enumerate(self.kinds):
            wanted = kinds is None or kind in kinds
            for quantity in self.panels:
                self.lines[quantity, kind].set_visible(wanted)
                self.minima[quantity, kind].set_visible(wanted and self.positive)
            if self.legend is not None:
                for entry in (
                    self.legend.legend_handles[position],
                    self.legend.get_texts()[position],
                ):
                    if entry is not None:
                        entry.set_alpha(1.0 if wanted else 0.2)
            if wanted:
                self._move(kind, iou, {"gamma": gamma, "alpha": alpha} if kind == "mal" else {})
        side = f"positive, IoU = {iou:.2f}" if self.positive else "negative"
        self.title.set_text(
            f"{side}, MAL's γ = {gamma:.2f}"
            + (f", α = {alpha:.2f}" if alpha is not None and not self.positive else "")
        )
        return self.data

    def table(self) -> pd.DataFrame:
        """The numbers now shown, a row a loss and score."""
        gamma, iou = self.setting
        return pd.concat(
            [
                found.assign(kind=kind, gamma_mal=gamma, iou=iou)
                for kind, found in self.data.items()
            ],
            ignore_index=True,
        )

    def _move(self, kind: str, iou: float, options: Mapping[str, float | None]) -> None:
        found = self.data[kind] = curve(kind, iou=iou, positive=self.positive, **options)
        least = float(minimum(kind, iou, **options)) if self.positive else float("nan")
        for quantity in self.panels:
            self.lines[quantity, kind].set_data(found["score"], found[quantity])
            self.minima[quantity, kind].set_data(
                [least], [np.interp(least, found["score"], found[quantity])]
            )


def _shades(count: int) -> list[tuple[float, ...]]:
    """Dark to light, readable in grey and by the colour-blind."""
    return [tuple(tint) for tint in matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count))]


def _first(values: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    return float(values[wrong][0]) if wrong.any() else float("nan")
