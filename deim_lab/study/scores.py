"""Any detector's COCO result file scored like this lab's own: the 12 numbers, best F1, per class;
and what looks wrong with the file.

A file that the evaluator can't take (not JSON, keys missing, images or classes that the ground
truth doesn't have) raises a typed error that says which of the usual mistakes it looks like. One
that it takes but that looks like a mistake (normalised boxes, corners instead of sizes, scores in
percent) is scored as it is, with a warning beside its numbers.
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
from deim_lab.data.annotations import check_lists
from deim_lab.errors import ConfigError, DataError, nearest
from deim_lab.evaluation import METRICS, F1Curve
from deim_lab.host.files import read_json
from deim_lab.study.paper import reported
from deim_lab.study.paper.measured import is_coco_val2017

Json = Any

KEYS = ("image_id", "category_id", "bbox", "score")
# a box may reach out of its image by this factor (rounding, and detectors that don't clip)
_INSIDE = 1.02
_MANY = 0.2  # share of boxes from which a pattern is no accident
_USED_NUMBERS = 100  # detections an image and class that COCO counts


@dataclass(frozen=True)
class Scored:
    """One result file's scores.

    Attributes:
        name: of the detector.
        file: that was scored.
        metrics: COCO's 12 numbers in [0, 1], -1 where undefined.
        f1: F1 over thresholds, and the best (IoU 0.5, all classes together).
        per_class: as ``Scores.per_class``.
        detections: rows; ``images`` of the ground truth, and how many of these have a detection at
            all.
        warnings: what looks like a mistake in the file.
        backend: which evaluator scored.
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
        """All but the curve, as JSON values."""
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
    """Score each result file against the ground truth, in the order given.

    Args:
        gt: COCO ``instances`` file.
        files: detector's name → its result file: a JSON list of
            ``{"image_id", "category_id", "bbox": [x, y, w, h] px, "score"}``.

    Raises:
        DataError: naming file, row and value, and the usual mistake that it looks like.
    """
    truth = _truth(Path(gt))
    return [_scored(name, Path(file), Path(gt), truth, backend) for name, file in files.items()]


def table(scored: Sequence[Scored]) -> pd.DataFrame:
    """A row a detector: ``model, detections``, the 12 numbers in percent (NaN where undefined),
    ``F1`` (percent) and its ``threshold``; with ``AP reported`` where one of them is a published
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
    """The published AP of the model or preset of this name, where all of COCO val2017 was scored;
    else None.
    """
    if not is_coco_val2017(item.images, item.per_class.to_dict("records")):
        return None
    known = [row for kind in ("main", "zoo") for row in reported.rows(kind)]
    return next(
        (row.ap_percent for row in known if item.name.lower() in (row.model.lower(), row.preset)),
        None,
    )


def names_of(arguments: Sequence[str]) -> dict[str, Path]:
    """``NAME=FILE`` or ``FILE`` → name and file; a file without a name has its own, with its
    folder's where two are the same.

    Raises ``ConfigError`` for a name that is given twice, and for the same file twice without
    names.
    """
    pairs: list[tuple[str | None, Path]] = []
    for argument in arguments:
        name, equals, file = argument.partition("=")
        named = bool(equals and name and file) and not Path(argument).exists()
        pairs.append((name, Path(file)) if named else (None, Path(argument)))
    stems = Counter(path.stem for name, path in pairs if name is None)
    result: dict[str, Path] = {}
    for given, path in pairs:
        chosen = given or (
            path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
        )
        if chosen in result:
            raise ConfigError(
                f"two result files are called {chosen!r} ({result[chosen]} and {path}): name them, "
                f"NAME=FILE"
            )
        result[chosen] = path
    return result


def suspicions(truth: Mapping[str, Json], rows: Sequence[Mapping[str, Json]]) -> tuple[str, ...]:
    """What looks like a mistake in result rows that can be scored: sentences, none where all looks
    right.

    Args:
        truth: content of a COCO file; its images' ``width`` and ``height`` are used where they are
            there.
        rows: result rows with the four keys, boxes of four numbers.
    """
    if not rows:
        return ("it has no detection at all",)
    boxes = np.asarray([row["bbox"] for row in rows], dtype=float)
    scores = np.asarray([row["score"] for row in rows], dtype=float)
    found = _of_boxes(boxes, _sizes_wh(truth, rows), _typical_side_px(truth))
    if scores.min() < 0 or scores.max() > 1:
        found.append(
            f"scores lie in [{scores.min():g}, {scores.max():g}], not in [0, 1]; their order, "
            f"which AP is made of, is used as it is"
        )
    elif len(rows) > 10 and scores.min() == scores.max():
        found.append(
            f"every score is {scores[0]:g}, so detections have no order, which AP is made of"
        )
    seen, images = len({row["image_id"] for row in rows}), len(truth["images"])
    if seen < 0.5 * images:
        found.append(
            f"only {seen} of the {images} images have a detection: is it the result of a part of "
            f"them? The others count as missed"
        )
    most = max(Counter((row["image_id"], row["category_id"]) for row in rows).values())
    if most > _USED_NUMBERS:
        found.append(
            f"up to {most} detections of one class in an image; COCO counts the {_USED_NUMBERS} "
            f"best"
        )
    return tuple(found)


def _of_boxes(boxes: np.ndarray, sizes_wh: np.ndarray, typical_side_px: float) -> list[str]:
    """``boxes`` ``[N, 4]`` read as x, y, width, height in images of ``sizes_wh`` ``[N, 2]`` (NaN
    where unknown).
    """
    if np.abs(boxes).max() <= 2 and typical_side_px > 4:
        return [
            f"boxes look normalised: no number is above {np.abs(boxes).max():g}; COCO wants pixels "
            f"of the original image"
        ]
    found = []
    if flat := int((boxes[:, 2:] <= 0).any(axis=1).sum()):
        found.append(f"{flat} of {len(boxes)} boxes have no width or height")
    known = ~np.isnan(sizes_wh).any(axis=1)
    inside, sizes = boxes[known], sizes_wh[known] * _INSIDE
    if not len(inside):
        return found
    out = ((inside[:, :2] + inside[:, 2:]) > sizes + 1).any(axis=1).mean()
    if out > _MANY:
        said = f"{out:.0%} of the boxes reach out of their image when read as x, y, width, height"
        ordered = (inside[:, 2:] >= inside[:, :2]).all(axis=1) & (inside[:, 2:] <= sizes + 1).all(
            axis=1
        )
        half = inside[:, 2:] / 2
        centred = (inside[:, :2] - half >= -0.02 * sizes - 1).all(axis=1) & (
            inside[:, :2] + half <= sizes + 1
        ).all(axis=1)
        if ordered.mean() > 0.98:
            said += "; they look like corners (x1, y1, x2, y2)"
        elif centred.mean() > 0.98:
            said += "; they look like centre and size (cx, cy, w, h)"
        else:
            said += "; are they in pixels of the original image, not of a resized one?"
        found.append(said)
    return found


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
            f"{path} is a list, which is what a result file is; the ground truth (a COCO file with "
            f"images, annotations and "
            "categories) comes first, then the result files"
        )
    check_lists(content, str(path))
    if not content["annotations"]:
        raise DataError(
            f"{path} has no annotation: nothing can be found in its {len(content['images'])} "
            f"images (a file of COCO's test half?)"
        )
    return dict(content)


def _rows(path: Path, gt: Path, truth: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Result rows that are of this ground truth."""
    content = read_json(path)
    if isinstance(content, Mapping):
        kind = (
            "a COCO ground truth, no result"
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
            raise DataError(f"{path}: row {number} is {str(row)[:60]!r}, no object")
        for key in KEYS:
            if key not in row:
                raise DataError(
                    f"{path}: row {number} has no {key!r}{nearest(key, row)}; it has "
                    f"{', '.join(map(repr, list(row)[:8]))}"
                )
    for key, listed, lost in (
        ("image_id", "images", "are these the detections of this ground truth's images?"),
        ("category_id", "categories", "category ids are the file's own, not class indices from 0"),
    ):
        known = {item["id"] for item in truth[listed] if isinstance(item, Mapping) and "id" in item}
        odd = [
            number
            for number, row in enumerate(content)
            if isinstance(row[key], (list, dict)) or row[key] not in known
        ]
        if odd:
            value = content[odd[0]][key]
            also = f" Ids are numbers there, {value!r} is a text." if isinstance(value, str) else ""
            raise DataError(
                f"{path}: {len(odd)} of {len(content)} rows are of {listed} that {gt} doesn't "
                f"list, the first row {odd[0]} with {key} "
                f"{value!r} (it has {_some(known)}): {lost}{also}"
            )
    return content


def _sizes_wh(truth: Mapping[str, Json], rows: Sequence[Mapping[str, Json]]) -> np.ndarray:
    """Width and height ``[N, 2]`` of each row's image; NaN where the ground truth doesn't say."""
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
