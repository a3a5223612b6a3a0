"""Contrastive denoising: noisy copies of the targets as extra queries whose right answer is known
(DINO, Zhang et al. 2022).

A group holds one slightly noisy copy of every target of an image (a positive, to be restored) and
one strongly noisy copy (a negative, to be rejected). Images with fewer targets than the fullest one
are padded. Chance is drawn apart (``draw``) from the arithmetic that uses it, so recorded draws can
be replayed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from deim_lab.boxes import cxcywh_to_xyxy
from deim_lab.structures import Matches, Targets

logger = logging.getLogger(__name__)

EPS = 1e-5  # of the inverse sigmoid: a coordinate of 0 or 1 becomes ∓11.5
_warned_of_cap = False


@dataclass(frozen=True)
class DenoisingQueries:
    """``N = groups · 2 · n`` queries for each of ``B`` images; a group is ``n`` positives, then
    ``n`` negatives.

    Attributes:
        class_ids: ``[B, N]`` int64 (possibly flipped) label; ``num_classes`` marks padding.
        boxes_logit: ``[B, N, 4]`` noisy cxcywh box before the sigmoid; padding is the empty box at
            the origin.
        attention_mask: ``[N + Q, N + Q]`` bool, denoising queries first; True where a query (row)
            may *not* attend. Matching queries see no denoising query (that would leak the answer),
            groups don't see each other, denoising queries see matching ones.
        matches: the positives, ``query`` counted in ``[0, N)``.
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
    """The chance in ``N`` denoising queries of ``B`` images.

    Attributes:
        flip: ``[B, N]`` uniform in [0, 1); below half the label-noise ratio the label is replaced.
        labels: ``[B, N]`` int64 in ``[0, num_classes)``, the replacement (it may be the label
            itself).
        signs: ``[B, N, 4]`` 0 or 1: an edge moves to lower or higher coordinates.
        parts: ``[B, N, 4]`` uniform in [0, 1): how far, in half widths and heights; negatives go 1
            further.
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
    """Denoising queries for a batch, on the targets' device; ``None`` if switched off or if no
    image has a target.

    Args:
        targets: of the batch; ``n`` is the count of the fullest image.
        num_classes: labels are in ``[0, num_classes)``.
        num_queries: matching queries ``Q`` that follow the denoising ones in the decoder.
        num_denoising: there are ``max(1, num_denoising // n)`` groups, so up to
            ``2 · num_denoising`` queries; 0 switches off.
        max_denoising: hard cap on ``N`` (memory grows with its square): of an image with more than
            ``max_denoising // 2`` targets only so many first ones are denoised, and a warning is
            logged once.
        label_noise_ratio: half of it is the probability that a label is replaced.
        box_noise_scale: 1 moves a positive's edge by up to half the box's side, a negative's by
            half to a whole side.
        generator: source of the draws; torch's global one if ``None``.
        draws: recorded draws in place of new ones.
    """
    if num_denoising == 0 or len(targets) == 0:
        return None
    fullest = int(targets.counts.max())
    per_group = min(fullest, max_denoising // 2)
    groups = max(1, min(num_denoising // per_group, max_denoising // (2 * per_group)))
    if fullest > per_group:
        _warn_of_cap(fullest, per_group, max_denoising)
    kept, rank = _first_of_each_image(targets, per_group)
    image = targets.image_index[kept]
    labels, boxes = _padded(targets, kept, rank, per_group, padding=num_classes)
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
        target=kept.repeat(groups),
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
    """Up to ``limit`` targets of each image: which they are, and the place of each in its image."""
    counts, device = targets.counts, targets.labels.device
    every = torch.arange(len(targets), device=device)
    rank = every - (counts.cumsum(0) - counts)[targets.image_index]
    kept = every[rank < limit]
    return kept, rank[kept]


def _padded(
    targets: Targets, kept: Tensor, rank: Tensor, per_group: int, *, padding: int
) -> tuple[Tensor, Tensor]:
    """Labels ``[B, per_group]`` and boxes ``[B, per_group, 4]`` of the kept, the rest padding."""
    shape, device = (targets.batch_size, per_group), targets.labels.device
    image = targets.image_index[kept]
    labels = torch.full(shape, padding, dtype=torch.int64, device=device)
    labels[image, rank] = targets.labels[kept]
    boxes = torch.zeros(*shape, 4, dtype=targets.boxes_cxcywh.dtype, device=device)
    boxes[image, rank] = targets.boxes_cxcywh[kept]
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
    """All the chance that ``queries`` denoising queries an image need. A generator of another
    device draws on its own device.
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
    """Each edge of ``[B, N, 4]`` boxes moved by its sign · part · half a side · scale, clipped to
    the image; before the sigmoid.
    """
    parts = draws.parts + negative[:, None]
    half_sides = boxes_cxcywh[..., 2:].repeat(1, 1, 2) / 2
    shaken = (
        cxcywh_to_xyxy(boxes_cxcywh) + (draws.signs * 2 - 1) * parts * half_sides * scale
    ).clamp(0, 1)
    low, high = shaken.chunk(2, dim=-1)
    # A box that its noise turned inside out stays where it is, with its size made positive.
    noisy = torch.cat([(low + high) / 2, (high - low).abs()], dim=-1)
    return torch.log(noisy.clamp(min=EPS) / (1 - noisy).clamp(min=EPS))


def _attention_mask(group: Tensor, num_queries: int) -> Tensor:
    """``group [N]`` of each denoising query → ``[N + Q, N + Q]``, True = may not attend."""
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
            "an image has %d targets: only the first %d of an image are denoised "
            "(model.max_denoising %d); "
            "said once, it may happen again",
            fullest,
            per_group,
            max_denoising,
        )
