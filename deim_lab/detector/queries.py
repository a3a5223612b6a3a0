"""Make anchors, select the best anchors as queries, and group queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from deim_lab.structures import at_least_float32

# side of an anchor on the finest level, as a share of the image; doubles at each coarser level
ANCHOR_SIZE = 0.05
MARGIN = 0.01  # anchors with a coordinate closer than this to 0 or 1 are not valid


@dataclass(frozen=True)
class Selection:
    """The chosen anchors of each image, best first.

    Attributes:
        index: ``[B, Q]`` int64 anchors, counted level by level and row by row.
        features: ``[B, Q, dim]``.
        logits: ``[B, Q, C]`` class logits of the anchors.
        boxes_logit: ``[B, Q, 4]`` refined boxes before the sigmoid, at least float32.
    """

    index: Int64[Tensor, "B Q"]
    features: Float[Tensor, "B Q dim"]
    logits: Float[Tensor, "B Q C"]
    boxes_logit: Float[Tensor, "B Q 4"]


def make_anchors(
    shapes: Sequence[tuple[int, int]], *, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Make one square anchor per cell.

    Returns boxes before the sigmoid ``[1, A, 4]`` float32 (+inf if not valid), and valid
    ``[1, A, 1]`` bool.

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
    """Select the ``num_queries`` cells of ``memory [B, A, dim]`` with the highest class logit.

    Their boxes are refined from their anchors.

    Raises:
        ValueError: fewer anchors than queries.
    """
    if memory.shape[1] < num_queries:
        raise ValueError(
            f"{memory.shape[1]} anchors can't give {num_queries} queries. Use larger images or a "
            f"smaller model.num_queries."
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
    """Repeat the queries in ``k`` groups (Group DETR, Chen et al. 2023).

    Every group starts from the same selected anchors. The first group is unchanged and equals the
    queries of inference. Each further group adds a learnt vector, one row of
    ``embedding [k − 1, dim]``, to its content. So each group learns in the situation of inference.
    The number of anchors, small in a small image, doesn't limit ``k``. The extra weights are
    ``(k − 1) · dim``. Sharing out the ``k · Q`` best anchors instead would give background to the
    later groups, or worse anchors than in inference to the first group.

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
    """Self-attention inside each group of ``num_queries`` queries.

    Groups are folded into the batch. So time and memory grow with the number of groups, not with
    its square.

    Args:
        placed: ``[B, N + k·Q, dim]`` queries and keys; the ``N`` denoising queries come first.
        content: values of the same shape.
        mask: ``[N + Q, N + Q]`` of the denoising queries and the first group, True where a query
            (row) may not attend; None if ``N = 0``. Denoising queries see only the first group, as
            without groups.
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
    """Take the rows ``index [B, Q]`` of ``x [B, A, n]``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
