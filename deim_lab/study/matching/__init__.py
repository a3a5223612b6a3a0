"""Inspect one-to-one matching, as tables and arrays for ``figures.matching``.

``view`` shows one model on some images, ``checkpoints`` one run over time. ``counting`` counts
positives for each kind of matching, and ``batches`` composes the images. Nothing here draws.
"""

from __future__ import annotations

from deim_lab.study.matching.batches import compose, fixed_batch, with_targets
from deim_lab.study.matching.checkpoints import (
    LOW_QUALITY,
    kept_checkpoints,
    look_back,
    low_quality,
    pairs_over,
    stability,
    stability_over,
)
from deim_lab.study.matching.counting import (
    claims,
    method_name,
    positives,
    positives_over,
    summary,
)
from deim_lab.study.matching.view import View, duplicates, inspect

__all__ = [
    "LOW_QUALITY",
    "View",
    "claims",
    "compose",
    "duplicates",
    "fixed_batch",
    "inspect",
    "kept_checkpoints",
    "look_back",
    "low_quality",
    "method_name",
    "pairs_over",
    "positives",
    "positives_over",
    "stability",
    "stability_over",
    "summary",
    "with_targets",
]
