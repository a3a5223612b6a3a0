"""Contrastive denoising: noisy copies of the targets as extra queries.

The method is DINO's (Zhang et al. 2022). A group holds two noisy copies of every target of an
image. The positive has little noise and must be restored. The negative has strong noise and must be
rejected. Images with fewer targets than the fullest image are padded. ``draw`` draws all random
numbers separately, so recorded draws can be replayed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from deim_lab.boxes import cxcywh_to_xyxy
from deim_lab.structures import Matches, Targets

logger = logging.getLogger(__name__)

EPS = 1e-5  # in the inverse sigmoid: a coordinate of 0 or 1 becomes ∓11.5
_warned_of_cap = False


@dataclass(frozen=True)
class DenoisingQueries:
    """Denoising queries of a batch: ``N = groups · 2 · n`` for each of ``B`` images.

    A group is ``n`` positives, then ``n`` negatives.

    Attributes:
        class_ids: ``[B, N]`` int64 (possibly flipped) label; ``num_classes`` marks padding.
        boxes_logit: ``[B, N, 4]`` noisy cxcywh box before the sigmoid; padding is the empty box at
            the origin.
        attention_mask: ``[N + Q, N + Q]`` bool, denoising queries first; True where a query (row)
            may *not* attend. Matching queries see no denoising query, which would leak the answer.
            Groups don't see each other. Denoising queries see matching queries.
        matches: matches of the positives, with ``query`` in ``[0, N)``.
        groups: number of groups.
    """

    class_ids: Tensor
    boxes_logit: Tensor
    attention_mask: Tensor
    matches: Matches
    groups: int

    def __len__(self) -> int:
        return int(self.class_ids.shape[1])


@dataclass(frozen=True)
class Draws:
    """Random numbers of ``N`` denoising queries for ``B`` images.

    Attributes:
        flip: ``[B, N]`` uniform in [0, 1); a value below half the label-noise ratio replaces the
            label.
        labels: ``[B, N]`` int64 in ``[0, num_classes)``, the new label (may equal the old label).
        signs: ``[B, N, 4]`` 0 or 1: an edge moves to lower or higher coordinates.
        parts: ``[B, N, 4]`` uniform in [0, 1): distance of the move, in half widths and heights;
            negatives add 1.
    """

    flip: Tensor
    labels: Tensor
    signs: Tensor
    parts: Tensor


def make_queries(
    targets: Targets,
    *,
    num_classes: int,
    num_queries: int,
    num_denoising: int,
    max_denoising: int,
    label_noise_ratio: float,
    box_noise_scale: float,
    generator: torch.Generator | None = None,
    draws: Draws | None = None,
) -> DenoisingQueries | None:
    """Make denoising queries for a batch, on the device of the targets.

    Returns ``None`` if denoising is off or no image has a target.

    Args:
        targets: targets of the batch; ``n`` is the number of targets of the fullest image.
        num_classes: labels are in ``[0, num_classes)``.
        num_queries: number ``Q`` of matching queries, which follow the denoising queries.
        num_denoising: makes ``max(1, num_denoising // n)`` groups, so up to ``2 · num_denoising``
            queries; 0 turns denoising off.
        max_denoising: limit on ``N``, because memory grows with its square. Only the first
            ``max_denoising // 2`` targets of an image get queries, with a warning once.
        label_noise_ratio: half of it is the probability of a replaced label.
        box_noise_scale: 1 moves an edge of a positive by up to half the side of the box. It moves
            an edge of a negative by half to a whole side.
        generator: source of random numbers; ``None``: torch's global generator.
        draws: recorded draws to use instead of new draws.
    """
    if num_denoising == 0 or len(targets) == 0:
        return None
    fullest = int(targets.counts.max())
    per_group = min(fullest, max_denoising // 2)
    groups = max(1, min(num_denoising // per_group, max_denoising // (2 * per_group)))
    if fullest > per_group:
        _warn_of_cap(fullest, per_group, max_denoising)
    chosen, rank = _first_of_each_image(targets, per_group)
    image = targets.image_index[chosen]
    labels, boxes = _padded(targets, chosen, rank, per_group, padding=num_classes)
    labels, boxes = labels.repeat(1, 2 * groups), boxes.repeat(1, 2 * groups, 1)
    device, total = labels.device, labels.shape[1]
    slot = torch.arange(total, device=device)
    if draws is None:
        size, dtype = (targets.batch_size, total, num_classes), boxes.dtype
        draws = draw(*size, device=device, dtype=dtype, generator=generator)
    first_of_group = torch.arange(groups, device=device) * (2 * per_group)
    matches = Matches(
        image=image.repeat(groups),
        query=(first_of_group[:, None] + rank).flatten(),
        target=chosen.repeat(groups),
    )
    flip_probability, negative = label_noise_ratio / 2, slot // per_group % 2 == 1
    return DenoisingQueries(
        class_ids=_flip_labels(labels, draws, padding=num_classes, probability=flip_probability),
        boxes_logit=_shake_boxes(boxes, draws, negative=negative, scale=box_noise_scale),
        attention_mask=_attention_mask(slot // (2 * per_group), num_queries),
        matches=matches,
        groups=groups,
    )


def _first_of_each_image(targets: Targets, limit: int) -> tuple[Tensor, Tensor]:
    """Indices of the first ``limit`` targets of each image, and their places in the image."""
    counts, device = targets.counts, targets.labels.device
    every = torch.arange(len(targets), device=device)
    rank = every - (counts.cumsum(0) - counts)[targets.image_index]
    chosen = every[rank < limit]
    return chosen, rank[chosen]


def _padded(
    targets: Targets, chosen: Tensor, rank: Tensor, per_group: int, *, padding: int
) -> tuple[Tensor, Tensor]:
    """Labels ``[B, per_group]`` and boxes ``[B, per_group, 4]`` of chosen targets, padded."""
    shape, device = (targets.batch_size, per_group), targets.labels.device
    image = targets.image_index[chosen]
    labels = torch.full(shape, padding, dtype=torch.int64, device=device)
    labels[image, rank] = targets.labels[chosen]
    boxes = torch.zeros(*shape, 4, dtype=targets.boxes_cxcywh.dtype, device=device)
    boxes[image, rank] = targets.boxes_cxcywh[chosen]
    return labels, boxes


def draw(
    batch_size: int,
    queries: int,
    num_classes: int,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Draws:
    """Draw all random numbers for ``queries`` denoising queries per image.

    A generator of another device draws on that device.
    """
    source = device if generator is None else generator.device
    flip = torch.rand(batch_size, queries, generator=generator, device=source, dtype=dtype)
    labels = torch.randint(num_classes, (batch_size, queries), generator=generator, device=source)
    signs = torch.randint(2, (batch_size, queries, 4), generator=generator, device=source)
    parts = torch.rand(batch_size, queries, 4, generator=generator, device=source, dtype=dtype)
    return Draws(flip.to(device), labels.to(device), signs.to(device), parts.to(device))


def _flip_labels(labels: Tensor, draws: Draws, *, padding: int, probability: float) -> Tensor:
    return torch.where(
        (draws.flip < probability) & (labels != padding), draws.labels.to(labels.dtype), labels
    )


def _shake_boxes(boxes_cxcywh: Tensor, draws: Draws, *, negative: Tensor, scale: float) -> Tensor:
    """Move each edge of boxes ``[B, N, 4]`` by sign · part · half a side · scale.

    Returns boxes clipped to the image, before the sigmoid.
    """
    parts = draws.parts + negative[:, None]
    half_sides = boxes_cxcywh[..., 2:].repeat(1, 1, 2) / 2
    shaken = (
        cxcywh_to_xyxy(boxes_cxcywh) + (draws.signs * 2 - 1) * parts * half_sides * scale
    ).clamp(0, 1)
    low, high = shaken.chunk(2, dim=-1)
    # If noise turns a box inside out, keep its place and make its size positive.
    noisy = torch.cat([(low + high) / 2, (high - low).abs()], dim=-1)
    return torch.log(noisy.clamp(min=EPS) / (1 - noisy).clamp(min=EPS))


def _attention_mask(group: Tensor, num_queries: int) -> Tensor:
    """Attention mask ``[N + Q, N + Q]`` from ``group [N]``; True: may not attend."""
    total = group.shape[0]
    mask = torch.zeros(
        total + num_queries, total + num_queries, dtype=torch.bool, device=group.device
    )
    mask[:total, :total] = group[:, None] != group
    mask[total:, :total] = True
    return mask


def _warn_of_cap(fullest: int, per_group: int, max_denoising: int) -> None:
    global _warned_of_cap
    if not _warned_of_cap:
        _warned_of_cap = True
        logger.warning(
            "an image has %d targets, but denoising uses only the first %d of an image "
            "(model.max_denoising %d). This warning is shown once.",
            fullest,
            per_group,
            max_denoising,
        )
