"""Convert the output of a detector to detections in pixels and to COCO result rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deim_lab.boxes import cxcywh_to_xyxy
from deim_lab.errors import NonFiniteError
from deim_lab.structures import Prediction

Json = Any


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best first.

    ``scores [N]`` are in [0, 1], ``labels [N]`` are class indices, ``boxes_xyxy [N, 4]`` are in
    pixels.
    """

    scores: Tensor
    labels: Tensor
    boxes_xyxy: Tensor

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def above(self, threshold: float) -> Detections:
        """The detections with at least this score."""
        keep = self.scores >= threshold
        return Detections(self.scores[keep], self.labels[keep], self.boxes_xyxy[keep])

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on another device."""
        return Detections(
            self.scores.to(device), self.labels.to(device), self.boxes_xyxy.to(device)
        )


def postprocess(prediction: Prediction, sizes_wh: Tensor, *, top_k: int = 300) -> list[Detections]:
    """Take the best ``top_k`` of queries × classes of each image, without suppression.

    One query may appear with several classes.

    Args:
        prediction: ``logits [B, Q, C]``, ``boxes_cxcywh [B, Q, 4]``.
        sizes_wh: ``[B, 2]`` width and height in pixels of the original images, to scale the boxes.
        top_k: largest number of detections; there are at most Q · C.
    """
    return [
        Detections(*parts) for parts in zip(*best(prediction, sizes_wh, top_k=top_k), strict=True)
    ]


def best(prediction: Prediction, sizes_wh: Tensor, *, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """``postprocess`` for all images at once, as three tensors.

    Returns scores ``[B, K]``, labels ``[B, K]`` and boxes_xyxy ``[B, K, 4]`` px.
    """
    logits = prediction.logits.float()
    num_classes = logits.shape[-1]
    scores, flat = (
        logits.sigmoid().flatten(1).topk(min(top_k, logits.shape[1] * num_classes), dim=1)
    )
    query, labels = flat // num_classes, flat % num_classes
    scale = sizes_wh.to(logits.device, torch.float32).repeat(1, 2)
    boxes_xyxy = cxcywh_to_xyxy(prediction.boxes_cxcywh.float()) * scale[:, None]
    return scores, labels, boxes_xyxy.gather(1, query[..., None].expand(-1, -1, 4))


def check_finite(prediction: Prediction, image_ids: Sequence[int]) -> None:
    """Raise ``NonFiniteError``, with the images, if logits or boxes are inf or NaN."""
    for term, values in (("logits", prediction.logits), ("boxes_cxcywh", prediction.boxes_cxcywh)):
        finite = values.isfinite().flatten(1).all(1)
        if not finite.all():
            bad = tuple(image_ids[index] for index in (~finite).nonzero().flatten().tolist())
            raise NonFiniteError(
                f"the detector's {term} are inf or NaN for images {list(bad[:8])}. Weights or "
                f"activations overflowed.",
                image_ids=bad,
                term=term,
            )


def to_coco(
    detections: Sequence[Detections],
    image_ids: Sequence[int],
    categories: Sequence[Mapping[str, Json]],
) -> list[dict[str, Json]]:
    """Convert detections to COCO result rows.

    A row is ``{"image_id", "category_id", "bbox": [x, y, w, h] px, "score"}``, with the category
    ids of the data set. Boxes are rounded to 1/1000 px and scores to 7 decimals, within the
    precision of float32.

    Args:
        detections: one per image.
        image_ids: one per image.
        categories: ``[{"id", "name"}]`` in class order, as in a checkpoint.
    """
    rows: list[dict[str, Json]] = []
    for image_id, of_image in zip(image_ids, detections, strict=True):
        boxes_xyxy = of_image.boxes_xyxy.double().cpu()
        boxes_xywh = torch.cat([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], dim=1)
        rows += [
            {
                "image_id": int(image_id),
                "category_id": int(categories[label]["id"]),
                "bbox": box,
                "score": score,
            }
            for label, box, score in zip(
                of_image.labels.tolist(),
                boxes_xywh.numpy().round(3).tolist(),
                of_image.scores.double().cpu().numpy().round(7).tolist(),
                strict=True,
            )
        ]
    return rows


@dataclass(frozen=True)
class ImageDetections:
    """The detections in one picture.

    Attributes:
        image_id: position among the requested pictures, from 1. Unreadable pictures count too.
        path: path of the file; None for pixels given as an array.
        size_wh: width and height in pixels, upright.
        detections: best first; boxes in pixels.
        category_ids, names: category of each detection, as in the training data.
    """

    image_id: int
    path: Path | None
    size_wh: tuple[int, int]
    detections: Detections
    category_ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.detections)


def coco_rows(found: ImageDetections) -> list[dict[str, Json]]:
    """COCO result rows of one picture, with its ``file_name``."""
    categories = [{"id": category_id} for category_id in found.category_ids]
    numbered = Detections(
        found.detections.scores, torch.arange(len(found)), found.detections.boxes_xyxy
    )
    name = None if found.path is None else str(found.path)
    return [row | {"file_name": name} for row in to_coco([numbered], [found.image_id], categories)]


def flat_rows(
    rows: Sequence[Mapping[str, Json]], categories: Sequence[Mapping[str, Json]]
) -> list[dict[str, Json]]:
    """Result rows for a table.

    The box is ``x``, ``y``, ``width``, ``height`` in px. The name of the class is added. ``frame``
    is None for pictures.
    """
    names = {item["id"]: item["name"] for item in categories}
    flat = []
    for row in rows:
        box = dict(zip(("x", "y", "width", "height"), row["bbox"], strict=True))
        flat.append(
            {
                "image_id": row["image_id"],
                "file_name": row["file_name"],
                "frame": row.get("frame"),
                "seconds": row.get("seconds"),
                "category_id": row["category_id"],
                "category": names[row["category_id"]],
                "score": row["score"],
                **box,
            }
        )
    return flat
