"""COCO AP and what explains it: the 12 numbers, AP per class, F1 over thresholds; and a detector
scored on a data set.

pycocotools is the reference; hotcoco gives the same numbers faster where it is installed. Both get
the same checked and completed input, so what trips one of them (no detection at all, annotation id
0, no ``area``) can't make them differ.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from deim_lab.config import Config
from deim_lab.data import loader
from deim_lab.data.annotations import parse_coco
from deim_lab.data.coco import CocoDataset
from deim_lab.detections import check_finite, postprocess, to_coco
from deim_lab.errors import ConfigError, DataError, nearest

Json = Any
Source = str | os.PathLike[str] | Mapping[str, Json] | Sequence[Mapping[str, Json]]

_log = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BACKENDS = ("pycocotools", "hotcoco")

# COCO's protocol (Lin et al. 2014; cocoeval.py): the axes of the arrays in ``Scores``.
_IOUS = np.linspace(0.5, 0.95, 10)
_AREAS = {
    "": (0.0, 1e10),
    "s": (0.0, 32.0**2),
    "m": (32.0**2, 96.0**2),
    "l": (96.0**2, 1e10),
}  # px² of the original image
_MAX_DETECTIONS = (1, 10, 100)  # an image and class


@dataclass(frozen=True)
class Scores:
    """What COCO's accumulation leaves; -1 where it is undefined (a class, or a size of it, without
    ground truth).

    Attributes:
        precision: ``[10 IoU, 101 recall, K class, 4 area, 3 max detections]``.
        recall: ``[10 IoU, K class, 4 area, 3 max detections]``.
        category_ids: ``K``, ascending; ``category_names`` and ``boxes`` (ground truth that counts:
            no crowds) of each.
        backend: which evaluator made them.
    """

    precision: np.ndarray
    recall: np.ndarray
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    boxes: tuple[int, ...]
    backend: str

    def metrics(self, class_index: int | None = None) -> dict[str, float]:
        """The 12 numbers in [0, 1], or -1 where undefined; of one class, or the mean over those
        that have ground truth.
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
        """One row a class: ``category_id, name, boxes`` and the 12 numbers, NaN where undefined;
        the mean of ``AP`` is the AP.
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


@dataclass(frozen=True)
class F1Curve:
    """F1 of all classes together (micro) at IoU 0.5, if only detections of at least each threshold
    were kept.

    ``thresholds`` are the distinct scores, falling; ``precision``, ``recall`` and ``f1_at`` belong
    to them. ``threshold`` is the best one and ``f1`` its F1; without detections 1.0 and 0.0.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1_at: np.ndarray
    threshold: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """A detector scored on a data set.

    Attributes:
        metrics: the 12 numbers.
        detections: COCO result rows, with the data set's own image and category ids.
        scores: the arrays behind the numbers (``scores.per_class()``).
        f1: F1 over thresholds.
        backend: which evaluator scored.
        images: how many were scored.
        seconds: in all; ``inference_seconds`` of it up to the last detection.
    """

    metrics: dict[str, float]
    detections: list[dict[str, Json]]
    scores: Scores
    f1: F1Curve
    backend: str
    images: int
    seconds: float
    inference_seconds: float


def coco_metrics(
    gt_json: Source,
    detections_json: Source,
    *,
    backend: str = "auto",
    image_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """COCO's 12 numbers for boxes: ``AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl``, in [0,
    1], or -1 where undefined.

    Args:
        gt_json: a COCO ``instances`` file, or its content. Annotations need
            ``image_id, category_id, bbox``.
        detections_json: a COCO result file, or its rows
            ``{"image_id", "category_id", "bbox": [x, y, w, h] px, "score"}``.
        backend: ``auto | pycocotools | hotcoco``.
        image_ids: only these images; None: all of the file.

    Raises ``DataError`` naming row and value for a detection of an unknown image or category, or
    whose box or score is no number.
    """
    return score(gt_json, detections_json, backend=backend, image_ids=image_ids).metrics()


def per_class(
    gt_json: Source,
    detections_json: Source,
    *,
    backend: str = "auto",
    image_ids: Iterable[int] | None = None,
) -> pd.DataFrame:
    """``Scores.per_class`` of ground truth and detections as ``coco_metrics`` takes them."""
    return score(gt_json, detections_json, backend=backend, image_ids=image_ids).per_class()


def score(
    gt_json: Source,
    detections_json: Source,
    *,
    backend: str = "auto",
    image_ids: Iterable[int] | None = None,
) -> Scores:
    """The arrays from which ``coco_metrics`` and ``per_class`` are read."""
    truth = _read_truth(gt_json, image_ids)
    return _score(truth, _read_detections(detections_json, truth), resolve_backend(backend))


def best_f1(
    gt_json: Source, detections_json: Source, *, image_ids: Iterable[int] | None = None
) -> F1Curve:
    """F1 at every threshold, and the best: MAL's confidences are lower than VFL's, so a fixed
    threshold would compare thresholds.

    COCO's matching goes from high to low score, so what a detection is matched to doesn't depend on
    where the list is cut: one matching at IoU 0.5 serves all thresholds. Crowds and what lies in
    them count neither way.
    """
    truth = _read_truth(gt_json, image_ids)
    return _f1_curve(truth, _read_detections(detections_json, truth))


def score_with_f1(
    gt_json: Source, detections_json: Source, *, backend: str = "auto"
) -> tuple[Scores, F1Curve]:
    """``score`` and ``best_f1`` from one reading of both."""
    truth = _read_truth(gt_json, None)
    rows = _read_detections(detections_json, truth)
    return _score(truth, rows, resolve_backend(backend)), _f1_curve(truth, rows)


def resolve_backend(backend: str = "auto") -> str:
    """The evaluator that ``backend`` means here: ``hotcoco`` where installed for ``auto``, else
    ``pycocotools``.

    Raises ``ConfigError`` for an unknown name, or one asked for by name that isn't installed.
    """
    installed = importlib.util.find_spec("hotcoco") is not None
    if backend == "auto":
        return "hotcoco" if installed else "pycocotools"
    if backend not in BACKENDS:
        raise ConfigError(
            f"unknown evaluation backend {backend!r}{nearest(backend, ('auto', *BACKENDS))}; "
            f"known: auto, {', '.join(BACKENDS)}"
        )
    if backend == "hotcoco" and not installed:
        raise ConfigError(
            "evaluation backend 'hotcoco' is not installed; install deim-lab[fast], or take "
            "eval.backend=auto"
        )
    return backend


def evaluate(
    model: nn.Module,
    dataset: CocoDataset,
    config: Config,
    *,
    device: torch.device | str | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Score ``model`` (usually the EMA's) on ``dataset`` in float32 (on CUDA, torch lets
    convolutions use TF32); its train/eval mode is as before afterwards.

    Args:
        model: a detector whose class indices are ``dataset.categories``.
        config: its ``data`` says input and batch size, ``eval`` the ``top_k`` and the backend.
        device: where the model is; None: that of its first parameter.
        limit: the first so many images only.

    Raises:
        NonFiniteError: logits or boxes that are inf or NaN, naming the images.
    """
    started = time.perf_counter()
    place = torch.device(device) if device is not None else next(model.parameters()).device
    rows: list[dict[str, Json]] = []
    image_ids: list[int] = []
    with _eval_mode(model), torch.no_grad():
        for batch in loader.eval_batches(
            dataset, config, limit=limit, pin_memory=place.type == "cuda"
        ):
            prediction = model(batch.images.to(place, non_blocking=True))
            check_finite(prediction, batch.image_ids)
            detections = postprocess(prediction, batch.sizes_wh.to(place), top_k=config.eval.top_k)
            rows += to_coco(detections, batch.image_ids, dataset.categories.as_list())
            image_ids += batch.image_ids
    inference_seconds = time.perf_counter() - started
    truth = _read_truth(_with_categories(_read_json(dataset.annotations_path), dataset), image_ids)
    checked = _read_detections(rows, truth)
    scores = _score(truth, checked, resolve_backend(config.eval.backend))
    return Evaluation(
        metrics=scores.metrics(),
        detections=rows,
        scores=scores,
        f1=_f1_curve(truth, checked),
        backend=scores.backend,
        images=len(image_ids),
        seconds=time.perf_counter() - started,
        inference_seconds=inference_seconds,
    )


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; then each module's own mode again (a frozen norm stays in eval mode
    while the rest trains).
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _with_categories(truth: dict[str, Json], dataset: CocoDataset) -> dict[str, Json]:
    """The file with the classes added that the detector knows and this half of the data set doesn't
    list (they have no boxes).
    """
    listed = {item["id"] for item in truth["categories"]}
    return {
        **truth,
        "categories": [
            *truth["categories"],
            *(item for item in dataset.categories.as_list() if item["id"] not in listed),
        ],
    }


def _score(truth: dict[str, Json], rows: list[dict[str, Json]], backend: str) -> Scores:
    evaluator: Any
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports progress by print
        if backend == "hotcoco":
            import hotcoco

            coco_truth = hotcoco.COCO(truth)
            evaluator = hotcoco.COCOeval(coco_truth, coco_truth.loadRes(rows), "bbox")
        else:
            from pycocotools.cocoeval import COCOeval

            evaluator = COCOeval(
                _indexed(truth), _indexed({**truth, "annotations": _as_annotations(rows)}), "bbox"
            )
        evaluator.evaluate()
        evaluator.accumulate()
    counts = {item["id"]: 0 for item in truth["categories"]}
    for item in truth["annotations"]:
        counts[item["category_id"]] += not item["iscrowd"]
    return Scores(
        precision=np.asarray(evaluator.eval["precision"]),
        recall=np.asarray(evaluator.eval["recall"]),
        category_ids=tuple(counts),
        category_names=tuple(item["name"] for item in truth["categories"]),
        boxes=tuple(counts.values()),
        backend=backend,
    )


def _indexed(content: dict[str, Json]) -> Any:
    """A pycocotools COCO without a file; unlike ``loadRes`` this also takes an empty list."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _as_annotations(rows: list[dict[str, Json]]) -> list[dict[str, Json]]:
    return [
        {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(rows, start=1)
    ]


def _f1_curve(truth: dict[str, Json], rows: list[dict[str, Json]]) -> F1Curve:
    scores, hits = _hits_at_iou50(truth, rows)
    positives = sum(not item["iscrowd"] for item in truth["annotations"])
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    if not len(scores):
        return F1Curve(scores, scores, scores, scores, threshold=1.0, f1=0.0)
    last = np.flatnonzero(
        np.append(scores[1:] != scores[:-1], True)
    )  # equal scores are kept or dropped together
    kept, true = last + 1, np.cumsum(hits)[last]
    f1 = 2 * true / (kept + positives)
    best = int(f1.argmax())
    return F1Curve(
        scores[last],
        true / kept,
        true / max(positives, 1),
        f1,
        threshold=float(scores[last][best]),
        f1=float(f1[best]),
    )


def _hits_at_iou50(
    truth: dict[str, Json], rows: list[dict[str, Json]]
) -> tuple[np.ndarray, np.ndarray]:
    """Score ``[N]`` and whether it found a box ``[N]`` of each detection that counts (at most 100
    an image and class, none on crowds).
    """
    wanted: dict[tuple[int, int], list[dict[str, Json]]] = {}
    for item in truth["annotations"]:
        wanted.setdefault((item["image_id"], item["category_id"]), []).append(item)
    found: dict[tuple[int, int], list[dict[str, Json]]] = {}
    for row in rows:
        found.setdefault((row["image_id"], row["category_id"]), []).append(row)
    scores: list[float] = []
    hits: list[bool] = []
    for key, members in found.items():
        members = sorted(members, key=lambda row: -row["score"])[: _MAX_DETECTIONS[-1]]
        here = wanted.get(key)
        outcome = _greedy(members, here) if here else [False] * len(members)
        scores += [
            row["score"] for row, hit in zip(members, outcome, strict=True) if hit is not None
        ]
        hits += [hit for hit in outcome if hit is not None]
    return np.asarray(scores, dtype=float), np.asarray(hits, dtype=bool)


def _greedy(members: list[dict[str, Json]], here: list[dict[str, Json]]) -> list[bool | None]:
    """COCO's matching (cocoeval.py) at IoU 0.5 of one image and class: hit, miss, or None for a
    detection that lies in a crowd.

    In order of score each takes the free box of highest IoU, the later of equal ones; crowds only
    where no box is left for it, any number of times, and their overlap is measured against the
    detection's own area.
    """
    here = sorted(here, key=lambda item: item["iscrowd"])
    boxes, others = (np.asarray([item["bbox"] for item in items]) for items in (members, here))
    crowd = np.asarray([bool(item["iscrowd"]) for item in here])
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[:, :2] + others[:, 2:])
    inter = (high - low).clip(min=0).prod(-1)
    areas = boxes[:, 2:].prod(-1)[:, None]
    union = np.where(crowd, areas, areas + others[:, 2:].prod(-1) - inter)
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    free = np.ones(len(here), dtype=bool)
    outcome: list[bool | None] = []
    for overlaps in iou:
        for pool in (free & ~crowd, crowd):
            able = np.flatnonzero(pool & (overlaps >= _IOUS[0]))
            if len(able):
                chosen = able[len(able) - 1 - int(overlaps[able][::-1].argmax())]
                free[chosen] = False
                outcome.append(None if crowd[chosen] else True)
                break
        else:
            outcome.append(False)
    return outcome


def _mean_defined(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _read_truth(source: Source, image_ids: Iterable[int] | None) -> dict[str, Json]:
    """Images, categories and annotations with what both backends need of them: ids from 1
    (pycocotools takes a match with id 0 for none), ``iscrowd`` and ``area`` filled in. Annotations
    of images or categories that the file doesn't list count nowhere.
    """
    name = _name(source, "ground truth")
    truth = parse_coco(_read_json(source), name=name, strict=False)
    known = set(truth.image_ids.tolist())
    chosen = known if image_ids is None else set(image_ids)
    if chosen - known:
        raise DataError(f"{name} has no image {sorted(chosen - known)[0]}, which was to be scored")
    scored: list[dict[str, Json]] = []
    for image_id, category_id, box, area, crowd in zip(
        truth.image_ids[truth.image_index].tolist(),
        truth.category_ids.tolist(),
        truth.boxes_xywh.tolist(),
        truth.areas.tolist(),
        truth.crowd.tolist(),
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
    return {
        "images": [
            {"id": image_id, "width": 0, "height": 0, "file_name": ""}
            for image_id in sorted(chosen)
        ],
        "categories": truth.categories.as_list(),
        "annotations": scored,
    }


def _read_detections(source: Source, truth: dict[str, Json]) -> list[dict[str, Json]]:
    """Result rows, checked and copied (both backends write into them)."""
    content, name = _read_json(source), _name(source, "detections")
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise DataError(
            f"{name} is a {type(content).__name__}; expected a list of {{image_id, category_id, "
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
        for key, value, known in (
            ("image_id", image_id, images),
            ("category_id", category_id, categories),
        ):
            if value not in known:
                raise DataError(
                    f"{where}: {key} {value} is not in the ground truth, which has {_some(known)}"
                )
        if not _is_finite(item.get("score")):
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


def _read_json(source: Source) -> Any:
    if not isinstance(source, (str, os.PathLike)):
        return source
    path = Path(source)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is no readable json: {error}") from error


def _name(source: Source, otherwise: str) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else otherwise


def _id(item: Any, key: str, where: str) -> int:
    value = item.get(key) if isinstance(item, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DataError(
            f"{where}: {key} {value!r} is not an integer"
            if isinstance(item, Mapping)
            else f"{where} is {item!r}, no object"
        )
    return int(value)


def _box(item: Mapping[str, Json], where: str) -> list[float]:
    box: Any = item.get("bbox")
    if (
        isinstance(box, (str, bytes))
        or not hasattr(box, "__len__")
        or len(box) != 4
        or not all(map(_is_finite, box))
    ):
        raise DataError(f"{where}: bbox {box!r} is not [x, y, width, height] in finite pixels")
    return [float(value) for value in box]


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, (str, bool)) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def _some(values: Iterable[int], limit: int = 8) -> str:
    items = sorted(values)
    return f"{items[:limit]}" + (f" … ({len(items)} in all)" if len(items) > limit else "")
