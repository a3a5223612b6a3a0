"""Box formats and overlaps: pure functions, paired and pairwise.

``cxcywh`` is centre and size, ``xyxy`` is two corners. Paired functions take ``[..., 4]`` and
``[..., 4]`` and return ``[...]``. Pairwise functions take ``[..., N, 4]`` and ``[..., M, 4]`` and
return ``[..., N, M]``. Empty boxes give an IoU of 0, never NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Float[Tensor, "*pairs 4"]) -> Float[Tensor, "*pairs 4"]:
    """Centre and size ``[..., 4]`` → corners. Sizes below 0 count as 0 (official code)."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:].clamp(min=0.0)
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Float[Tensor, "*pairs 4"]) -> Float[Tensor, "*pairs 4"]:
    """Corners ``[..., 4]`` → centre and size."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes_xyxy: Float[Tensor, "*pairs 4"]) -> Float[Tensor, "*pairs"]:
    """Area: ``[..., 4]`` → ``[...]``; 0 for a box turned inside out."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).prod(-1)


def paired_iou(
    a_xyxy: Float[Tensor, "*#pairs 4"], b_xyxy: Float[Tensor, "*#pairs 4"]
) -> Float[Tensor, "*_"]:
    """IoU of each pair: ``[..., 4]``, ``[..., 4]`` → ``[...]`` in [0, 1]."""
    return _overlap(a_xyxy, b_xyxy)[0]


def paired_giou(
    a_xyxy: Float[Tensor, "*#pairs 4"], b_xyxy: Float[Tensor, "*#pairs 4"]
) -> Float[Tensor, "*_"]:
    """Generalised IoU (Rezatofighi et al. 2019, eq. 3) of each pair, in [-1, 1]."""
    iou, union = _overlap(a_xyxy, b_xyxy)
    return _generalise(iou, union, a_xyxy, b_xyxy)


def paired_iou_and_giou(
    a_xyxy: Float[Tensor, "*#pairs 4"], b_xyxy: Float[Tensor, "*#pairs 4"]
) -> tuple[Float[Tensor, "*out"], Float[Tensor, "*out"]]:
    """IoU and generalised IoU of each pair, computed together at the cost of one."""
    iou, union = _overlap(a_xyxy, b_xyxy)
    return iou, _generalise(iou, union, a_xyxy, b_xyxy)


def pairwise_iou(
    a_xyxy: Float[Tensor, "*sets N 4"], b_xyxy: Float[Tensor, "*sets M 4"]
) -> Float[Tensor, "*sets N M"]:
    """IoU of all pairs: ``[..., N, 4]``, ``[..., M, 4]`` → ``[..., N, M]``."""
    return paired_iou(a_xyxy.unsqueeze(-2), b_xyxy.unsqueeze(-3))


def pairwise_giou(
    a_xyxy: Float[Tensor, "*sets N 4"], b_xyxy: Float[Tensor, "*sets M 4"]
) -> Float[Tensor, "*sets N M"]:
    """Generalised IoU of all pairs: ``[..., N, 4]``, ``[..., M, 4]`` → ``[..., N, M]``."""
    return paired_giou(a_xyxy.unsqueeze(-2), b_xyxy.unsqueeze(-3))


def _overlap(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = area(a_xyxy) + area(b_xyxy) - intersection
    return _ratio(intersection, union), union


def _generalise(iou: Tensor, union: Tensor, a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    low = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return iou - _ratio(hull - union, hull)


def _ratio(part: Tensor, total: Tensor) -> Tensor:
    """part / total, or 0 if total is 0, with finite gradients in both cases."""
    empty = total <= 0
    return torch.where(
        empty, torch.zeros_like(part), part / torch.where(empty, torch.ones_like(total), total)
    )
