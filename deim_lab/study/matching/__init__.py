"""One-to-one matching under the microscope, as tables and arrays for ``figures.matching``.

``view`` is one model on some images, ``checkpoints`` a run over time, ``counting`` the positives by
each kind of matching, ``batches`` are the images. Nothing here draws.
"""

from __future__ import annotations

from deim_lab.study.matching.batches import compose, fixed_batch
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
]
