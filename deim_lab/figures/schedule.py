"""Timeline of a run: learning rate (above), augmentation phases and switches (below)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deim_lab import palette
from deim_lab.config import AugmentConfig
from deim_lab.figures import style
from deim_lab.schedule import Phase, Schedule

PHASES: dict[Phase, tuple[str, str]] = {  # name on the strip, colour
    Phase.WARM_UP: ("warm-up", palette.PHASES["warm_up"]),
    Phase.DENSE: ("Dense O2O", palette.PHASES["dense"]),
    Phase.PLAIN: ("plain", palette.PHASES["plain"]),
    Phase.CLEAN: ("clean", palette.PHASES["clean"]),
}
# The switches of a phase (see ``Phase``), one line of the chart each.
SWITCHES: dict[str, frozenset[Phase]] = {
    "Mosaic": frozenset({Phase.DENSE}),
    "MixUp": frozenset({Phase.DENSE}),
    "colour, zoom-out, crop": frozenset({Phase.DENSE, Phase.PLAIN}),
    "multi-scale": frozenset({Phase.WARM_UP, Phase.DENSE, Phase.PLAIN}),
    "flip, resize": frozenset(Phase),
}


def timeline(
    schedule: Schedule, augment: AugmentConfig | None = None, *, width: float = style.DOUBLE
) -> Figure:
    """Learning rate over its base (above) and phases (below) of an entire run, by epoch.

    ``augment``: hide the lines of augmentations that this configuration never uses (probability 0).
    Without it, all lines are drawn.
    """
    with style.context():
        fig = style.figure(width, 2.1 + 0.17 * len(switches(augment)))
        above, below = fig.subplots(2, 1, sharex=True, height_ratios=(1.25, 1))
        learning_rate(schedule, ax=above)
        phases(schedule, augment, ax=below)
        above.set_xlabel("")
        below.set_xlim(0, schedule.epochs)
        return fig


def learning_rate(schedule: Schedule, *, ax: Axes | None = None) -> Figure:
    """Learning rate over its base against the epoch, sampled at steps."""
    with style.context():
        fig, ax = style.canvas(ax)
        steps = np.unique(
            np.concatenate(
                [
                    np.linspace(0, schedule.steps, 401).round().astype(int),
                    np.linspace(0, schedule.lr_warmup_steps, 41).round().astype(int),
                ]
            )
        )
        steps = steps[steps <= schedule.steps]
        factors = [schedule.lr_factor(int(step)) for step in steps]
        epochs = steps / schedule.steps_per_epoch
        for _, start, _end in spans(schedule):
            ax.axvline(start, color=palette.FAINT, linewidth=0.6, zorder=0)
        ax.plot(epochs, factors, color=palette.INK)
        ax.set_ylim(0, 1.08)
        ax.set_ylabel("learning rate / base")
        _epochs(ax, schedule)
        style.attach(fig, "learning rate", {"epoch": epochs, "step": steps, "lr_factor": factors})
        return fig


def phases(
    schedule: Schedule, augment: AugmentConfig | None = None, *, ax: Axes | None = None
) -> Figure:
    """The phase strip and, under it, the epochs in which each switch is on."""
    with style.context():
        fig, ax = style.canvas(ax, style.DOUBLE, 1.5)
        shown = switches(augment)
        rows = ["phase", *shown]
        phase_spans = list(spans(schedule))
        for phase, start, end in phase_spans:
            name, tint = PHASES[phase]
            ax.broken_barh([(start, end - start)], (-0.4, 0.8), facecolor=tint, edgecolor="white")
            if (end - start) / schedule.epochs > 0.013 * len(
                name
            ):  # a name that wouldn't fit is left to the table and the caption
                ax.text(
                    (start + end) / 2,
                    0,
                    name,
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if phase is Phase.DENSE else palette.INK,
                )
            for row, (_, on) in enumerate(shown.items(), start=1):
                if phase in on:
                    ax.broken_barh(
                        [(start, end - start)],
                        (row - 0.22, 0.44),
                        facecolor=tint if phase is not Phase.CLEAN else palette.CLEAN_SWITCH,
                    )
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.5, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        _epochs(ax, schedule)
        style.attach(
            fig,
            "phases",
            {
                "phase": [str(phase) for phase, _, _ in phase_spans],
                "first_epoch": [start for _, start, _ in phase_spans],
                "end_epoch": [end for _, _, end in phase_spans],
            },
        )
        return fig


def switches(augment: AugmentConfig | None) -> dict[str, frozenset[Phase]]:
    """The ``SWITCHES`` that ``augment`` ever uses; all without ``augment``."""
    if augment is None:
        return dict(SWITCHES)
    used = {
        "Mosaic": augment.mosaic_prob > 0,
        "MixUp": augment.mixup_prob > 0,
        "multi-scale": augment.multiscale_repeat is not None,
        "colour, zoom-out, crop": max(
            augment.photometric_prob, augment.zoom_out_prob, augment.iou_crop_prob
        )
        > 0,
    }
    return {name: phases for name, phases in SWITCHES.items() if used.get(name, True)}


def spans(schedule: Schedule) -> Iterator[tuple[Phase, int, int]]:
    """List (phase, first epoch, end) of each phase in the run; ends are exclusive."""
    start = 0
    for epoch in range(1, schedule.epochs + 1):
        if epoch == schedule.epochs or schedule.phase(epoch) is not schedule.phase(start):
            yield schedule.phase(start), start, epoch
            start = epoch


def _epochs(ax: Axes, schedule: Schedule) -> None:
    ax.set_xlim(0, schedule.epochs)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, min_n_ticks=2))
