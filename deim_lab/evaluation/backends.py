"""The two evaluators of COCO's metrics: pycocotools, the reference, and hotcoco.

hotcoco gives the same numbers faster, if it is installed. The two evaluators get the same checked
and completed input, so an empty result, annotation id 0 or a missing ``area`` cannot make them
differ.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deim_lab.errors import ConfigError, nearest
from deim_lab.host import optional

Json = Any

BACKENDS = ("pycocotools", "hotcoco")

_ANY_AREA = (0.0, 1e10)  # px², COCO's own limits


def resolve_backend(backend: str = "auto") -> str:
    """The name of the evaluator; ``auto`` is ``hotcoco`` if installed, else ``pycocotools``.

    Raises ``ConfigError`` for an unknown name, or for ``hotcoco`` if it isn't installed.
    """
    installed = optional.is_installed("hotcoco")
    if backend == "auto":
        return "hotcoco" if installed else "pycocotools"
    if backend not in BACKENDS:
        raise ConfigError(
            f"unknown evaluation backend {backend!r}{nearest(backend, ('auto', *BACKENDS))}. "
            f"Known backends: auto, {', '.join(BACKENDS)}"
        )
    if backend == "hotcoco" and not installed:
        raise optional.missing("hotcoco", extra="fast", purpose="eval.backend=hotcoco")
    return backend


def accumulated(
    truth: dict[str, Json], rows: list[dict[str, Json]], backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's accumulated precision and recall, as ``Scores`` describes them."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports progress by print
        evaluator = _evaluator(truth, rows, backend)
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


@dataclass(frozen=True)
class Matched:
    """The result of COCO's matching for up to 100 detections of one image and class.

    Attributes:
        scores: ``[N]`` scores, in descending order.
        hits: ``[N]`` whether the detection matched a ground-truth box.
        ignored: ``[N]`` whether the detection is neither right nor wrong: it lies in a crowd.
    """

    scores: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray


def matched(
    truth: dict[str, Json], rows: list[dict[str, Json]], backend: str, *, iou: float
) -> Iterator[Matched]:
    """COCO's own matching (``COCOeval.evalImgs``) at one IoU, for boxes of every size."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = _evaluator(truth, rows, backend)
        evaluator.params.iouThrs = [iou]
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [list(_ANY_AREA)], ["all"]
        evaluator.evaluate()
    for item in evaluator.evalImgs:
        if item is not None:  # None: no box and no detection
            yield Matched(
                np.asarray(item["dtScores"], dtype=float),
                np.asarray(item["dtMatches"][0]) > 0,
                np.asarray(item["dtIgnore"][0], dtype=bool),
            )


def _evaluator(truth: dict[str, Json], rows: list[dict[str, Json]], backend: str) -> Any:
    """A ``COCOeval`` for boxes, before its matching."""
    if backend == "hotcoco":
        import hotcoco

        truth, rows = _without_negative_ids(truth, rows)
        coco_truth = hotcoco.COCO(truth)
        return hotcoco.COCOeval(coco_truth, coco_truth.loadRes(rows), "bbox")
    from pycocotools.cocoeval import COCOeval

    return COCOeval(
        _indexed(truth), _indexed({**truth, "annotations": _as_annotations(rows)}), "bbox"
    )


def _without_negative_ids(
    truth: dict[str, Json], rows: list[dict[str, Json]]
) -> tuple[dict[str, Json], list[dict[str, Json]]]:
    """Number images and categories anew if an id is below 0, which hotcoco refuses.

    The order of the ids stays, so the scores do too.
    """
    ids = {key: sorted({item["id"] for item in truth[key]}) for key in ("images", "categories")}
    if min(first for values in ids.values() for first in values[:1]) >= 0:
        return truth, rows
    image, category = (
        {old: new for new, old in enumerate(ids[key], start=1)} for key in ("images", "categories")
    )

    def renumbered(items: list[dict[str, Json]]) -> list[dict[str, Json]]:
        return [
            {
                **item,
                "image_id": image[item["image_id"]],
                "category_id": category[item["category_id"]],
            }
            for item in items
        ]

    return {
        "images": [{**item, "id": image[item["id"]]} for item in truth["images"]],
        "categories": [{**item, "id": category[item["id"]]} for item in truth["categories"]],
        "annotations": renumbered(truth["annotations"]),
    }, renumbered(rows)


def _indexed(content: dict[str, Json]) -> Any:
    """A pycocotools ``COCO`` without a file. Unlike ``loadRes``, it accepts an empty list."""
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
