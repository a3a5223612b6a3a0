"""Costs → Matches, several queries a target: SimOTA, the comparator of one-to-one matching.

SimOTA is YOLOX's (Ge et al. 2021, section 2.1), a shortcut of OTA (Ge et al. 2021): a target whose
boxes already fit it well claims many queries, another one few. YOLOX assigns the cells of a grid;
here the queries of a DETR are assigned, each standing where the centre of its predicted box is.
Everything is computed on the device, for all levels at once; one copy brings the assignment to the
host.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from deim_lab.boxes import cxcywh_to_xyxy, paired_iou
from deim_lab.config import MatchConfig
from deim_lab.structures import Matches, Targets, at_least_float32

logger = logging.getLogger(__name__)

# of the image's side: stride 16 at 640 px, YOLOX's middle level (a query has no stride of its own)
CELL = 1 / 40
# above any other cost, and small enough for float32 to keep the order of what it is added to
PRIOR_PENALTY = 1e4
_EPS = 1e-8  # inside the logarithm of the IoU


@torch.no_grad()
def simota(
    logits: Float[Tensor, "*levels B Q C"],
    boxes_cxcywh: Float[Tensor, "*levels B Q 4"],
    targets: Targets,
    *,
    candidates: int = MatchConfig.simota_candidates,
    radius: float = MatchConfig.simota_radius,
    iou_weight: float = MatchConfig.simota_iou_weight,
) -> Matches:
    """Each target claims its ``k`` cheapest queries; ``k`` is the sum of its ``candidates`` best
    IoUs, rounded down, and at least 1.

    A query that several targets claim goes to the cheapest target of its image, so a query has at
    most one target, and a target whose claims were all won by others may have none.

    Args:
        logits: ``[B, Q, C]``, or ``[K, B, Q, C]`` for ``K`` levels, each assigned apart.
        boxes_cxcywh: ``[B, Q, 4]`` or ``[K, B, Q, 4]``.
        targets: of the batch.
        candidates: see above; no target claims more queries than this.
        radius, iou_weight: see ``costs``.

    Returns:
        Matches on the CPU, ordered by level, image, query; with a level axis if the input has one.
    """
    lone = logits.ndim == 3
    if lone:
        logits, boxes_cxcywh = logits[None], boxes_cxcywh[None]
    with torch.autocast(logits.device.type, enabled=False):
        cost, iou = costs(logits, boxes_cxcywh, targets, radius=radius, iou_weight=iou_weight)
        broken = ~(cost.isfinite() & iou.isfinite())
        cost = cost.masked_fill(broken, 4 * PRIOR_PENALTY)
        chosen = _claims(cost, iou.masked_fill(broken, 0.0), candidates)
        chosen = _settle(chosen, cost, targets)
        # 0, or 1 + the image, of each pair; and how many pairs had no cost: one device-to-host copy
        # in all.
        image_of_chosen = chosen * (targets.image_index[:, None] + 1)
        packed = torch.cat([image_of_chosen.flatten(), broken.sum().reshape(1)]).cpu().numpy()
    if packed[-1]:
        logger.warning(
            "%d of %d matching costs are not finite; each counts as dearest",
            int(packed[-1]),
            packed.size - 1,
        )
    found = packed[:-1].reshape(cost.shape)
    level, target, query = found.nonzero()
    image = found[level, target, query] - 1
    order = np.lexsort((query, image, level))
    by_image, by_query, by_target, by_level = (
        torch.from_numpy(item[order]) for item in (image, query, target, level)
    )
    return Matches(by_image, by_query, by_target, None if lone else by_level)


def costs(
    logits: Float[Tensor, "*levels B Q C"],
    boxes_cxcywh: Float[Tensor, "*levels B Q 4"],
    targets: Targets,
    *,
    radius: float = MatchConfig.simota_radius,
    iou_weight: float = MatchConfig.simota_iou_weight,
) -> tuple[Float[Tensor, "*levels T Q"], Float[Tensor, "*levels T Q"]]:
    """Cost of each target with every query of its image, and the IoU that may count towards its
    number of queries.

    Cost: binary cross-entropy of the class scores with the target's class, summed over classes, +
    ``iou_weight`` · −log IoU (YOLOX, eq. 1), + the centre prior: ``PRIOR_PENALTY`` unless the
    query's centre lies both inside the target and within ``radius`` cells (of ``CELL``) of its
    centre along x and y; twice that where it lies neither in nor near any target of its image.
    Queries of the latter kind have an IoU of 0 here. YOLOX drops them; kept, they serve a target
    that has no other, so each claims at least one.

    ``[..., B, Q, C]``, ``[..., B, Q, 4]``, ``T`` targets → two of ``[..., T, Q]``, float32 (float64
    stays).
    """
    image = targets.image_index
    logits, boxes_cxcywh = at_least_float32(logits), at_least_float32(boxes_cxcywh)
    # Σ_c softplus(x_c) − x_label is the cross-entropy of sigmoid(x) with a one-hot label.
    by_class = softplus(logits).sum(-1).index_select(-2, image) - logits[
        ..., image, :, targets.labels
    ].movedim(0, -2)
    predicted = boxes_cxcywh.index_select(-3, image)  # [..., T, Q, 4]
    wanted = targets.boxes_cxcywh.to(predicted.dtype)[:, None]  # [T, 1, 4]
    iou = paired_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    offset = (predicted[..., :2] - wanted[..., :2]).abs()
    inside = (offset < wanted[..., 2:] / 2).all(-1)
    near = (offset < radius * CELL).all(-1)
    anywhere = torch.zeros(
        logits.shape[:-1], dtype=torch.int32, device=logits.device
    )  # [..., B, Q]
    anywhere = anywhere.index_add(-2, image, (inside | near).int()).index_select(-2, image) > 0
    penalty = PRIOR_PENALTY * ((~(inside & near)).to(iou.dtype) + (~anywhere).to(iou.dtype))
    return by_class - iou_weight * (iou + _EPS).log() + penalty, iou * anywhere


def _claims(
    cost: Float[Tensor, "K T Q"], iou: Float[Tensor, "K T Q"], candidates: int
) -> Bool[Tensor, "K T Q"]:
    """``[K, T, Q]`` bool: each target's cheapest queries, as many as its best IoUs add up to."""
    reach = min(candidates, cost.shape[-1])
    number = iou.topk(reach, dim=-1).values.sum(-1).int().clamp(min=1)
    cheapest = cost.topk(reach, dim=-1, largest=False).indices
    within = torch.arange(reach, device=cost.device) < number[..., None]
    return torch.zeros_like(cost, dtype=torch.bool).scatter(-1, cheapest, within)


def _settle(
    claimed: Bool[Tensor, "K T Q"], cost: Float[Tensor, "K T Q"], targets: Targets
) -> Bool[Tensor, "K T Q"]:
    """``[K, T, Q]`` bool with at most one target a query: a contested query goes to the cheapest
    target of its image, of equals the first.

    As in YOLOX's code, that is the cheapest of all targets, not only of those that claimed it.
    """
    num_levels, num_targets, num_queries = cost.shape
    image = targets.image_index
    of_image = (num_levels, targets.batch_size, num_queries)
    index = image[None, :, None].expand_as(cost)
    claims = torch.zeros(of_image, dtype=torch.int64, device=cost.device).scatter_add(
        1, index, claimed.long()
    )
    least = cost.new_full(of_image, torch.inf).scatter_reduce(1, index, cost, "amin")
    row = torch.arange(num_targets, device=cost.device)[None, :, None].expand_as(cost)
    tied = torch.where(cost == least[:, image], row, num_targets)
    first = torch.full(of_image, num_targets, device=cost.device).scatter_reduce(
        1, index, tied, "amin"
    )
    return torch.where(claims[:, image] > 1, first[:, image] == row, claimed)
