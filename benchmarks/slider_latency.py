"""How long a slider's move takes, in the kernel: beside drawing the same figure anew, measured in
turn so that a busy machine slows both.

Fails when a move isn't clearly cheaper than a new figure, or takes more than 100 ms.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from deim_lab import figures, widgets
from deim_lab.figures import density, losses

MOVES = 60
MOST_MS = 100.0
MOST_RATIO = 0.5  # of drawing anew


def milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def rows() -> dict[str, np.ndarray]:
    """Counts as an ordinary set gives them: 7 targets in an image, Mosaics with four times as
    many.
    """
    draw = np.random.default_rng(0)
    return {
        "variant": np.repeat(["plain", "mosaic"], 500),
        "targets": np.concatenate([draw.poisson(7, 500), draw.poisson(26, 500)]),
        "mosaic": np.repeat([False, True], 500),
        "mixed": np.zeros(1000, dtype=bool),
    }


def anew(fig: Figure) -> object:
    assert isinstance(fig, figures.style.PaperFigure)
    return fig._repr_png_()


def compare(
    name: str, panel: widgets.Panel, sweep: dict[str, np.ndarray], draw: Callable[[int], object]
) -> bool:
    """Move the sliders and draw from nothing in turn; log the medians, and whether the move is good
    enough.
    """
    moves, draws = [], []
    for turn in range(MOVES):
        slider, values = list(sweep.items())[turn % len(sweep)]
        value = float(values[turn % len(values)])
        if value == panel.sliders[slider].value:
            continue

        def move(slider: str = slider, value: float = value) -> None:
            panel.sliders[slider].value = value

        moves.append(milliseconds(move))
        if turn % 4 == 0:
            draws.append(milliseconds(lambda turn=turn: draw(turn)))  # type: ignore[misc]
    fast, worst, slow = (
        statistics.median(moves),
        sorted(moves)[int(0.95 * len(moves))],
        statistics.median(draws),
    )
    good = fast <= MOST_MS and fast <= MOST_RATIO * slow
    logging.info(
        "%-14s move %5.1f ms (95 %%: %5.1f)   new figure %6.1f ms   ratio %.2f (at most %.2f)   "
        "%5.1f KiB a picture   %s",
        name,
        fast,
        worst,
        slow,
        fast / slow,
        MOST_RATIO,
        len(panel.picture.value) / 1024,
        "ok" if good else "TOO SLOW",
    )
    return good


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    counted = rows()
    steps = np.linspace(0, 1, 21)
    first = widgets.dense_density(counted, static=False)
    second = widgets.mal_vs_vfl(static=False)
    assert isinstance(first, widgets.Panel)
    assert isinstance(second, widgets.Panel)
    good = [
        compare(
            "dense_density",
            first,
            {"mosaic_prob": steps, "mixup_prob": steps[::-1]},
            lambda turn: anew(density.expected(counted, steps[turn % 21], 0.5)),
        ),
        compare(
            "mal_vs_vfl",
            second,
            {"gamma": np.linspace(0.5, 3, 26), "iou": steps, "alpha": steps[::-1]},
            lambda turn: anew(losses.overview(steps[turn % 21])),
        ),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
