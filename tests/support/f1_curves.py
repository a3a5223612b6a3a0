"""F1 curves made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def curve_of(pairs: list[tuple[float, float]]) -> SimpleNamespace:
    thresholds, values = (np.array(part) for part in zip(*pairs, strict=True))
    best = int(values.argmax())
    return SimpleNamespace(
        thresholds=thresholds,
        f1_at=values,
        threshold=float(thresholds[best]),
        f1=float(values[best]),
    )
