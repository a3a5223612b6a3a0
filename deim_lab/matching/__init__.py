"""Matching: assign the queries of a detector to targets, at every level.

``hungarian`` assigns one-to-one, ``simota`` one-to-many. ``KINDS`` holds both by name. To add your
own matching, add an entry (docs/extending.md).
"""

from __future__ import annotations

from deim_lab.config.entries import KINDS, Kind
from deim_lab.matching.assignment import Divisors, assign, union
from deim_lab.matching.hungarian import cost_parts, costs, late_costs, match

__all__ = [
    "KINDS",
    "Divisors",
    "Kind",
    "assign",
    "cost_parts",
    "costs",
    "late_costs",
    "match",
    "union",
]
