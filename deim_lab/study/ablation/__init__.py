"""Compare ways to train: group runs into arms and test their differences over seeds.

``read`` finds the arms of a sweep or of a folder of runs. The views turn arms into tables, which
``figures.ablation`` draws. ``verdicts`` states in plain words what the numbers support. Nothing is
trained here, and no detector is needed.
"""

from __future__ import annotations

from deim_lab.study.ablation.activity import Activity, activity
from deim_lab.study.ablation.arms import Arm, Comparison, Trial, Unfinished
from deim_lab.study.ablation.grouping import sweeps
from deim_lab.study.ablation.reading import lacking, overview, read
from deim_lab.study.ablation.statistics import (
    Difference,
    difference,
    first_reach,
    seeds_needed,
    spread,
)
from deim_lab.study.ablation.verdict import verdicts
from deim_lab.study.ablation.views import (
    curves,
    densities,
    gammas,
    halves,
    missing,
    per_run,
    price,
    proof,
    reached,
    reaching,
    summary,
)
from deim_lab.study.ablation.words import readable

__all__ = [
    "Activity",
    "Arm",
    "Comparison",
    "Difference",
    "Trial",
    "Unfinished",
    "activity",
    "curves",
    "densities",
    "difference",
    "first_reach",
    "gammas",
    "halves",
    "lacking",
    "missing",
    "overview",
    "per_run",
    "price",
    "proof",
    "reached",
    "reaching",
    "read",
    "readable",
    "seeds_needed",
    "spread",
    "summary",
    "sweeps",
    "verdicts",
]
