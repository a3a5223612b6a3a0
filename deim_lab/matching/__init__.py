"""Who learns from which target: one-to-one (``hungarian``), one-to-many (``simota``)."""

from __future__ import annotations

from deim_lab.matching.hungarian import cost_parts, costs, late_costs, match, union

__all__ = ["cost_parts", "costs", "late_costs", "match", "union"]
