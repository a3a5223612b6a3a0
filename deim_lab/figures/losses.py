"""Loss and gradient against the score, from the numbers of ``study.gradients.curves``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from deim_lab import palette
from deim_lab.figures import marks, style
from deim_lab.study.gradients import curves as computed
from deim_lab.study.gradients.curves import (
    GAMMAS,
    KINDS,
    POINTS,
    RECIPE_GAMMA,
    SCORES,
    at_a_glance,
    curve,
    gradient_ratio,
    loss_and_gradient,
    minimum,
)

# Public names of this module that are defined elsewhere.
__all__ = [
    "GAMMAS",
    "KINDS",
    "LOSS_TOP",
    "POINTS",
    "RECIPE_GAMMA",
    "SCORES",
    "Curves",
    "at_a_glance",
    "curve",
    "curves",
    "curves_grid",
    "gamma_panel",
    "gradient_ratio",
    "loss_and_gradient",
    "minima",
    "minimum",
    "overview",
    "paper_panels",
    "ratio",
]

LOSS_TOP = 5.5  # top of the loss axis: −log 0.005 is 5.3


def curves(
    gamma: float = RECIPE_GAMMA,
    iou: float = 0.05,
    *,
    kinds: Sequence[str] = ("vfl", "mal"),
    alpha: float | None = None,
    positive: bool = True,
) -> Figure:
    """Loss (left) and its gradient with respect to the logit (right) against the score.

    One line per loss; a dot at each minimum. ``gamma`` and ``alpha`` are MAL's (the official
    recipes train with γ = 1.5). The other losses keep their defaults.
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
    """Loss and gradient of positives (above) and negatives (below) at one IoU.

    Together these are the entire classification term.
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
    """The loss of a poor and of a good match against the score, as in the paper's MAL figure."""
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
        (RECIPE_GAMMA, 0.05),
        (RECIPE_GAMMA, 0.5),
        (RECIPE_GAMMA, 0.95),
        (2.0, 0.05),
        (2.0, 0.5),
        (2.0, 0.95),
    ),
    *,
    kinds: Sequence[str] = ("vfl", "mal"),
) -> Figure:
    """The gradient panel at several (γ, IoU): a static version of the sliders."""
    with style.context():
        fig, panels = marks.small_multiples(len(settings), 1.6)
        for ax, (gamma, iou) in zip(panels, settings, strict=True):
            shown = Curves((None, ax), kinds=kinds, legend=ax is panels[0])
            shown.update(gamma, iou)
            ax.set_title(f"γ = {gamma:g}, IoU = {iou:g}")
            style.attach(fig, f"gamma {gamma:g}, iou {iou:g}", shown.table())
            ax.label_outer()
        return fig


def ratio(
    ious: Sequence[float] = (0.05, 0.3, 0.6, 0.9, 1.0),
    gamma: float = RECIPE_GAMMA,
    *,
    ax: Axes | None = None,
) -> Figure:
    """MAL's gradient as a multiple of VFL's, against the score, one line per IoU.

    A line is dotted where the two gradients point in opposite directions.
    """
    table = computed.ratios(ious, gamma=gamma)
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.3, 2.7)
        for iou, tint in zip(ious, _shades(len(ious)), strict=True):
            rows = table[table["iou"] == iou]
            size = rows["ratio"].abs().replace([np.inf, 0.0], np.nan)
            same = rows["ratio"] > 0
            ax.plot(rows["score"], size.where(same), color=tint, label=f"IoU {iou:g}")
            ax.plot(rows["score"], size.where(~same), color=tint, linestyle=":")
        ax.axhline(1, color=palette.INK, linewidth=0.5, zorder=0)
        ax.set(
            xlim=(0, 1),
            yscale="log",
            ylim=(0.05, 200),
            xlabel="predicted score p",
            ylabel="|gradient MAL / VFL|",
        )
        style.plain_log_ticks(ax.yaxis)
        ax.set_title(f"γ = {gamma:g}; dotted: opposite directions")
        ax.legend(loc="upper right", ncols=3)
        style.attach(fig, "ratio", table)
        return fig


def minima(gammas: Sequence[float] = (RECIPE_GAMMA, 2.0), *, ax: Axes | None = None) -> Figure:
    """Target score of a positive under each loss, against its IoU, from the gradients.

    VFL: p = IoU. MAL: p = IoU^γ.
    """
    table = computed.minima(gammas)
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE, 2.7)
        vfl = table[table["kind"] == "vfl"]
        ax.plot(
            vfl["iou"],
            vfl["minimum"],
            color=palette.colour("vfl"),
            linestyle=palette.dashes("vfl"),
            label="VFL",
        )
        for position, gamma in enumerate(gammas):
            mal = table[table["gamma_mal"] == gamma]
            ax.plot(
                mal["iou"],
                mal["minimum"],
                color=palette.colour("mal"),
                alpha=1 - 0.6 * position / max(len(gammas) - 1, 1),
                label=f"MAL, γ = {gamma:g}",
            )
        _asked_score(ax)
        style.attach(fig, "minima", table)
        return fig


def gamma_panel(gammas: Sequence[float] = GAMMAS, iou: float = 0.5) -> Figure:
    """Effect of MAL's γ, one line per γ: target score, positive and negative gradients.

    The gradient of a positive is at one IoU.
    """
    table = computed.effect_of_gamma(gammas, iou)
    with style.context():
        fig = style.figure(style.DOUBLE, 2.5)
        target_score, positives, negatives = fig.subplots(1, 3)
        for gamma, tint in zip(gammas, _shades(len(gammas)), strict=True):
            of_gamma = table[table["gamma_mal"] == gamma]
            for ax, quantity in (
                (target_score, "minimum"),
                (positives, "gradient of positive"),
                (negatives, "gradient of negative"),
            ):
                rows = of_gamma[of_gamma["quantity"] == quantity]
                ax.plot(
                    rows["x"],
                    rows["value"],
                    color=tint,
                    linewidth=2.0 if gamma == RECIPE_GAMMA else 1.1,
                    label=f"γ = {gamma:g}",
                )
        _asked_score(target_score)
        for ax, bottom, title in (
            (positives, -1.05, f"positive, IoU = {iou:g}"),
            (negatives, -0.05, "negative"),
        ):
            ax.set(
                xlim=(0, 1),
                ylim=(bottom, 1.05),
                xlabel="predicted score p",
                ylabel="gradient (logit)",
                title=title,
            )
        positives.axhline(0, color=palette.INK, linewidth=0.5)
        style.attach(fig, "gamma", table)
        return fig


class Curves:
    """The artists of ``curves``, made once; ``update`` moves their data.

    The sliders and the static figure share them.
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
            )  # an empty line without clipping has no extent and would break the layout
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
        self.legend: Legend | None = None
        if legend:
            last = list(self.panels.values())[-1]
            last_is_rising = positive and "gradient" in self.panels
            self.legend = last.legend(loc="lower right" if last_is_rising else "upper left")
        self.title = next(iter(self.panels.values())).set_title(" ")

    @property
    def moving(self) -> list[Artist]:
        """The artists that ``update`` changes and those that lie over them, in drawing order."""
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
        """Move the lines to this γ, IoU and α; return the curve of each loss.

        ``kinds``: losses to show; None: all.
        """
        self.setting = (gamma, iou)
        self.data = {}
        for position, kind in enumerate(self.kinds):
            visible = kinds is None or kind in kinds
            for quantity in self.panels:
                self.lines[quantity, kind].set_visible(visible)
                self.minima[quantity, kind].set_visible(visible and self.positive)
            if self.legend is not None:
                for entry in (
                    self.legend.legend_handles[position],
                    self.legend.get_texts()[position],
                ):
                    if entry is not None:
                        entry.set_alpha(1.0 if visible else 0.2)
            if visible:
                self._move(kind, iou, {"gamma": gamma, "alpha": alpha} if kind == "mal" else {})
        side = f"positive, IoU = {iou:.2f}" if self.positive else "negative"
        weight = "" if alpha is None or self.positive else f", α = {alpha:.2f}"
        self.title.set_text(f"{side}, MAL's γ = {gamma:.2f}{weight}")
        return self.data

    def table(self) -> pd.DataFrame:
        """The numbers in the current picture, one row per loss and score."""
        gamma, iou = self.setting
        return pd.concat(
            [rows.assign(kind=kind, gamma_mal=gamma, iou=iou) for kind, rows in self.data.items()],
            ignore_index=True,
        )

    def _move(self, kind: str, iou: float, options: Mapping[str, float | None]) -> None:
        rows = self.data[kind] = curve(kind, iou=iou, positive=self.positive, **options)
        least = float(minimum(kind, iou, **options)) if self.positive else float("nan")
        for quantity in self.panels:
            self.lines[quantity, kind].set_data(rows["score"], rows[quantity])
            self.minima[quantity, kind].set_data(
                [least], [np.interp(least, rows["score"], rows[quantity])]
            )


def _asked_score(ax: Axes) -> None:
    """Label the axes of ``minimum`` over the IoU."""
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="IoU of the match", ylabel="score of the least loss")
    ax.legend(loc="upper left")


def _shades(count: int) -> list[tuple[float, ...]]:
    """Colours from dark to light, readable in grey and for colour-blind readers."""
    return [tuple(tint) for tint in matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count))]
