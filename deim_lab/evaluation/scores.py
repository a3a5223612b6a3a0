"""COCO's 12 metrics and AP per class, from ground truth and detections in COCO's format."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deim_lab.config.entries import COCO_METRICS
from deim_lab.data import fields
from deim_lab.data.annotations import Annotations, Categories
from deim_lab.data.parse import parse_coco
from deim_lab.errors import DataError
from deim_lab.evaluation.backends import Json, accumulated, resolve_backend
from deim_lab.host import files
from deim_lab.host.files import user_path

Source = str | os.PathLike[str] | Mapping[str, Json] | Sequence[Mapping[str, Json]]

_log = logging.getLogger(__name__)

METRICS = COCO_METRICS

# COCO's protocol (Lin et al. 2014; cocoeval.py): the axes of the arrays in ``Scores``.
_IOUS = np.linspace(0.5, 0.95, 10)
_AREAS = {
    "": (0.0, 1e10),
    "s": (0.0, 32.0**2),
    "m": (32.0**2, 96.0**2),
    "l": (96.0**2, 1e10),
}  # px² of the original image
_MAX_DETECTIONS = (1, 10, 100)  # per image and class


@dataclass(frozen=True)
class Scores:
    """Precision and recall arrays of COCO's accumulation, with the classes that they cover.

    A value is -1 where it is undefined: a class, or a box size of a class, without ground truth.

    Attributes:
        precision: ``[10 IoU, 101 recall, K class, 4 area, 3 max detections]``.
        recall: ``[10 IoU, K class, 4 area, 3 max detections]``.
        category_ids: ids of the ``K`` classes, ascending. ``category_names`` and ``boxes`` belong
            to them; ``boxes`` counts the ground truth without crowds.
        backend: name of the evaluator.
    """

    precision: np.ndarray
    recall: np.ndarray
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    boxes: tuple[int, ...]
    backend: str

    def metrics(self, class_index: int | None = None) -> dict[str, float]:
        """The 12 metrics of one class, or the mean over all classes with ground truth.

        Values are in [0, 1], or -1 where undefined.
        """
        chosen = slice(None) if class_index is None else slice(class_index, class_index + 1)
        precision, recall = self.precision[:, :, chosen], self.recall[:, chosen]
        result = {f"AP{area}": _mean_defined(precision[..., a, 2]) for a, area in enumerate(_AREAS)}
        result |= {
            f"AP{round(100 * _IOUS[i])}": _mean_defined(precision[i, ..., 0, 2]) for i in (0, 5)
        }
        result |= {
            f"AR{count}": _mean_defined(recall[..., 0, m])
            for m, count in enumerate(_MAX_DETECTIONS)
        }
        result |= {
            f"AR{area}": _mean_defined(recall[..., a, 2]) for a, area in enumerate(_AREAS) if area
        }
        return {name: result[name] for name in METRICS}

    def per_class(self) -> pd.DataFrame:
        """A frame with one row per class: ``category_id, name, boxes`` and the 12 metrics.

        Undefined values are NaN. The mean of the column ``AP`` is the AP.
        """
        rows = [
            {"category_id": category_id, "name": name, "boxes": boxes, **self.metrics(index)}
            for index, (category_id, name, boxes) in enumerate(
                zip(self.category_ids, self.category_names, self.boxes, strict=True)
            )
        ]
        frame = pd.DataFrame(rows, columns=["category_id", "name", "boxes", *METRICS])
        frame[list(METRICS)] = frame[list(METRICS)].astype(float).where(lambda values: values > -1)
        return frame


def coco_metrics(
    gt_json: Source,
    detections_json: Source,
    *,
    backend: str = "auto",
    image_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """COCO's 12 metrics for boxes, in [0, 1], or -1 where undefined.

    The metrics are ``AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl``.

    Args:
        gt_json: a COCO ``instances`` file, or its content. Annotations need
            ``image_id, category_id, bbox``.
        detections_json: a COCO result file, or its rows
            ``{"image_id", "category_id", "bbox": [x, y, w, h] px, "score"}``.
        backend: ``auto | pycocotools | hotcoco``.
        image_ids: score only these images; None: all images of the file.

    Raises ``DataError`` naming row and value for a detection of an unknown image or category, or
    with a box or score that is no number.
    """
    return score(gt_json, detections_json, backend=backend, image_ids=image_ids).metrics()


def per_class(
    gt_json: Source,
    detections_json: Source,
    *,
    backend: str = "auto",
    image_ids: Iterable[int] | None = None,
) -> pd.DataFrame:
    """COCO's 12 metrics per class (``Scores.per_class``); arguments as in ``coco_metrics``."""
    return score(gt_json, detections_json, backend=backend, image_ids=image_ids).per_class()


def score(
    gt_json: Source,
    detections_json: Source,
    *,
    backend: str = "auto",
    image_ids: Iterable[int] | None = None,
) -> Scores:
    """The arrays from which ``coco_metrics`` and ``per_class`` are computed."""
    truth = read_truth(gt_json, image_ids)
    return score_checked(truth, read_detections(detections_json, truth), resolve_backend(backend))


def score_checked(truth: dict[str, Json], rows: list[dict[str, Json]], backend: str) -> Scores:
    """Compute ``Scores`` from ground truth and detections that were read and checked."""
    precision, recall = accumulated(truth, rows, backend)
    counts = {item["id"]: 0 for item in truth["categories"]}
    for item in truth["annotations"]:
        counts[item["category_id"]] += not item["iscrowd"]
    return Scores(
        precision=precision,
        recall=recall,
        category_ids=tuple(counts),
        category_names=tuple(item["name"] for item in truth["categories"]),
        boxes=tuple(counts.values()),
        backend=backend,
    )


def _mean_defined(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def read_truth(source: Source, image_ids: Iterable[int] | None) -> dict[str, Json]:
    """Read images, categories and annotations, completed for the two backends (``truth_of``).

    Annotations of images or categories that the file doesn't list are left out.
    """
    name = _name(source, "ground truth")
    annotations = parse_coco(read_json(source), name=name, strict=False)
    return truth_of(annotations, image_ids, annotations.categories)


def truth_of(
    annotations: Annotations, image_ids: Iterable[int] | None, categories: Categories
) -> dict[str, Json]:
    """Ground truth as a COCO dictionary for the two backends.

    Annotation ids start at 1, because pycocotools treats a match with id 0 as no match. ``iscrowd``
    and ``area`` are filled in.

    Args:
        annotations: of all images.
        image_ids: the images to score; None: all.
        categories: the detector's classes. Classes without boxes are scored as undefined.

    Raises:
        DataError: an image that the annotations don't have.
    """
    available = set(annotations.image_ids.tolist())
    chosen = available if image_ids is None else set(image_ids)
    if chosen - available:
        raise DataError(
            f"{annotations.path} has no image {sorted(chosen - available)[0]}, but image_ids "
            f"contains it"
        )
    scored: list[dict[str, Json]] = []
    for image_id, category_id, box, area, crowd in zip(
        annotations.image_ids[annotations.image_index].tolist(),
        annotations.category_ids.tolist(),
        annotations.boxes_xywh.tolist(),
        annotations.areas.tolist(),
        annotations.crowd.tolist(),
        strict=True,
    ):
        if image_id in chosen:
            scored.append(
                {
                    "id": len(scored) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box,
                    "area": box[2] * box[3] if math.isnan(area) else area,
                    "iscrowd": int(crowd),
                }
            )
    listed = annotations.categories.as_list()
    listed += [
        item for item in categories.as_list() if item["id"] not in annotations.categories.ids
    ]
    return {
        "images": [
            {"id": image_id, "width": 0, "height": 0, "file_name": ""}
            for image_id in sorted(chosen)
        ],
        "categories": listed,
        "annotations": scored,
    }


def read_detections(source: Source, truth: dict[str, Json]) -> list[dict[str, Json]]:
    """Read and check result rows. They are copied, because the backends write into them."""
    content, name = read_json(source), _name(source, "detections")
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise DataError(
            f"{name} is a {type(content).__name__}. Expected a list of {{image_id, category_id, "
            f"bbox, score}}"
        )
    images, categories = ({item["id"] for item in truth[key]} for key in ("images", "categories"))
    rows = []
    for number, item in enumerate(content):
        where = f"{name}: row {number}"
        image_id, category_id, box = (
            _id(item, "image_id", where),
            _id(item, "category_id", where),
            _box(item, where),
        )
        for key, value, valid_ids in (
            ("image_id", image_id, images),
            ("category_id", category_id, categories),
        ):
            if value not in valid_ids:
                raise DataError(
                    f"{where}: {key} {value} is not in the ground truth, which has "
                    f"{_some(valid_ids)}"
                )
        if not fields.is_number(item.get("score")):
            raise DataError(f"{where}: score {item.get('score')!r} is not a finite number")
        rows.append(
            {
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "score": float(item["score"]),
            }
        )
    return rows


def read_json(source: Source) -> Any:
    if not isinstance(source, (str, os.PathLike)):
        return source
    return files.read_json(user_path(source))


def _name(source: Source, otherwise: str) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else otherwise


def _id(item: Any, key: str, where: str) -> int:
    value = item.get(key) if isinstance(item, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DataError(
            f"{where}: {key} {value!r} is not an integer"
            if isinstance(item, Mapping)
            else f"{where} is {item!r}, expected an object"
        )
    return int(value)


def _box(item: Mapping[str, Json], where: str) -> list[float]:
    box: Any = item.get("bbox")
    if not fields.is_box(box):
        raise DataError(f"{where}: bbox {box!r} is not [x, y, width, height] in finite pixels")
    return [float(value) for value in box]


def _some(values: Iterable[int], limit: int = 8) -> str:
    items = sorted(values)
    return f"{items[:limit]}" + (f" … ({len(items)} in all)" if len(items) > limit else "")
