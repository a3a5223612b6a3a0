"""The loss terms of DEIM and D-FINE as pure functions (``terms``).

``losses.criterion`` applies the terms, with their weights, to the matches. Import it by its path.
"""

from __future__ import annotations

from deim_lab.config.entries import CLASSIFICATION, Term
from deim_lab.losses.terms import (
    ddf,
    decoupled_mean,
    fgl,
    focal,
    giou,
    l1,
    mal,
    vfl,
)

__all__ = [
    "CLASSIFICATION",
    "Term",
    "ddf",
    "decoupled_mean",
    "fgl",
    "focal",
    "giou",
    "l1",
    "mal",
    "vfl",
]
