"""From a detector's output to detections in pixels and category ids; and from picture files to drawn boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deim_lab.boxes import cxcywh_to_xyxy
from deim_lab.structures import Prediction

Json = Any


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best first: ``scores [N]`` in [0, 1], ``labels [N]`` class index, ``boxes_xyxy [N, 4]`` px."""

    scores: Tensor
    labels: Tensor
    boxes_xyxy: Tensor

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def above(self, threshold: float) -> Detections:
        """Those of at least this score."""
        keep = self.scores >= threshold
        return Detections(self.scores[keep], self.labels[keep], self.boxes_xyxy[keep])


def postprocess(prediction: Prediction, sizes_wh: Tensor, *, top_k: int = 300) -> list[Detections]:
    """The best ``top_k`` of queries × classes of each image, without suppression: one query may appear with several classes.

    Args:
        prediction: ``logits [B, Q, C]``, ``boxes_cxcywh [B, Q, 4]``.
        sizes_wh: ``[B, 2]`` width and height in pixels that the boxes are scaled to (of the original images).
        top_k: at most Q · C are there.
    """
    logits = prediction.logits.float()
    num_classes = logits.shape[-1]
    scores, flat = logits.sigmoid().flatten(1).topk(min(top_k, logits.shape[1] * num_classes), dim=1)
    query, labels = flat // num_classes, flat % num_classes
    scale = sizes_wh.to(logits.device, torch.float32).repeat(1, 2)
    boxes_xyxy = cxcywh_to_xyxy(prediction.boxes_cxcywh.float()) * scale[:, None]
    boxes_xyxy = boxes_xyxy.gather(1, query[..., None].expand(-1, -1, 4))
    return [Detections(*parts) for parts in zip(scores, labels, boxes_xyxy, strict=True)]


def to_coco(detections: Sequence[Detections], image_ids: Sequence[int], categories: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
    """COCO result rows ``{"image_id", "category_id", "bbox": [x, y, w, h] px, "score"}`` with the data set's own category ids.

    Rounded to what float32 carries and files should hold: boxes to 1/1000 px, scores to 7 decimals.

    Args:
        detections: one an image.
        image_ids: one an image.
        categories: ``[{"id", "name"}]`` in class order, as in a checkpoint.
    """
    rows: list[dict[str, Json]] = []
    for image_id, found in zip(image_ids, detections, strict=True):
        boxes_xyxy = found.boxes_xyxy.double().cpu()
        boxes_xywh = torch.cat([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], dim=1)
        rows += [{"image_id": int(image_id), "category_id": int(categories[label]["id"]), "bbox": box, "score": score}
                 for label, box, score in zip(found.labels.tolist(), boxes_xywh.numpy().round(3).tolist(),
                                              found.scores.double().cpu().numpy().round(7).tolist(), strict=True)]
    return rows
