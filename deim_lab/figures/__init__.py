"""Figures in one paper style: a table or arrays in, a matplotlib ``Figure`` out.

``save`` writes PNG, SVG, PDF and the numbers as CSV. Each function draws on the given axes
(``ax=``) or on a new figure. It returns the figure, with the numbers attached. Nothing here reads a
run, a data set or a detector; the functions draw only their arguments.
"""

from __future__ import annotations

from deim_lab.figures import (
    ablation,
    density,
    detections,
    losses,
    matching,
    paper,
    quality,
    schedule,
    scores,
    style,
    surfaces,
    training,
)
from deim_lab.figures.style import numbers, save
from deim_lab.study.gradients import claims

__all__ = [
    "ablation",
    "claims",
    "density",
    "detections",
    "losses",
    "matching",
    "numbers",
    "paper",
    "quality",
    "save",
    "schedule",
    "scores",
    "style",
    "surfaces",
    "training",
]
