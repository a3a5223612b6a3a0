"""Boxes of annotations that state only an outline: polygons, or a mask in run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deim_lab.data import fields

Json = Any


class Counter:
    """Finds boxes of outlines, and counts them for a notice."""

    def __init__(self) -> None:
        self._polygons = self._masks = 0

    def box_of(self, segmentation: Json) -> list[float] | None:
        """``[x, y, width, height]`` in pixels; None if there is no outline that can be read."""
        if isinstance(segmentation, Mapping):
            box = _box_of_mask(segmentation)
            self._masks += box is not None
        else:
            box = _box_of_polygons(segmentation)
            self._polygons += box is not None
        return box

    def notices(self) -> list[str]:
        """One notice if any box comes from an outline."""
        if not self._polygons and not self._masks:
            return []
        return [
            f"box-from-outline: {self._polygons + self._masks} annotations have no bbox; their "
            f"boxes are those of {self._polygons} polygons and {self._masks} masks"
        ]


def _box_of_polygons(polygons: Json) -> list[float] | None:
    """The box around all polygons ``[[x1, y1, x2, y2, …], …]``."""
    if not isinstance(polygons, Sequence) or isinstance(polygons, str) or not polygons:
        return None
    rings = polygons if all(isinstance(ring, Sequence) for ring in polygons) else [polygons]
    points: list[float] = []
    for ring in rings:
        if isinstance(ring, str) or len(ring) < 6 or len(ring) % 2:
            return None
        if not all(fields.is_number(value) for value in ring):
            return None
        points += map(float, ring)
    x, y = np.asarray(points[0::2]), np.asarray(points[1::2])
    return [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()]


def _box_of_mask(mask: Mapping[str, Json]) -> list[float] | None:
    """The box of a mask in run lengths: ``{"size": [height, width], "counts": list or text}``."""
    from pycocotools import mask as masks

    size: Any = mask.get("size")
    counts: Any = mask.get("counts")
    whole = isinstance(size, Sequence) and len(size) == 2 and all(map(fields.is_number, size))
    if not whole or not counts:
        return None
    try:
        if isinstance(counts, (str, bytes)):
            encoded: Any = {"size": size, "counts": counts}
        else:
            encoded = masks.frPyObjects({"size": list(size), "counts": list(counts)}, *size)
        box = masks.toBbox(encoded).reshape(-1)
    except (TypeError, ValueError):
        return None
    return [float(value) for value in box] if box[2] > 0 and box[3] > 0 else None
