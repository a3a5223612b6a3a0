"""Judge and convert how four numbers describe a box.

COCO writes x, y, width, height of the top left corner, in pixels. Files with other numbers train
without an error and end near AP 0. So all formats are tried on all boxes: the right one places the
boxes inside their pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deim_lab.config.data import BOX_FORMATS
from deim_lab.data.annotations import Annotations
from deim_lab.data.faults import Faults
from deim_lab.errors import DataError

_TOLERANCE_PX = 1.0  # annotation tools round
_LARGEST_NORMALISED = 1.05  # a box in pixels is larger
_FEWEST = 3  # boxes outside their picture below which nothing is concluded
_SMALLEST_SHARE = 0.005  # share of boxes outside below which nothing is concluded
_CLEARER = 10  # times fewer boxes outside in the other format
WORDS = {
    "xywh": "x, y, width, height in pixels",
    "xyxy": "x1, y1, x2, y2 in pixels",
    "cxcywh": "centre x, centre y, width, height in pixels",
    "normalised-xywh": "x, y, width, height in [0, 1]",
    "normalised-xyxy": "x1, y1, x2, y2 in [0, 1]",
    "normalised-cxcywh": "centre x, centre y, width, height in [0, 1]",
}


def to_xywh(numbers: np.ndarray, sizes_wh: np.ndarray, written: str) -> np.ndarray:
    """Convert ``[A, 4]`` numbers in format ``written`` to x, y, width, height in pixels.

    ``sizes_wh [A, 2]`` is the size of each box's image, for the normalised formats. Raises
    ``DataError`` for an unknown format.
    """
    if written not in BOX_FORMATS:
        raise DataError(f"box format {written!r} is unknown. Expected {', '.join(BOX_FORMATS)}.")
    corners = written.rpartition("-")[2]
    values = numbers * np.tile(sizes_wh, 2) if written.startswith("normalised") else numbers
    first, second = values[:, :2], values[:, 2:]
    if corners == "xyxy":
        return np.concatenate([first, second - first], axis=1)
    if corners == "cxcywh":
        return np.concatenate([first - second / 2, second], axis=1)
    return values


def converted(annotations: Annotations, sizes_wh: np.ndarray, written: str) -> Annotations:
    """The annotations with boxes in COCO's format. ``sizes_wh [N, 2]``: sizes of the images.

    A stated area in other units is dropped with the normalised formats.
    """
    if written == "xywh":
        return annotations
    sizes_of_boxes = sizes_wh[annotations.image_index]
    boxes_xywh = to_xywh(annotations.boxes_xywh, sizes_of_boxes, written)
    areas = annotations.areas
    if written.startswith("normalised"):
        areas = np.full_like(areas, np.nan)
    return replace(annotations, boxes_xywh=boxes_xywh, areas=areas)


@dataclass(frozen=True)
class Fit:
    """How many of the boxes lie inside their image if read in this format."""

    written: str
    inside: int
    boxes: int
    areas_equal: float  # share of stated areas that equal width times height

    @property
    def outside(self) -> int:
        """Boxes that stick out or have no area."""
        return self.boxes - self.inside


def fit(annotations: Annotations, sizes_wh: np.ndarray, written: str) -> Fit:
    """Read all boxes but crowd regions in one format, and count those inside their image."""
    regular = ~annotations.crowd
    sizes = sizes_wh[annotations.image_index[regular]].astype(np.float64)
    xywh = to_xywh(annotations.boxes_xywh[regular], sizes, written)
    ends = xywh[:, :2] + xywh[:, 2:]
    inside = (xywh[:, :2] >= -_TOLERANCE_PX).all(1) & (ends <= sizes + _TOLERANCE_PX).all(1)
    inside &= (xywh[:, 2:] > 0).all(1)
    areas = annotations.areas[regular]
    stated = np.isfinite(areas) & (areas > 0)
    equal = np.abs(xywh[stated, 2] * xywh[stated, 3] - areas[stated]) <= 0.01 * areas[stated]
    return Fit(written, int(inside.sum()), len(xywh), float(equal.mean()) if len(equal) else 0.0)


def judge(annotations: Annotations, sizes_wh: np.ndarray, faults: Faults) -> None:
    """Add a fault if another format fits the boxes better than COCO's own."""
    regular = ~annotations.crowd
    numbers = annotations.boxes_xywh[regular]
    if not len(numbers):
        return
    if np.abs(numbers).max() <= _LARGEST_NORMALISED and sizes_wh.min() > 2:
        faults.add("boxes-normalised", _normalised_message(annotations, sizes_wh))
        return
    usual = fit(annotations, sizes_wh, "xywh")
    others = [fit(annotations, sizes_wh, written) for written in ("xyxy", "cxcywh")]
    best = min(others, key=lambda other: (other.outside, -other.areas_equal))
    if _fits_better(best, usual):
        faults.add("boxes-format", _format_message(annotations, usual, best))


def _fits_better(other: Fit, usual: Fit) -> bool:
    many = usual.outside >= max(_FEWEST, _SMALLEST_SHARE * usual.boxes)
    by_place = many and other.outside * _CLEARER <= usual.outside
    by_area = other.areas_equal > 0.9 and usual.areas_equal < 0.1 and other.inside >= usual.inside
    return by_place or (by_area and usual.boxes >= _FEWEST)


def _normalised_message(annotations: Annotations, sizes_wh: np.ndarray) -> str:
    names = ("normalised-xywh", "normalised-cxcywh", "normalised-xyxy")
    fits = [fit(annotations, sizes_wh, written) for written in names]
    best = min(fits, key=lambda other: (other.outside, -other.areas_equal))
    equal = [other for other in fits if other.outside == best.outside]
    counts = [f"as {WORDS[other.written]}, {other.inside} of {other.boxes}" for other in fits]
    remedy = (
        f"To read them as {WORDS[best.written]}, add --set data.boxes={best.written}"
        if len(equal) == 1
        else "To read them, add --set data.boxes="
        + " or ".join(other.written for other in equal)
        + " (the boxes fit both)"
    )
    return (
        f"{annotations.path}: these boxes look normalised: no number is above "
        f"{_LARGEST_NORMALISED:g}. Expected {WORDS['xywh']}. Inside their images "
        f"are {'; '.join(counts)}. {remedy}. "
        f"data.boxes=xywh takes them as they are."
    )


def _format_message(annotations: Annotations, usual: Fit, best: Fit) -> str:
    by_area = ""
    if best.areas_equal > 0.9 > usual.areas_equal:
        by_area = f", and {best.areas_equal:.0%} of the stated areas agree"
    return (
        f"{annotations.path}: these boxes look like {WORDS[best.written]}. Read so, {best.inside} "
        f"of {best.boxes} lie inside their images{by_area}. Read as COCO's {WORDS['xywh']}, "
        f"{usual.inside} do. To convert them, add --set data.boxes={best.written}. "
        f"data.boxes=xywh takes them as they are."
    )
