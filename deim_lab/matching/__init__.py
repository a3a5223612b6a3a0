"""Who learns from which target: ``assign`` a detector's queries to targets, at every level.

``hungarian`` assigns one-to-one, ``simota`` one-to-many.
"""

from __future__ import annotations

from deim_lab.matching.assignment import Divisors, assign, union
from deim_lab.matching.hungarian import cost_parts, costs, late_costs, match

__all__ = [
    "Divisors",
    "assign",
    "cost_parts",
    "costs",
    "late_costs",
    "match",
    "union",
]
