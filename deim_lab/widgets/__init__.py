"""Sliders over the functions that draw (``sliders``)."""

from __future__ import annotations

from deim_lab.widgets.sliders import (
    LIVE_VARIABLE,
    Panel,
    dense_density,
    follow,
    live,
    mal_vs_vfl,
    matching_steps,
    summary,
)

__all__ = [
    "LIVE_VARIABLE",
    "Panel",
    "dense_density",
    "follow",
    "live",
    "mal_vs_vfl",
    "matching_steps",
    "summary",
]
