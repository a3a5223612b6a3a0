"""Sliders that change a figure's artists in place and replace one picture in the page.

A widget needs a kernel connected to a front end. Without one (papermill, nbconvert, a test) the
same call returns a static figure at the first setting. An executed notebook then holds pictures and
never a dead widget.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image

from deim_lab.figures import density, losses, matching, style, training

LIVE_VARIABLE = "DEIM_LAB_WIDGETS"  # "live" or "static" overrides the search for a front end
_PX_PER_INCH = 110


def live() -> bool:
    """Whether a front end listens: Jupyter's server (Lab, Notebook), Voilà or VS Code.

    These set an environment variable for their kernels; papermill and nbconvert do not. A kernel
    started *from* a notebook inherits the notebook's environment: set ``DEIM_LAB_WIDGETS=static``
    for it.
    """
    chosen = os.environ.get(LIVE_VARIABLE)
    if chosen is not None:
        if chosen not in ("live", "static"):
            raise ValueError(f"{LIVE_VARIABLE}={chosen!r}: expected live or static")
        return chosen == "live"
    return (
        "JPY_SESSION_NAME" in os.environ
        or os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
        or "VSCODE_PID" in os.environ
    )


def dense_density(
    rows: density.Rows,
    *,
    mosaic_prob: float = 0.5,
    mixup_prob: float = 0.5,
    static: bool | None = None,
) -> Panel | Figure:
    """Sliders for the Mosaic and MixUp probability that redraw the targets per image.

    The pipeline is not run again. Counts of plain images and of Mosaics, measured once, are mixed
    with the probabilities, which is exact (see ``figures.density.mixture`` for the formula).

    Args:
        rows: from ``study.density.measure``, best with the arms of ``study.density.variants(config,
            certain=True)``.
        static: True for the static figure at these probabilities (``figures.density.expected``;
            ``expected_grid`` shows several), False for the sliders. None: sliders if ``live()``.
    """
    if static or (static is None and not live()):
        return density.expected(rows, mosaic_prob, mixup_prob)
    with style.context():
        fig = style.figure(style.SINGLE * 1.5, 2.7)
        shown = density.Expected(rows, fig.add_subplot())
    sliders = {
        "mosaic_prob": _slider("Mosaic", mosaic_prob, 0, 1, 0.05),
        "mixup_prob": _slider("MixUp", mixup_prob, 0, 1, 0.05),
    }

    def update(mosaic_prob: float, mixup_prob: float) -> str:
        mean = shown.update(mosaic_prob, mixup_prob)
        return (
            f"mean {mean:.2f} targets per image, {mean / shown.plain_mean:.2f} times the plain "
            f"{shown.plain_mean:.2f}"
        )

    return Panel(fig, sliders, update, shown.moving)


def mal_vs_vfl(
    *,
    gamma: float = losses.RECIPE_GAMMA,
    iou: float = 0.05,
    alpha: float | None = None,
    kinds: Sequence[str] = ("vfl", "mal"),
    static: bool | None = None,
) -> Panel | Figure:
    """Sliders for MAL's γ, the IoU and MAL's α that redraw loss and gradient.

    γ ranges from 0.5 to 3, the IoU of the match from 0 to 1. Each loss has a switch. The curves are
    those of ``deim_lab.losses``, by autograd at each move. α weighs MAL's negatives; the official
    recipes have no α, which is 1 on the slider. ``kinds``: the losses that are on at first.
    ``static`` as in ``dense_density`` (static figure: ``figures.losses.overview`` at this setting;
    ``curves_grid`` shows several).
    """
    if static or (static is None and not live()):
        return losses.overview(iou, gamma, alpha=alpha, kinds=kinds)
    with style.context():
        fig = style.figure(style.DOUBLE, 4.2)
        axes = fig.subplots(2, 2)
        rows = [
            losses.Curves(axes[row], kinds=tuple(losses.KINDS), positive=row == 0, legend=row == 0)
            for row in (0, 1)
        ]
        for ax in axes[0]:
            ax.set_xlabel("")
    sliders = {
        "gamma": _slider("γ of MAL", gamma, 0.5, 3, 0.1),
        "iou": _slider("IoU", iou, 0, 1, 0.05),
        "alpha": _slider("α of MAL", 1.0 if alpha is None else alpha, 0, 1, 0.05),
    }
    switches = {
        kind: ipywidgets.Checkbox(
            value=kind in kinds,
            description=style.label(kind),
            indent=False,
            layout=ipywidgets.Layout(width="90px"),
        )
        for kind in losses.KINDS
    }

    def update(gamma: float, iou: float, alpha: float, **on: bool) -> str:
        shown = [kind for kind, is_on in on.items() if is_on]
        for curves in rows:
            curves.update(gamma, iou, alpha, shown)
        return _glance(losses.at_a_glance(gamma, iou, alpha=alpha, kinds=shown), iou)

    return Panel(
        fig,
        sliders,
        update,
        [artist for curves in rows for artist in curves.moving],
        switches=switches,
        readout=ipywidgets.HTML(),
    )


def _glance(numbers: pd.DataFrame, iou: float, score: float = 0.1) -> str:
    """Format ``losses.at_a_glance`` as a small table under the ratio of MAL to VFL in words."""
    cells = "".join(
        f"<tr><td>{style.label(str(kind))}</td>"
        + "".join(
            f"<td>{row[name]:.{digits}f}</td>"
            for name, digits in (("minimum", 3), ("positive", 4), ("negative", 4))
        )
        + "</tr>"
        for kind, row in numbers.iterrows()
    )
    ratio = numbers["ratio"].get("mal")
    sentence = (
        ""
        if ratio is None
        else f"At score {score:g} and IoU {iou:.2f}, MAL's gradient is <b>{ratio:.2f}</b> times "
        f"VFL's."
    )
    return (
        f"{sentence}<table style='border-spacing: 14px 0'><tr><th></th><th>least at "
        f"score</th><th>gradient at {score:g}, positive</th>"
        f"<th>gradient at {score:g}, negative</th></tr>{cells}</table>"
    )


def follow(
    *, static: bool | None = None, every_seconds: float = 2.0
) -> Callable[[Mapping[str, Any]], None]:
    """Make a listener that shows the progress of ``deim_lab.train(…, on_event=follow())``.

    With a front end: one line of text and one figure (``figures.training.curves``), both replaced
    in place. Without: plain lines, one per epoch and at most one in ten steps, so that an
    executed notebook stays readable.

    Args:
        static: as in ``dense_density``.
        every_seconds: shortest time between two updates of the live line. The figure is updated per
            epoch, at most once in five times this interval.
    """
    return _Lines() if static or (static is None and not live()) else _Display(every_seconds)


class _Lines:
    """Progress as plain text, which papermill keeps."""

    MIN_STEPS = 10  # steps between two lines; the last line is always written

    def __init__(self) -> None:
        self.epoch: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}
        self.last_step = -self.MIN_STEPS

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["kind"]
        if kind == "start":
            resumed = f", resumed at step {event['step']}" if event["step"] else ""
            self._write(
                f"{event['run']}: {event['epochs']} epochs, {event['steps']} steps{resumed}"
            )
        elif kind == "train":
            self._flush()
            self.epoch = dict(event)
        elif kind == "val":
            self.scores = dict(event)
        elif kind == "done":
            self._flush(last=True)
            self._write(
                f"done: best AP {event['best_AP']:.3f} after epoch {event['best_epoch'] + 1}"
            )

    def _flush(self, *, last: bool = False) -> None:
        """Write the complete epoch: an evaluation, if any, comes after the epoch's means."""
        if self.epoch and (last or self.epoch["step"] - self.last_step >= self.MIN_STEPS):
            self.last_step = self.epoch["step"]
            self._write(summary(self.epoch, self.scores))
        self.epoch, self.scores = {}, {}

    @staticmethod
    def _write(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class _Display:
    """Progress in place, through display handles whose content is replaced.

    No widget is used, so a saved notebook keeps the last state.
    """

    def __init__(self, every_seconds: float) -> None:
        from IPython.display import display

        self.every_seconds = every_seconds
        self.events: list[dict[str, Any]] = []
        self.line = display(_Text("waiting for the first step"), display_id=True)
        self.picture: Any = None
        self._line_at = self._picture_at = 0.0
        self._began: tuple[float, int] | None = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        now, kind = time.monotonic(), event["kind"]
        if kind == "step":
            self._began = self._began or (now, event["step"])
            if now - self._line_at >= self.every_seconds or event["step"] == event["steps"]:
                self._line_at = now
                self.line.update(_Text(self._step_line(event, now)))
        elif kind in ("train", "val"):
            self.events.append(_flat(event))
            if now - self._picture_at >= 5 * self.every_seconds:
                self._draw(now)
        elif kind == "done":
            self._draw(now)
            self.line.update(
                _Text(
                    f"done: best AP {event['best_AP']:.3f} after epoch {event['best_epoch'] + 1}; "
                    f"{event['run']}"
                )
            )

    def _draw(self, now: float) -> None:
        from IPython.display import display

        self._picture_at = now
        drawn = training.curves(pd.DataFrame(self.events))
        if self.picture is None:
            self.picture = display(drawn, display_id=True)
        else:
            self.picture.update(drawn)

    def _step_line(self, event: Mapping[str, Any], now: float) -> str:
        began, first = self._began or (now, event["step"])
        per_step = (now - began) / max(event["step"] - first, 1)
        left = per_step * (event["steps"] - event["step"])
        return (
            f"epoch {event['epoch'] + 1}/{event['epochs']}, step {event['step']}/{event['steps']}, "
            f"loss {event['loss']:.2f}, "
            f"{per_step:.2f} s per step, about {left / 60:.0f} min left"
        )


class _Text:
    """A line of text that a display can show."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def summary(epoch: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """Format an epoch's means and its evaluation in one line.

    The means are a ``train`` event, the evaluation is a ``val`` event or None.
    """
    parts = [
        f"epoch {epoch['epoch'] + 1:>3}/{epoch['epochs']}",
        f"{epoch['phase']:<7}",
        f"loss {epoch['loss']:6.2f}",
        f"lr {epoch['lr_last']:.1e}",
        f"{epoch['targets_per_image']:5.1f} targets per image",
    ]
    parts += [f"AP {scores['AP']:.3f}", f"AP50 {scores['AP50']:.3f}"] if scores else []
    return "  ".join(parts)


def _flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested values to ``name/key``, as in a run's table."""
    return {
        f"{name}/{key}" if key else name: part
        for name, value in event.items()
        for key, part in (value.items() if isinstance(value, Mapping) else (("", value),))
    }


class Panel(ipywidgets.VBox):
    """Sliders, one picture and one line of numbers.

    Attributes:
        sliders: name → slider; the names are the arguments of ``update``.
        switches: name → checkbox, also arguments of ``update``; side by side under the sliders.
        picture: the image in the page; each move replaces its bytes and adds nothing.
        readout: the numbers, as text.
        figure: the one figure behind the picture.
    """

    def __init__(
        self,
        fig: Figure,
        sliders: Mapping[str, Any],
        update: Callable[..., str],
        moving: Sequence[Artist],
        *,
        switches: Mapping[str, Any] | None = None,
        readout: Any = None,
    ) -> None:
        self.figure = fig
        self.sliders, self.switches = dict(sliders), dict(switches or {})
        self._update = update
        self._update(**self._values())  # before the layout, which must have room for the texts
        self._pixels = _Pixels(fig, moving)
        width = f"{round(fig.get_figwidth() * _PX_PER_INCH)}px"
        # With a fixed width and height the page does not jump while one picture replaces
        # another.
        self.picture = ipywidgets.Image(
            format="png",
            layout=ipywidgets.Layout(
                width=width,
                height=f"{round(fig.get_figheight() * _PX_PER_INCH)}px",
                object_fit="contain",
            ),
        )
        self.readout = ipywidgets.Label() if readout is None else readout
        row = [ipywidgets.HBox(list(self.switches.values()))] if self.switches else []
        super().__init__([*self.sliders.values(), *row, self.readout, self.picture])
        for control in (*self.sliders.values(), *self.switches.values()):
            control.observe(self._moved, names="value")
        self._moved(None)

    def _values(self) -> dict[str, Any]:
        return {name: control.value for name, control in (self.sliders | self.switches).items()}

    def _moved(self, change: Any) -> None:
        text = self._update(**self._values())
        self.picture.value = self._pixels.png()
        self.readout.value = text


class _Pixels:
    """Render a figure as PNG repeatedly: only the moving artists are redrawn.

    Layout and background are drawn once and kept.
    """

    def __init__(self, fig: Figure, moving: Sequence[Artist]) -> None:
        self.canvas = cast(Any, fig.canvas)
        self.moving = tuple(moving)
        with style.context():
            self.canvas.draw()  # computes the layout
            fig.set_layout_engine("none")  # the layout is fixed from here on
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
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(
            buffer, format="png", compress_level=1
        )
        return buffer.getvalue()


def _slider(description: str, value: float, low: float, high: float, step: float) -> Any:
    return ipywidgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=description,
        readout_format=".2f",
        continuous_update=True,
        style={"description_width": "70px"},
        layout=ipywidgets.Layout(width="420px"),
    )


# --- matching
# --------------------------------------------------------------------------------------------------


def matching_steps(
    image: np.ndarray, steps: Mapping[str, pd.DataFrame], *, static: bool | None = None
) -> Panel | Figure:
    """A slider over checkpoints that shows the matched pairs at every level of one image.

    ``steps``: name → pairs of all levels (``study.matching.View.of_image``); the last one is shown
    first. ``static`` as in ``dense_density``. The static figure is ``figures.matching.over_layers``
    of that step; several steps appear below each other.
    """
    if static or (static is None and not live()):
        return matching.over_layers(image, dict(list(steps.items())[-1:]))
    with style.context():
        levels = matching.levels_of(steps)
        side = style.DOUBLE * 1.2 / len(levels)
        fig = style.figure(style.DOUBLE * 1.2, side * image.shape[0] / image.shape[1] + 0.3)
        shown = matching.Steps(image, steps, list(fig.subplots(1, len(levels), squeeze=False)[0]))
    slider = ipywidgets.IntSlider(
        value=len(steps) - 1,
        min=0,
        max=len(steps) - 1,
        description="checkpoint",
        continuous_update=True,
        readout=False,
        style={"description_width": "80px"},
        layout=ipywidgets.Layout(width="420px"),
    )
    return Panel(fig, {"index": slider}, shown.update, shown.moving)
