"""Sliders over the figures' own artists: a move changes data in place on one figure, and one picture in the page is replaced.

A widget needs a kernel and a front end that talk. Where there is none (papermill, nbconvert, a test) the same call returns its static
twin, a figure at several settings, so that an executed notebook holds pictures and never a dead widget.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ipywidgets
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image

from deim_lab.figures import density, losses, style

LIVE_VARIABLE = "DEIM_LAB_WIDGETS"  # "live" or "static" decides; otherwise the front end is looked for
_PX_PER_INCH = 110


def live() -> bool:
    """Whether a front end listens: Jupyter's server (Lab, Notebook) and Voilà name themselves to the kernels they start, VS Code too.

    papermill and nbconvert don't. A kernel started *from* a notebook inherits its environment: set ``DEIM_LAB_WIDGETS=static`` for it.
    """
    chosen = os.environ.get(LIVE_VARIABLE)
    if chosen is not None:
        if chosen not in ("live", "static"):
            raise ValueError(f"{LIVE_VARIABLE}={chosen!r}: expected live or static")
        return chosen == "live"
    return "JPY_SESSION_NAME" in os.environ or os.environ.get("SERVER_SOFTWARE", "").startswith("voila") or "VSCODE_PID" in os.environ


def dense_density(rows: density.Rows, *, mosaic_prob: float = 0.5, mixup_prob: float = 0.5, static: bool | None = None) -> Panel | Figure:
    """Sliders for the Mosaic and MixUp probability that redraw the density of targets per image.

    The pipeline isn't run again: counts of plain images and of Mosaics, measured once, are mixed by the coins' probabilities, which is
    exact (``figures.density.mixture`` has the formula).

    Args:
        rows: from ``augment.density.measure``, best of the arms of ``augment.density.variants(config, certain=True)``.
        static: True for the still twin (``figures.density.expected_grid``), False for the sliders; None: sliders where ``live()``.
    """
    if static or (static is None and not live()):
        return density.expected_grid(rows)
    with style.context():
        fig = style.figure(style.SINGLE * 1.5, 2.7)
        shown = density.Expected(rows, fig.add_subplot())
    sliders = {"mosaic_prob": _slider("Mosaic", mosaic_prob, 0, 1, 0.05), "mixup_prob": _slider("MixUp", mixup_prob, 0, 1, 0.05)}

    def update(mosaic_prob: float, mixup_prob: float) -> str:
        mean = shown.update(mosaic_prob, mixup_prob)
        return f"mean {mean:.2f} targets per image, {mean / shown.plain_mean:.2f} times the plain {shown.plain_mean:.2f}"

    return Panel(fig, sliders, update, shown.moving)


def mal_vs_vfl(*, gamma: float = 1.5, iou: float = 0.05, kinds: Sequence[str] = ("vfl", "mal"), static: bool | None = None) -> Panel | Figure:
    """Sliders for MAL's γ (0.5 to 3) and the IoU of the match (0 to 1) that redraw loss and gradient against the score.

    The curves are those of ``deim_lab.losses``, by autograd at each move. ``static`` as in ``dense_density`` (twin:
    ``figures.losses.curves_grid``).
    """
    if static or (static is None and not live()):
        return losses.curves_grid(kinds=kinds)
    with style.context():
        fig = style.figure(style.DOUBLE, 2.6)
        shown = losses.Curves(fig.subplots(1, 2), kinds=kinds)
    sliders = {"gamma": _slider("γ of MAL", gamma, 0.5, 3, 0.1), "iou": _slider("IoU", iou, 0, 1, 0.05)}

    def update(gamma: float, iou: float) -> str:
        found = shown.update(gamma, iou)
        middle = losses.POINTS // 2
        steep = {kind: abs(float(found[kind]["gradient"].iloc[middle])) for kind in kinds}
        return "gradient at score 0.5: " + ", ".join(f"{style.label(kind)} {value:.3f}" for kind, value in steep.items())

    return Panel(fig, sliders, update, shown.moving)


class Panel(ipywidgets.VBox):  # type: ignore[misc]
    """Sliders, one picture and one line of numbers.

    Attributes:
        sliders: name → slider; the names are the arguments of ``update``.
        picture: the image in the page; its bytes are replaced at each move, nothing is added.
        readout: the numbers, as text.
        figure: the one figure behind the picture.
    """

    def __init__(self, fig: Figure, sliders: Mapping[str, Any], update: Callable[..., str], moving: Sequence[Artist]) -> None:
        self.figure = fig
        self.sliders = dict(sliders)
        self._update = update
        self._update(**{name: slider.value for name, slider in self.sliders.items()})  # before the layout, which has to hold its texts
        self._pixels = _Pixels(fig, moving)
        width = f"{round(fig.get_figwidth() * _PX_PER_INCH)}px"
        # Width and height are given, so that the page doesn't jump while one picture replaces another.
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(
            width=width, height=f"{round(fig.get_figheight() * _PX_PER_INCH)}px", object_fit="contain"))
        self.readout = ipywidgets.Label()
        super().__init__([*self.sliders.values(), self.readout, self.picture])
        for slider in self.sliders.values():
            slider.observe(self._moved, names="value")
        self._moved(None)

    def _moved(self, change: Any) -> None:
        text = self._update(**{name: slider.value for name, slider in self.sliders.items()})
        self.picture.value = self._pixels.png()
        self.readout.value = text


class _Pixels:
    """A figure as PNG, again and again: laid out and drawn once, then only the moving artists are drawn over the kept background."""

    def __init__(self, fig: Figure, moving: Sequence[Artist]) -> None:
        self.canvas = cast(Any, fig.canvas)
        self.moving = tuple(moving)
        with style.context():
            self.canvas.draw()  # places everything
            fig.set_layout_engine("none")  # and nothing moves from here on
            for artist in self.moving:
                artist.set_animated(True)
            self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(fig.bbox)

    def png(self) -> bytes:
        self.canvas.restore_region(self.background)
        with style.context():
            for artist in self.moving:
                owner = artist.axes
                if owner is not None:
                    owner.draw_artist(artist)
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(buffer, format="png", compress_level=1)
        return buffer.getvalue()


def _slider(description: str, value: float, low: float, high: float, step: float) -> Any:
    return ipywidgets.FloatSlider(value=value, min=low, max=high, step=step, description=description, readout_format=".2f",
                                  continuous_update=True, style={"description_width": "70px"}, layout=ipywidgets.Layout(width="420px"))
