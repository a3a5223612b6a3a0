"""Score any detector's COCO result file as this lab's own: 12 numbers, best F1, per class.

A file that cannot be scored raises a typed error that names the likely mistake: not JSON, missing
keys, or images or classes that the ground truth lacks. A file that can be scored but looks wrong
is scored, with a warning next to its numbers. Examples are normalised boxes, corners instead of
sizes, and scores in percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deim_lab import evaluation
from deim_lab.data.parse import check_lists
from deim_lab.errors import ConfigError, DataError, nearest
from deim_lab.evaluation import METRICS, F1Curve
from deim_lab.host.files import read_json, user_path
from deim_lab.study.paper import reported
from deim_lab.study.paper.measured import is_coco_val2017

Json = Any

KEYS = ("image_id", "category_id", "bbox", "score")
# Tolerated factor by which a box exceeds its image (rounding, detectors that do not clip).
_INSIDE = 1.02
_MANY = 0.2  # share of boxes above which a pattern is not chance
_USED_NUMBERS = 100  # detections per image and class that COCO counts


@dataclass(frozen=True)
class Scored:
    """One result file's scores.

    Attributes:
        name: of the detector.
        file: the scored file.
        metrics: COCO's 12 numbers in [0, 1], -1 where undefined.
        f1: F1 over thresholds, and the best (IoU 0.5, all classes together).
        per_class: as ``Scores.per_class``.
        detections: number of rows.
        images: images of the ground truth.
        images_with_detections: images with at least one detection.
        warnings: likely mistakes in the file.
        backend: the evaluator that scored the file.
    """

    name: str
    file: Path
    metrics: dict[str, float]
    f1: F1Curve
    per_class: pd.DataFrame
    detections: int
    images: int
    images_with_detections: int
    warnings: tuple[str, ...]
    backend: str

    def as_json(self) -> dict[str, Json]:
        """All fields except the F1 curve, as JSON values."""
        return {
            "name": self.name,
            "file": str(self.file),
            "metrics": self.metrics,
            "best_f1": self.f1.f1,
            "best_f1_threshold": self.f1.threshold,
            "detections": self.detections,
            "images": self.images,
            "images_with_detections": self.images_with_detections,
            "warnings": list(self.warnings),
            "backend": self.backend,
            "reported_ap_percent": reported_ap_percent(self),
            "per_class": [
                {key: None if value != value else value for key, value in row.items()}
                for row in self.per_class.to_dict("records")
            ],
        }


def score_files(
    gt: str | Path, files: Mapping[str, str | Path], *, backend: str = "auto"
) -> list[Scored]:
    """Score each result file against the ground truth, in the given order.

    Args:
        gt: COCO ``instances`` file.
        files: detector's name → its result file: a JSON list of ``{"image_id", "category_id",
            "bbox": [x, y, w, h] px, "score"}``.

    Raises:
        DataError: a file that cannot be scored. The message names file, row, value and the likely
            mistake.
    """
    gt_path = user_path(gt)
    truth = _truth(gt_path)
    return [_scored(name, user_path(file), gt_path, truth, backend) for name, file in files.items()]


def table(scored: Sequence[Scored]) -> pd.DataFrame:
    """One row per detector: detections, the 12 COCO numbers and the best F1.

    Columns: ``model, detections``, the 12 numbers in percent (NaN where undefined), ``F1``
    (percent) and its ``threshold``. ``AP reported`` is added if one of the detectors is a published
    model on COCO val2017.
    """
    rows = []
    for item in scored:
        numbers = {
            key: 100 * value if value >= 0 else float("nan") for key, value in item.metrics.items()
        }
        rows.append(
            {
                "model": item.name,
                "detections": item.detections,
                **numbers,
                "F1": 100 * item.f1.f1,
                "threshold": item.f1.threshold,
                "AP reported": reported_ap_percent(item),
            }
        )
    result = pd.DataFrame(
        rows, columns=["model", "detections", *METRICS, "F1", "threshold", "AP reported"]
    )
    return result if result["AP reported"].notna().any() else result.drop(columns="AP reported")


def reported_ap_percent(item: Scored) -> float | None:
    """Published AP of the model or preset with this name; None without all of COCO val2017."""
    if not is_coco_val2017(item.images, item.per_class.to_dict("records")):
        return None
    published = [row for kind in ("main", "zoo") for row in reported.rows(kind)]
    return next(
        (
            row.ap_percent
            for row in published
            if item.name.lower() in (row.model.lower(), row.preset)
        ),
        None,
    )


def names_of(arguments: Sequence[str]) -> dict[str, Path]:
    """Map names to files from ``NAME=FILE`` or ``FILE`` arguments.

    A file without a name takes its stem, preceded by its folder if two stems are equal. Raises
    ``ConfigError`` for a repeated name, and for the same file twice without names.
    """
    pairs: list[tuple[str | None, Path]] = []
    for argument in arguments:
        name, equals, file = argument.partition("=")
        named = bool(equals and name and file) and not user_path(argument).exists()
        pairs.append((name, user_path(file)) if named else (None, user_path(argument)))
    stems = Counter(path.stem for name, path in pairs if name is None)
    result: dict[str, Path] = {}
    for given, path in pairs:
        chosen = given or (
            path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
        )
        if chosen in result:
            raise ConfigError(
                f"two result files have the name {chosen!r} ({result[chosen]} and {path}). Name "
                f"them with NAME=FILE"
            )
        result[chosen] = path
    return result


def suspicions(truth: Mapping[str, Json], rows: Sequence[Mapping[str, Json]]) -> tuple[str, ...]:
    """List likely mistakes in result rows that can be scored, as sentences.

    Args:
        truth: content of a COCO file; its images' ``width`` and ``height`` are used if present.
        rows: result rows with the four keys, boxes of four numbers.
    """
    if not rows:
        return ("it has no detections",)
    boxes = np.asarray([row["bbox"] for row in rows], dtype=float)
    scores = np.asarray([row["score"] for row in rows], dtype=float)
    warnings = _of_boxes(boxes, _sizes_wh(truth, rows), _typical_side_px(truth))
    if scores.min() < 0 or scores.max() > 1:
        warnings.append(
            f"scores lie in [{scores.min():g}, {scores.max():g}], not in [0, 1]. AP uses their "
            f"order, unchanged"
        )
    elif len(rows) > 10 and scores.min() == scores.max():
        warnings.append(
            f"every score is {scores[0]:g}, so detections have no order, which AP needs"
        )
    seen, images = len({row["image_id"] for row in rows}), len(truth["images"])
    if seen < 0.5 * images:
        warnings.append(
            f"only {seen} of the {images} images have a detection: does the file cover only "
            f"a part of them? The others count as missed"
        )
    most = max(Counter((row["image_id"], row["category_id"]) for row in rows).values())
    if most > _USED_NUMBERS:
        warnings.append(
            f"up to {most} detections of one class in an image; COCO counts the {_USED_NUMBERS} "
            f"best"
        )
    return tuple(warnings)


def _of_boxes(boxes: np.ndarray, sizes_wh: np.ndarray, typical_side_px: float) -> list[str]:
    """Check boxes ``[N, 4]`` (x, y, width, height) in images of ``sizes_wh`` ``[N, 2]``.

    Sizes are NaN where unknown.
    """
    if np.abs(boxes).max() <= 2 and typical_side_px > 4:
        return [
            f"boxes look normalised: no number is above {np.abs(boxes).max():g}; COCO expects "
            f"pixels of the original image"
        ]
    warnings = []
    if flat := int((boxes[:, 2:] <= 0).any(axis=1).sum()):
        warnings.append(f"{flat} of {len(boxes)} boxes have no width or height")
    has_size = ~np.isnan(sizes_wh).any(axis=1)
    inside, sizes = boxes[has_size], sizes_wh[has_size] * _INSIDE
    if not len(inside):
        return warnings
    out = ((inside[:, :2] + inside[:, 2:]) > sizes + 1).any(axis=1).mean()
    if out > _MANY:
        warning = (
            f"{out:.0%} of the boxes reach out of their image when read as x, y, width, height"
        )
        ordered = (inside[:, 2:] >= inside[:, :2]).all(axis=1) & (inside[:, 2:] <= sizes + 1).all(
            axis=1
        )
        half = inside[:, 2:] / 2
        centred = (inside[:, :2] - half >= -0.02 * sizes - 1).all(axis=1) & (
            inside[:, :2] + half <= sizes + 1
        ).all(axis=1)
        if ordered.mean() > 0.98:
            warning += "; they look like corners (x1, y1, x2, y2)"
        elif centred.mean() > 0.98:
            warning += "; they look like centre and size (cx, cy, w, h)"
        else:
            warning += "; are they in pixels of the original image, not of a resized one?"
        warnings.append(warning)
    return warnings


def _scored(name: str, file: Path, gt: Path, truth: Mapping[str, Json], backend: str) -> Scored:
    rows = _rows(file, gt, truth)
    try:
        scores, f1 = evaluation.score_with_f1(truth, rows, backend=backend)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    return Scored(
        name=name,
        file=file,
        metrics=scores.metrics(),
        f1=f1,
        per_class=scores.per_class(),
        detections=len(rows),
        images=len(truth["images"]),
        images_with_detections=len({row["image_id"] for row in rows}),
        warnings=suspicions(truth, rows),
        backend=scores.backend,
    )


def _truth(path: Path) -> dict[str, Json]:
    content = read_json(path)
    if isinstance(content, list):
        raise DataError(
            f"{path} is a list, like a result file. Give the ground truth first (a COCO file with "
            "images, annotations and categories), then the result files"
        )
    check_lists(content, str(path))
    if not content["annotations"]:
        raise DataError(
            f"{path} has no annotations for its {len(content['images'])} images, so nothing can be "
            f"scored. Is it a file of COCO's test set?"
        )
    return dict(content)


def _rows(path: Path, gt: Path, truth: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Read the result rows and check that they belong to this ground truth."""
    content = read_json(path)
    if isinstance(content, Mapping):
        kind = (
            "a COCO ground truth, not a result"
            if "images" in content
            else f"an object with {', '.join(map(repr, list(content)[:5]))}"
        )
        raise DataError(f"{path} is {kind}: a result file is a list of {{{', '.join(KEYS)}}}")
    if not isinstance(content, list):
        raise DataError(
            f"{path} is a {type(content).__name__}: a result file is a list of "
            f"{{{', '.join(KEYS)}}}"
        )
    for number, row in enumerate(content):
        if not isinstance(row, Mapping):
            raise DataError(f"{path}: row {number} is {str(row)[:60]!r}, not an object")
        for key in KEYS:
            if key not in row:
                raise DataError(
                    f"{path}: row {number} has no {key!r}{nearest(key, row)}; it has "
                    f"{', '.join(map(repr, list(row)[:8]))}"
                )
    for key, listed, lost in (
        ("image_id", "images", "are these detections of this ground truth's images?"),
        (
            "category_id",
            "categories",
            "use the ground truth's category ids, not class indices from 0",
        ),
    ):
        valid_ids = {
            item["id"] for item in truth[listed] if isinstance(item, Mapping) and "id" in item
        }
        odd = [
            number
            for number, row in enumerate(content)
            if isinstance(row[key], (list, dict)) or row[key] not in valid_ids
        ]
        if odd:
            value = content[odd[0]][key]
            also = (
                f" The ids there are numbers, {value!r} is a string."
                if isinstance(value, str)
                else ""
            )
            raise DataError(
                f"{path}: {len(odd)} of {len(content)} rows are of {listed} that {gt} does "
                f"not list, the first is row {odd[0]} with {key} "
                f"{value!r} (it has {_some(valid_ids)}): {lost}{also}"
            )
    return content


def _sizes_wh(truth: Mapping[str, Json], rows: Sequence[Mapping[str, Json]]) -> np.ndarray:
    """Width and height ``[N, 2]`` of each row's image; NaN if missing in the ground truth."""
    sizes = {
        item["id"]: (item.get("width") or np.nan, item.get("height") or np.nan)
        for item in truth["images"]
    }
    return np.asarray([sizes[row["image_id"]] for row in rows], dtype=float).reshape(-1, 2)


def _typical_side_px(truth: Mapping[str, Json]) -> float:
    return float(np.median([max(item["bbox"][2:]) for item in truth["annotations"]]))


def _some(values: set[Json], limit: int = 4) -> str:
    items = sorted(values, key=lambda value: (str(type(value)), value))
    return f"{items[0]} … {items[-1]}, {len(items)} in all" if len(items) > limit else str(items)
