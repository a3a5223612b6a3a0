"""Multi-scale deformable attention: queries read a few learnt points around their boxes.

A query reads points on all feature levels. This is Deformable DETR (Zhu et al. 2021, eq. 3) as in
RT-DETRv2 and D-FINE. Each level has its own number of points. Offsets are in units of the reference
box's half size. D-FINE has no projections of values and output: memory is split into heads
unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def sample_and_mix(
    values: Sequence[Tensor], locations: Tensor, weights: Tensor, points: Sequence[int]
) -> Tensor:
    """Read ``values`` at ``locations`` (bilinear, 0 outside) and mix by ``weights``.

    Args:
        values: values of each level, ``[B, heads, c, h, w]``; any sizes.
        locations: ``[B, Q, heads, P, 2]`` x, y in [0, 1] over the whole map, level by level.
        weights: ``[B, Q, heads, P]``.
        points: number of points of each level; the sum is ``P``.

    Returns:
        ``[B, Q, heads · c]``.
    """
    batch, queries, heads = locations.shape[:3]
    # [B, Q, heads, P, 2] → [B · heads, Q, P, 2], in grid_sample's range [-1, 1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).split(list(points), dim=2)
    # Use the wider of the two types. On a large map, half-precision positions would be off by more
    # than half a pixel.
    wide = torch.promote_types(values[0].dtype, locations.dtype)
    read = [
        F.grid_sample(
            value.flatten(0, 1).to(wide),
            grid.to(wide),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        for value, grid in zip(values, grids, strict=True)
    ]
    mixing = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    mixed = (torch.cat(read, dim=-1) * mixing).sum(-1)  # [B · heads, c, Q]
    return mixed.reshape(batch, -1, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Deformable attention of queries with reference boxes to the values of all levels.

    Queries ``[B, Q, dim]`` and reference boxes ``[B, Q, 4]`` (cxcywh, [0, 1]) → ``[B, Q, dim]``.

    Args:
        points: sampling points per head on each level.
        project: whether linear maps project the values and the output.
    """

    num_points_scale: Tensor

    def __init__(
        self, dim: int, num_heads: int, points: Sequence[int], *, project: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.points = tuple(points)
        total = sum(self.points)
        self.register_buffer(
            "num_points_scale",
            torch.tensor([1 / n for n in self.points for _ in range(n)]),
            persistent=False,
        )
        self.sampling_offsets = nn.Linear(dim, num_heads * total * 2)
        self.attention_weights = nn.Linear(dim, num_heads * total)
        self.value_proj = nn.Linear(dim, dim) if project else nn.Identity()
        self.output_proj = nn.Linear(dim, dim) if project else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        """Set initial offsets and equal weights.

        All points of a head lie on one ray, the n-th point at n steps. The rays of the heads are
        spread over the full circle.
        """
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        step = torch.cat([torch.arange(1, n + 1, dtype=torch.float32) for n in self.points])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((ray[:, None] * step[:, None]).flatten())
        for weight in (
            self.sampling_offsets.weight,
            self.attention_weights.weight,
            self.attention_weights.bias,
        ):
            nn.init.zeros_(weight)
        for projection in (self.value_proj, self.output_proj):
            if isinstance(projection, nn.Linear):
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)

    def values_of(self, memory: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Values for ``forward``: memory ``[B, Σ h·w, dim]`` → each level's values.

        A level has the shape ``[B, heads, dim / heads, h, w]``.
        """
        return split_heads(self.value_proj(memory), shapes, self.num_heads)

    def forward(
        self,
        queries: Float[Tensor, "B Q dim"],
        reference_cxcywh: Float[Tensor, "B Q 4"],
        values: Sequence[Tensor],
    ) -> Float[Tensor, "B Q dim"]:
        shape = (*queries.shape[:2], self.num_heads, sum(self.points))
        offsets = self.sampling_offsets(queries).reshape(*shape, 2)
        weights = self.attention_weights(queries).reshape(shape).softmax(-1)
        reference = reference_cxcywh[:, :, None, None]
        locations = (
            reference[..., :2] + offsets * self.num_points_scale[:, None] * reference[..., 2:] * 0.5
        )
        return self.output_proj(sample_and_mix(values, locations, weights, self.points))


def split_heads(memory: Tensor, shapes: Sequence[tuple[int, int]], num_heads: int) -> list[Tensor]:
    """Split ``[B, Σ h·w, dim]`` into one ``[B, heads, dim / heads, h, w]`` per level."""
    levels = memory.transpose(1, 2).split([h * w for h, w in shapes], dim=-1)
    return [
        level.reshape(level.shape[0], num_heads, -1, h, w)
        for level, (h, w) in zip(levels, shapes, strict=True)
    ]
