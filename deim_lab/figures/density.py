"""Targets per image: how Mosaic and MixUp change the number of positives.

With one-to-one matching, an image has as many positives as targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from deim_lab import palette
from deim_lab.figures import marks, style

Floats = NDArray[np.floating[Any]]
Rows = Mapping[
    str, Any
]  # columns of equal length, one row per image: variant, targets, mosaic, mixed
MAX_BINS = 32


def overview(rows: Rows) -> Figure:
    """A histogram per variant on common axes, next to the means: a double-column figure."""
    with style.context():
        names, edges = variants(rows), bin_edges(rows)
        fig = style.figure(style.DOUBLE, 0.55 + 0.78 * len(names))
        left, right = fig.subfigures(1, 2, width_ratios=(1.5, 1))  # type: ignore[misc]  # stubs: one or an array
        panels = left.subplots(len(names), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for name, ax in zip(names, panels, strict=True):
            histogram(rows, variants=(name,), edges=edges, ax=ax)
            ax.set_ylabel("")
            if ax is not panels[-1]:
                ax.set_xlabel("")
        left.supylabel("share of images", fontsize=8)
        means(rows, ax=right.subplots())
        right.axes[0].set_title("mean targets per image")
        right.axes[0].set_xlabel("")
        return fig


def histogram(
    rows: Rows,
    *,
    variants: Sequence[str] = ("plain", "both"),
    edges: Floats | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Share of images by their number of targets, one colour per variant; a line at each mean.

    Args:
        rows: columns ``variant`` and ``targets``, as from ``study.density.measure``.
        variants: variants to draw, in this order.
        edges: bins, by default ``bin_edges(rows)``: whole numbers of targets.
    """
    edges = bin_edges(rows) if edges is None else edges
    many = len(variants) > 1
    with style.context():
        fig, ax = style.canvas(ax)
        for name in variants:
            counts = targets_of(rows, name)
            inside, _ = np.histogram(counts, edges)
            share = inside / max(len(counts), 1)
            _variant(ax, name, edges, share, float(counts.mean()), alone=not many)
            style.attach(
                fig,
                f"histogram {name}",
                {
                    "variant": name,
                    "targets_from": edges[:-1] + 0.5,
                    "targets_to": edges[1:] - 0.5,
                    "images": inside,
                    "share": share,
                },
            )
        _axis(ax, edges)
        if many:  # above the axes, so that it covers no bar or mean line
            ax.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=len(variants),
                handlelength=1.0,
                borderaxespad=0.2,
                title="mean targets",
                alignment="left",
            )
        else:
            ax.legend(loc="upper right", handlelength=1.0)
        return fig


def means(rows: Rows, *, ax: Axes | None = None) -> Figure:
    """Mean targets per image of each variant as bars, and the factor to the first variant."""
    with style.context():
        fig, ax = style.canvas(ax)
        names = variants(rows)
        values = [float(targets_of(rows, name).mean()) for name in names]
        places = marks.bars(ax, values, [palette.colour(name) for name in names], times=True)
        ax.set_yticks(places, [style.label(name).replace(" + ", "\n+ ") for name in names])
        ax.set_xlim(0, max(values, default=0) * 1.38 or 1)
        ax.set_xlabel("mean targets per image")
        style.attach(
            fig,
            "means",
            {
                "variant": names,
                "targets_per_image": values,
                "times_plain": [
                    value / values[0] if values[0] else float("nan") for value in values
                ],
            },
        )
        return fig


def mixture(rows: Rows, mosaic_prob: float, mixup_prob: float) -> Floats:
    """Distribution of targets per image at any two probabilities, from images measured once.

    Three coins decide the composition of an image: its own Mosaic (``mosaic_prob``), its
    neighbour's, and the batch's MixUp (``mixup_prob``). With the measured distributions ``P`` of
    plain images and ``M`` of Mosaics, an image before MixUp has ``D = (1 − p) P + p M``. MixUp adds
    the targets of another image, whose number is drawn independently. The result is ``(1 − q) D + q
    (D ∗ D)``, where ``∗`` is a convolution: ``D ∗ D`` contains the four outcomes of the two Mosaic
    coins with their binomial weights. Its mean is ``(1 + q)((1 − p) mean P + p mean M)``. This is
    exact for the measured images if images are drawn at random; the pipeline is not run again.

    Args:
        rows: columns ``targets``, ``mosaic`` and ``mixed``, from ``study.density.measure``. Only
            unmixed rows are used; they must include Mosaics and plain images (``variants(config,
            certain=True)`` measures enough of each).

    Returns:
        ``[N]`` probability of 0, 1, … N − 1 targets; the length does not depend on the
        probabilities.

    Raises:
        ValueError: a probability outside [0, 1], or rows without plain images or without Mosaics.
    """
    for name, value in (("mosaic_prob", mosaic_prob), ("mixup_prob", mixup_prob)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} {value!r} is outside [0, 1]")
    plain, mosaic = parts(rows)
    before = (1 - mosaic_prob) * plain + mosaic_prob * mosaic
    result = mixup_prob * np.convolve(before, before)
    result[: len(before)] += (1 - mixup_prob) * before
    return result


def parts(rows: Rows) -> tuple[Floats, Floats]:
    """Distributions of targets in plain images and in Mosaics, both ``[N]``, without MixUp."""
    targets, mosaic, mixed = (np.asarray(rows[name]) for name in ("targets", "mosaic", "mixed"))
    chosen = [
        targets[~mixed.astype(bool) & (mosaic.astype(bool) == value)] for value in (False, True)
    ]
    for kind, counts in zip(("plain image", "Mosaic"), chosen, strict=True):
        if not len(counts):
            raise ValueError(
                f"the measured rows have no {kind} without MixUp. Measure plain images and "
                "Mosaics, for example with study.density.variants(config, certain=True)"
            )
    length = int(max(counts.max() for counts in chosen)) + 1
    plain, mosaics = (np.bincount(counts, minlength=length) / len(counts) for counts in chosen)
    return plain, mosaics


def expected(
    rows: Rows, mosaic_prob: float = 0.5, mixup_prob: float = 0.5, *, ax: Axes | None = None
) -> Figure:
    """The distribution at given probabilities (``mixture``) as bars over the plain one.

    The density slider shows the same picture.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.35, 2.5)
        shown = Expected(rows, ax)
        shown.update(mosaic_prob, mixup_prob)
        style.attach(fig, "density", shown.table())
        return fig


def expected_grid(
    rows: Rows,
    settings: Sequence[tuple[float, float]] = (
        (0, 0),
        (0.5, 0),
        (0, 0.5),
        (0.5, 0.5),
        (1, 0),
        (1, 1),
    ),
) -> Figure:
    """The density slider at several settings at once, as a static figure."""
    with style.context():
        fig, panels = marks.small_multiples(len(settings), 1.55)
        for ax, (mosaic_prob, mixup_prob) in zip(panels, settings, strict=True):
            shown = Expected(rows, ax, legend=False)
            shown.update(mosaic_prob, mixup_prob)
            style.attach(fig, f"Mosaic {mosaic_prob:g}, MixUp {mixup_prob:g}", shown.table())
            ax.label_outer()
        return fig


class Expected:
    """The artists of ``expected``, made once; ``update`` moves them to other probabilities.

    The slider and the static figure share them.
    """

    def __init__(self, rows: Rows, ax: Axes, *, legend: bool = True) -> None:
        self.rows, self.ax = rows, ax
        plain = mixture(rows, 0, 0)
        self.support = np.arange(len(plain))
        self.plain_mean = float(plain @ self.support)
        width = max(1, -(-self._reach() // MAX_BINS))
        self.edges = np.arange(0, self._reach() + width, width) - 0.5
        self.bars = ax.bar(
            self.edges[:-1],
            np.zeros(len(self.edges) - 1),
            width=width,
            align="edge",
            color=palette.colour("dense"),
            edgecolor="white",
            linewidth=0.3,
            label="at these probabilities",
        )
        self.outline = ax.stairs(
            self._binned(plain),
            self.edges,
            color=palette.colour("plain"),
            linewidth=1.3,
            label="plain",
        )
        self.mean_line = ax.axvline(0, color=palette.INK, linewidth=1.0, linestyle=(0, (3, 2)))
        self.title = ax.set_title(" ")
        self.setting: tuple[float, float, float] = (0.0, 0.0, 0.0)  # Mosaic, MixUp, mean
        ax.set_ylim(
            0, 1.08 * max(self._binned(mixture(rows, p, q)).max() for p in (0, 1) for q in (0, 1))
        )
        _axis(ax, self.edges)
        self.legend = ax.legend(loc="upper right") if legend else None

    @property
    def moving(self) -> list[Artist]:
        """The artists that a live picture must redraw, in drawing order.

        ``update`` changes them, or they lie over a changed one.
        """
        return [
            *self.bars,
            self.outline,
            self.mean_line,
            self.title,
            *([self.legend] if self.legend else []),
        ]

    def update(self, mosaic_prob: float, mixup_prob: float) -> float:
        """Move bars, line and title to these probabilities; return the mean."""
        chance = mixture(self.rows, mosaic_prob, mixup_prob)
        mean = float(chance @ self.support)
        for bar, height in zip(self.bars, self._binned(chance), strict=True):
            bar.set_height(height)
        self.mean_line.set_xdata([mean, mean])
        self.title.set_text(f"Mosaic {mosaic_prob:.2f}, MixUp {mixup_prob:.2f}: mean {mean:.1f}")
        self.setting = (mosaic_prob, mixup_prob, mean)
        return mean

    def table(self) -> dict[str, Any]:
        """The numbers in the current picture."""
        mosaic_prob, mixup_prob, mean = self.setting
        return {
            "mosaic_prob": mosaic_prob,
            "mixup_prob": mixup_prob,
            "targets_from": self.edges[:-1] + 0.5,
            "targets_to": self.edges[1:] - 0.5,
            "share": [bar.get_height() for bar in self.bars],
            "mean": mean,
        }

    def _reach(self) -> int:
        """Right end of the axis: it leaves out the last thousandth of the densest setting."""
        densest = mixture(self.rows, 1, 1).cumsum()
        return int(np.searchsorted(densest, 0.999)) + 1

    def _binned(self, chance: Floats) -> Floats:
        inside, _ = np.histogram(self.support, self.edges, weights=chance)
        inside[-1] += chance[self.support > self.edges[-1]].sum()  # the last bar contains the tail
        return inside


def variants(rows: Rows) -> list[str]:
    """Names of the variants in the order of the table."""
    return list(dict.fromkeys(str(name) for name in np.asarray(rows["variant"]).tolist()))


def targets_of(rows: Rows, variant: str) -> NDArray[np.int64]:
    """Targets of each image of one variant; ``ValueError`` for an unknown variant."""
    targets: NDArray[np.int64] = np.asarray(rows["targets"])[np.asarray(rows["variant"]) == variant]
    if not len(targets):
        raise ValueError(
            f"variant {variant!r} is not in the table. It has {', '.join(variants(rows)) or 'none'}"
        )
    return targets


def bin_edges(rows: Rows) -> Floats:
    """Edges between whole numbers of targets: at most ``MAX_BINS`` bins of equal width.

    The bins cover all variants.
    """
    top = int(np.asarray(rows["targets"]).max(initial=0)) + 1
    width = max(1, -(-top // MAX_BINS))
    return np.arange(0, top + width, width) - 0.5


def _variant(
    ax: Axes, name: str, edges: Floats, share: Floats, mean: float, *, alone: bool
) -> None:
    """Draw one variant's bars and a line at its mean."""
    tint = palette.colour(name)
    ax.bar(
        edges[:-1],
        share,
        width=np.diff(edges),
        align="edge",
        color=tint,
        alpha=1.0 if alone else 0.75,
        edgecolor="white",
        linewidth=0.3,
        label=f"{style.label(name)}: {mean:.1f}",
    )
    ax.axvline(mean, color=palette.INK if alone else tint, linewidth=1.0, linestyle=(0, (3, 2)))


def _axis(ax: Axes, edges: Floats) -> None:
    ax.set_xlabel("targets per image")
    ax.set_ylabel("share of images")
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
