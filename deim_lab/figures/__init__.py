"""Figures: a table or arrays in, a matplotlib ``Figure`` out, in one paper style; ``save`` writes
PNG, SVG, PDF and the numbers as CSV.

Each function draws on the axes it is given (``ax=``) or on a new figure, returns the figure, and
leaves the numbers with it. Nothing here reads a run, a data set or a detector: only what it is
handed.
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
