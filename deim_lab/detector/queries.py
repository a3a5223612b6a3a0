"""Anchors on the feature maps, the choice of the best of them as the decoder's first queries, and
groups of such queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from deim_lab.structures import at_least_float32

# side of an anchor on the finest level, relative to the image; doubles from level to level
ANCHOR_SIZE = 0.05
MARGIN = 0.01  # an anchor with a coordinate nearer than this to 0 or 1 is not used


@dataclass(frozen=True)
class Selection:
    """The chosen anchors of each image, best first.

    Attributes:
        index: ``[B, Q]`` int64 anchors, counted level by level and row by row.
        features: ``[B, Q, dim]``.
        logits: ``[B, Q, C]`` their class logits.
        boxes_logit: ``[B, Q, 4]`` their refined boxes before the sigmoid, float32 at least.
    """

    index: Int64[Tensor, "B Q"]
    features: Float[Tensor, "B Q dim"]
    logits: Float[Tensor, "B Q C"]
    boxes_logit: Float[Tensor, "B Q 4"]


def make_anchors(
    shapes: Sequence[tuple[int, int]], *, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """One square anchor a cell: boxes before the sigmoid ``[1, A, 4]`` float32 (+inf where not
    valid) and valid ``[1, A, 1]`` bool.

    Args:
        shapes: height and width of each level, finest first.
    """
    levels = []
    for level, (height, width) in enumerate(shapes):
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=device),
            torch.arange(width, dtype=torch.float32, device=device),
            indexing="ij",
        )
        centre = (torch.stack([x, y], dim=-1) + 0.5) / torch.tensor(
            [width, height], dtype=torch.float32, device=device
        )
        levels.append(
            torch.cat([centre, torch.full_like(centre, ANCHOR_SIZE * 2.0**level)], dim=-1).flatten(
                0, 1
            )
        )
    anchors_cxcywh = torch.cat(levels)[None]
    valid = ((anchors_cxcywh > MARGIN) & (anchors_cxcywh < 1 - MARGIN)).all(-1, keepdim=True)
    logit = torch.log(anchors_cxcywh / (1 - anchors_cxcywh))
    return logit.masked_fill(~valid, torch.inf), valid


def select_queries(
    memory: Float[Tensor, "B A dim"],
    anchors_logit: Float[Tensor, "1 A 4"],
    valid: Bool[Tensor, "1 A 1"],
    num_queries: int,
    *,
    project: nn.Module,
    score: nn.Module,
    box: nn.Module,
) -> Selection:
    """The ``num_queries`` cells of ``memory [B, A, dim]`` with the highest class logit, their boxes
    refined from their anchors.

    Raises:
        ValueError: there are fewer anchors than queries.
    """
    if memory.shape[1] < num_queries:
        raise ValueError(
            f"{memory.shape[1]} anchors can't give {num_queries} queries: use larger images or a "
            f"smaller model.num_queries"
        )
    projected = project(memory * valid.to(memory.dtype))
    logits = score(projected)
    index = logits.amax(-1).topk(num_queries, dim=1).indices
    features = _take(projected, index)
    boxes_logit = at_least_float32(box(features)) + _take(
        anchors_logit.expand(memory.shape[0], -1, -1), index
    )
    return Selection(index, features, _take(logits, index), boxes_logit)


def repeat_in_groups(
    content: Float[Tensor, "B Q dim"],
    boxes_logit: Float[Tensor, "B Q 4"],
    embedding: Float[Tensor, "further dim"],
) -> tuple[Float[Tensor, "B all_queries dim"], Float[Tensor, "B all_queries 4"]]:
    """Query groups (Group DETR, Chen et al. 2023): the same queries once more for each row of
    ``embedding [k − 1, dim]``.

    Every group starts from the same selected anchors, a further one with its own learnt vector
    added to their content; the first has none, so it is the whole set of queries that inference
    has. So each group learns in the very situation of inference, the count of anchors doesn't limit
    ``k`` (a small image has few), and the price in weights is ``(k − 1) · dim``. Dealing the
    ``k · Q`` best anchors out instead would leave the later groups with background, or thin out the
    first against what inference gives it.

    ``[B, Q, dim]``, ``[B, Q, 4]`` → ``[B, k·Q, dim]``, ``[B, k·Q, 4]``, group by group.
    """
    offsets = torch.cat([torch.zeros_like(embedding[:1]), embedding])
    grouped = content[:, None] + offsets[:, None].to(content.dtype)
    return grouped.flatten(1, 2), boxes_logit.repeat(1, len(offsets), 1)


def attend_in_groups(
    attention: nn.MultiheadAttention,
    placed: Float[Tensor, "B queries dim"],
    content: Float[Tensor, "B queries dim"],
    mask: Bool[Tensor, "first first"] | None,
    num_queries: int,
) -> Float[Tensor, "B queries dim"]:
    """Self-attention inside each group of ``num_queries`` queries: the groups are folded into the
    batch, so time and memory grow with their number, not with its square.

    Args:
        placed: ``[B, N + k·Q, dim]`` queries and keys, ``N`` denoising ones first.
        content: the values, of the same shape.
        mask: ``[N + Q, N + Q]`` of the denoising queries and the first group, True where a query
            (row) may not attend; None where ``N = 0``. Denoising queries see the first group alone,
            as they would without groups.
    """
    first = num_queries if mask is None else len(mask)
    if content.shape[1] == first:
        return attention(placed, placed, content, attn_mask=mask, need_weights=False)[0]
    if mask is None:
        first = 0

    def folded(x: Tensor) -> Tensor:
        return x[:, first:].reshape(-1, num_queries, x.shape[-1])

    further, of_further = folded(placed), folded(content)
    seen = attention(further, further, of_further, need_weights=False)[0]
    seen = seen.reshape(len(content), -1, content.shape[-1])
    if mask is None:
        return seen
    near, of_near = placed[:, :first], content[:, :first]
    return torch.cat(
        [attention(near, near, of_near, attn_mask=mask, need_weights=False)[0], seen], dim=1
    )


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``index [B, Q]`` of ``x [B, A, n]``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
