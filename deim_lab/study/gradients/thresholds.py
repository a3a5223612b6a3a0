"""F1 of several runs, each at its own best threshold and all at a fixed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FIXED = 0.5  # a misleading threshold for comparing a MAL run with a VFL run


class F1(Protocol):
    """The fields of ``evaluation.F1Curve`` that are drawn.

    Thresholds in falling order, F1 at each threshold, and the best threshold with its F1.
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
    """F1 with all detections of at least this score; 0 if there is none."""
    above = np.asarray(curve.thresholds) >= threshold
    return float(np.asarray(curve.f1_at)[above][-1]) if above.any() else 0.0


def f1_table(curves: Mapping[str, F1]) -> pd.DataFrame:
    """One row per run: the best F1, its threshold, and F1 at a fixed 0.5.

    Columns: ``run, threshold, f1, f1_at_fixed``.
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
