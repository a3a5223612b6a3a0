"""Costs → Matches: one-to-one Hungarian matching of queries and targets.

One-to-many matching is in ``simota``. ``assignment.assign`` chooses between the two.

Costs are computed on the device, of each target with the queries of its own image only. They come
to the host in one copy, where scipy solves each image and level apart. Matches are therefore CPU
tensors; ``Matches`` that index device tensors can be moved.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deim_lab.boxes import cxcywh_to_xyxy, paired_giou, paired_iou
from deim_lab.config import MatchConfig
from deim_lab.structures import Matches, Targets, at_least_float32

logger = logging.getLogger(__name__)

NON_FINITE_COST = 1.0  # of a query whose logits or box are not finite (official value)
_EPS = 1e-8  # inside the logarithms of the focal cost


@torch.no_grad()
def match(
    logits: Float[Tensor, "*levels B Q C"],
    boxes_cxcywh: Float[Tensor, "*levels B Q 4"],
    targets: Targets,
    *,
    cost_class: float = MatchConfig.cost_class,
    cost_l1: float = MatchConfig.cost_l1,
    cost_giou: float = MatchConfig.cost_giou,
    alpha: float = MatchConfig.alpha,
    gamma: float = MatchConfig.gamma,
    iou_power: float | None = None,
    groups: int = 1,
) -> Matches:
    """The cheapest one-to-one assignment of queries to targets, for each image (and level, and
    group of queries) apart.

    Args:
        logits: ``[B, Q, C]``, or ``[K, B, Q, C]`` for ``K`` levels at once.
        boxes_cxcywh: ``[B, Q, 4]`` or ``[K, B, Q, 4]``.
        targets: of the batch. An image with more than ``Q`` targets has ``Q`` of them matched, so
            ``K · T − len(matches)`` tells how many were left out.
        cost_class, cost_l1, cost_giou, alpha, gamma: see ``costs``.
        iou_power: if given, ``late_costs`` with it in place of ``costs``.
        groups: the queries are so many groups of ``Q / groups``; in each of them a target has one
            query.

    Returns:
        Matches on the CPU, ordered by level, image, query; with a level axis if the input has one.
    """
    with torch.autocast(logits.device.type, enabled=False):
        if iou_power is None:
            cost = costs(
                logits,
                boxes_cxcywh,
                targets,
                cost_class=cost_class,
                cost_l1=cost_l1,
                cost_giou=cost_giou,
                alpha=alpha,
                gamma=gamma,
            )
        else:
            cost = late_costs(logits, boxes_cxcywh, targets, iou_power=iou_power)
        # The image index travels with the costs: one device-to-host copy in all.
        packed = torch.cat([cost.flatten(), targets.image_index.to(cost.dtype)]).cpu().numpy()
    num_levels, per_group = logits.shape[0] if logits.ndim == 4 else 1, logits.shape[-2] // groups
    host_cost = packed[: cost.numel()].reshape(num_levels, len(targets), groups, per_group)
    counts = np.bincount(packed[cost.numel() :].astype(np.int64), minlength=targets.batch_size)
    non_finite = ~np.isfinite(host_cost)
    if non_finite.any():
        host_cost[non_finite] = NON_FINITE_COST
        logger.warning(
            "%d of %d matching costs are not finite; each counts as %g",
            int(non_finite.sum()),
            non_finite.size,
            NON_FINITE_COST,
        )
    image, query, target, level = _assign(host_cost, counts)
    return Matches(image, query, target, level if logits.ndim == 4 else None)


def costs(
    logits: Float[Tensor, "*levels B Q C"],
    boxes_cxcywh: Float[Tensor, "*levels B Q 4"],
    targets: Targets,
    *,
    cost_class: float = MatchConfig.cost_class,
    cost_l1: float = MatchConfig.cost_l1,
    cost_giou: float = MatchConfig.cost_giou,
    alpha: float = MatchConfig.alpha,
    gamma: float = MatchConfig.gamma,
) -> Float[Tensor, "*levels T Q"]:
    """Cost of each target with every query of its image: the weighted sum of ``cost_parts``.

    ``[..., B, Q, C]``, ``[..., B, Q, 4]``, ``T`` targets → ``[..., T, Q]``, in float32 (float64
    stays).
    """
    by_class, by_l1, by_giou = cost_parts(logits, boxes_cxcywh, targets, alpha=alpha, gamma=gamma)
    return cost_class * by_class + cost_l1 * by_l1 + cost_giou * by_giou


def late_costs(
    logits: Float[Tensor, "*levels B Q C"],
    boxes_cxcywh: Float[Tensor, "*levels B Q 4"],
    targets: Targets,
    *,
    iou_power: float,
) -> Float[Tensor, "*levels T Q"]:
    """−p · IoU^iou_power of each target with every query of its image, ``p`` the score of the
    target's class (DEIMv2's last epochs).

    Shapes as in ``costs``. Where two boxes don't overlap it is 0, whatever the score.
    """
    iou = paired_iou(
        cxcywh_to_xyxy(_of_images(boxes_cxcywh, targets)),
        cxcywh_to_xyxy(targets.boxes_cxcywh.to(boxes_cxcywh.dtype)[:, None]),
    )
    return -_scores(logits, targets) * iou**iou_power


def cost_parts(
    logits: Float[Tensor, "*levels B Q C"],
    boxes_cxcywh: Float[Tensor, "*levels B Q 4"],
    targets: Targets,
    *,
    alpha: float = MatchConfig.alpha,
    gamma: float = MatchConfig.gamma,
) -> tuple[
    Float[Tensor, "*levels T Q"], Float[Tensor, "*levels T Q"], Float[Tensor, "*levels T Q"]
]:
    """The three unweighted costs, each ``[..., T, Q]``.

    Class: what focal loss would gain, ``α (1−p)^γ (−log p) − (1−α) p^γ (−log(1−p))`` with ``p`` the
    score of the target's class. Box: L1 distance of cxcywh, and −GIoU (DETR, eq. 1, with the focal
    cost of Deformable DETR).
    """
    score = _scores(logits, targets)
    found = alpha * (1 - score) ** gamma * -(score + _EPS).log()
    missed = (1 - alpha) * score**gamma * -(1 - score + _EPS).log()
    predicted = _of_images(boxes_cxcywh, targets)
    wanted = targets.boxes_cxcywh.to(predicted.dtype)[:, None]  # [T, 1, 4]
    by_l1 = (predicted - wanted).abs().sum(-1)
    by_giou = -paired_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    return found - missed, by_l1, by_giou


def _scores(
    logits: Float[Tensor, "*levels B Q C"], targets: Targets
) -> Float[Tensor, "*levels T Q"]:
    """Probability of each target's class by every query of its image: ``[..., B, Q, C]`` →
    ``[..., T, Q]``.
    """
    return (
        at_least_float32(logits[..., targets.image_index, :, targets.labels])
        .sigmoid()
        .movedim(0, -2)
    )  # [T, ..., Q] → [..., T, Q]


def _of_images(
    boxes_cxcywh: Float[Tensor, "*levels B Q 4"], targets: Targets
) -> Float[Tensor, "*levels T Q 4"]:
    """Boxes of the queries of each target's image: ``[..., B, Q, 4]`` → ``[..., T, Q, 4]``."""
    return at_least_float32(boxes_cxcywh).index_select(-3, targets.image_index)


def _assign(cost: np.ndarray, counts: np.ndarray) -> list[Tensor]:
    """``cost [K, T, groups, Q]``, targets of each image ``[B]`` → image, query (of all groups),
    target, level, each ``[M]``.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and only training needs it

    ends = counts.cumsum()
    rows: list[np.ndarray] = []
    for level, cost_of_level in enumerate(cost):
        for image in counts.nonzero()[0]:
            start = ends[image] - counts[image]
            for group in range(cost.shape[2]):
                target, query = linear_sum_assignment(cost_of_level[start : ends[image], group])
                order = query.argsort()
                first = group * cost.shape[3]
                rows.append(
                    np.stack(
                        [
                            np.full(len(query), image),
                            query[order] + first,
                            target[order] + start,
                            np.full(len(query), level),
                        ]
                    )
                )
    pairs = np.concatenate(rows, axis=1) if rows else np.zeros((4, 0), dtype=np.int64)
    return list(torch.from_numpy(pairs.astype(np.int64)))
