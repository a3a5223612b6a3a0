"""F1 of several runs, each at its own best threshold and all at a fixed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FIXED = 0.5  # the threshold at which nobody should compare a MAL run with a VFL run


class F1(Protocol):
    """The part of ``evaluate.F1Curve`` that is drawn: thresholds falling, F1 at each, the best
    threshold and F1.
    """

    @property
    def thresholds(self) -> NDArray[np.float64]: ...
    @property
    def f1_at(self) -> NDArray[np.float64]: ...
    @property
    def threshold(self) -> float: ...
    @property
    def f1(self) -> float: ...


def f1_at(curve: F1, threshold: float) -> float:
    """F1 if the detections of at least this score were kept; 0 where none has it."""
    kept = np.asarray(curve.thresholds) >= threshold
    return float(np.asarray(curve.f1_at)[kept][-1]) if kept.any() else 0.0


def f1_table(curves: Mapping[str, F1]) -> pd.DataFrame:
    """A row a run: the best F1 and its threshold, and what a fixed 0.5 would have said:
    ``run, threshold, f1, f1_at_fixed``.
    """
    return pd.DataFrame(
        [
            {
                "run": name,
                "threshold": curve.threshold,
                "f1": curve.f1,
                "f1_at_fixed": f1_at(curve, FIXED),
            }
            for name, curve in curves.items()
        ],
        columns=["run", "threshold", "f1", "f1_at_fixed"],
    )
