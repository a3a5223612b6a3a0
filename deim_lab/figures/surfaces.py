"""Loss and gradient over score × IoU: contours for print, rotating surfaces on screen.

The surfaces need plotly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deim_lab import palette
from deim_lab.figures import style
from deim_lab.figures.losses import LOSS_TOP
from deim_lab.study.gradients.curves import QUANTITIES, RECIPE_GAMMA, grid, minimum

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["QUANTITIES", "contours", "grid", "turning"]

# Gradients have a sign: purple raises the score, orange lowers the score, white does nothing. The
# colours are safe for colour-blind readers.
_MAPS: dict[str, tuple[str, str, tuple[float, float]]] = {
    "loss": ("viridis", "Viridis", (0.0, LOSS_TOP)),
    "gradient": ("PuOr_r", "PuOr_r", (-1, 1)),
}


def contours(
    quantity: str = "gradient",
    *,
    kinds: Sequence[str] = ("focal", "vfl", "mal"),
    gamma: float = RECIPE_GAMMA,
) -> Figure:
    """One panel per loss, coloured over score and IoU; the line is where the loss is least.

    ``gamma`` is MAL's γ.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.5)
        panels = np.atleast_1d(fig.subplots(1, len(kinds), sharey=True))
        colours, _, (low, high) = _MAPS.get(quantity, _MAPS["loss"])
        for ax, kind in zip(panels, kinds, strict=True):
            gamma_of_kind = gamma if kind == "mal" else None
            scores, ious, values = grid(kind, quantity, gamma=gamma_of_kind)
            filled = ax.contourf(
                scores,
                ious,
                np.clip(values, low, high),
                levels=np.linspace(low, high, 23),
                cmap=colours,
            )
            ax.plot(
                minimum(kind, ious, gamma=gamma_of_kind),
                ious,
                color="white" if quantity == "loss" else palette.INK,
                linewidth=1.2,
            )
            ax.set(
                xlim=(0, 1),
                ylim=(0, 1),
                xlabel="predicted score p",
                title=style.label(kind) + (f", γ = {gamma:g}" if kind == "mal" else ""),
            )
            columns = {
                "iou": np.repeat(ious, len(scores)),
                "score": np.tile(scores, len(ious)),
                quantity: values.ravel(),
            }
            style.attach(fig, kind, pd.DataFrame(columns))
        panels[0].set_ylabel("IoU of the match")
        bar = fig.colorbar(
            filled,
            ax=list(panels),
            label=f"{quantity} (logit)" if quantity == "gradient" else quantity,
            pad=0.02,
        )
        bar.set_ticks([-1, -0.5, 0, 0.5, 1] if quantity == "gradient" else [0, 1, 2, 3, 4, 5])
        return fig


def turning(
    quantity: str = "gradient",
    *,
    kinds: Sequence[str] = ("vfl", "mal"),
    gamma: float = RECIPE_GAMMA,
    points: int = 41,
) -> go.Figure:
    """The same as surfaces side by side, to turn with the mouse and to read by hovering.

    A plain plotly figure, not a widget.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = [style.label(kind) + (f", γ = {gamma:g}" if kind == "mal" else "") for kind in kinds]
    figure: Any = make_subplots(
        rows=1,
        cols=len(kinds),
        specs=[[{"type": "surface"}] * len(kinds)],
        subplot_titles=titles,
        horizontal_spacing=0.02,
    )
    for column, kind in enumerate(kinds, start=1):
        scores, ious, values = grid(
            kind, quantity, gamma=gamma if kind == "mal" else None, points=points
        )
        _, colours, (low, high) = _MAPS[quantity]
        hover = (
            "score %{x:.2f}<br>IoU %{y:.2f}<br>"
            + quantity
            + " %{z:.3f}<extra>"
            + style.label(kind)
            + "</extra>"
        )
        # Three digits are enough to read, and keep the executed notebook small.
        figure.add_trace(
            go.Surface(
                x=scores.astype(np.float32),
                y=ious.astype(np.float32),
                z=values.round(3).astype(np.float32),
                cmin=low,
                cmax=high,
                colorscale=colours,
                showscale=column == len(kinds),
                hovertemplate=hover,
            ),
            row=1,
            col=column,
        )
    axes = {
        "xaxis_title": "score p",
        "yaxis_title": "IoU",
        "zaxis_title": quantity,
        "zaxis_range": list(_MAPS[quantity][2]),
        "camera_eye": {"x": -1.6, "y": -1.6, "z": 0.8},
    }
    figure.update_scenes(**axes)
    figure.update_layout(width=900, height=430, margin={"l": 0, "r": 0, "t": 30, "b": 0})
    return figure
