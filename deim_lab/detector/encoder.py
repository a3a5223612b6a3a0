"""The hybrid encoder of RT-DETR and D-FINE: self-attention, then fusion of maps.

Self-attention runs on the coarsest map only. Fusion runs top-down, then bottom-up. This is
RT-DETR's encoder (Zhao et al. 2024, section 4.2). It has either RT-DETR's blocks or D-FINE's fuse
blocks (GELAN with re-parametrised convolutions) with depth-wise down-sampling. Every fused map has
``hidden_dim`` channels and the size of its backbone map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim_lab.detector.layers import ACTIVATIONS, ConvNorm, TableCache

TEMPERATURE = 10000.0  # of the position embedding


class HybridEncoder(nn.Module):
    """Fuse backbone maps ``[B, C_i, h_i, w_i]`` to maps ``[B, hidden_dim, h_i, w_i]``.

    Maps are ordered finest first, each half the size of the previous map.

    Args:
        in_channels: channels of each map.
        expansion: width of the inner convolutions of fuse blocks.
        depth_mult: number of inner convolutions, in units of 3.
        summed: add two maps before a fuse block instead of concatenating them. Its CSP layers then
            split one convolution (DEIMv2).
        rtdetr: use RT-DETR's blocks: one CSP layer to fuse, one strided convolution to shrink,
            lateral maps with activation.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        hidden_dim: int,
        ffn_dim: int,
        num_heads: int,
        expansion: float,
        depth_mult: float,
        summed: bool = False,
        rtdetr: bool = False,
    ) -> None:
        super().__init__()
        self.summed = summed
        steps = len(in_channels) - 1
        self.input_proj = nn.ModuleList(
            ConvNorm(channels, hidden_dim, 1) for channels in in_channels
        )
        self.encoder = nn.ModuleList([_TransformerEncoder(hidden_dim, ffn_dim, num_heads)])
        self.lateral_convs = nn.ModuleList(
            ConvNorm(hidden_dim, hidden_dim, 1, act="silu" if rtdetr else None)
            for _ in range(steps)
        )

        def fuse_block() -> nn.Module:
            inner, depth = fuse_block_size(hidden_dim, expansion, depth_mult)
            if rtdetr:
                return _CspLayer(
                    2 * hidden_dim, hidden_dim, depth, inner=int(expansion * hidden_dim)
                )
            return FuseBlock(hidden_dim, inner, depth, summed=summed)

        def shrink() -> nn.Module:
            return (
                ConvNorm(hidden_dim, hidden_dim, 3, 2, act="silu")
                if rtdetr
                else nn.Sequential(_Downsample(hidden_dim))
            )

        self.fpn_blocks = nn.ModuleList(fuse_block() for _ in range(steps))
        self.downsample_convs = nn.ModuleList(shrink() for _ in range(steps))
        self.pan_blocks = nn.ModuleList(fuse_block() for _ in range(steps))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = [
            project(feature) for project, feature in zip(self.input_proj, features, strict=True)
        ]
        maps[-1] = self.encoder[0](maps[-1])

        for step, (lateral, fuse) in enumerate(
            zip(self.lateral_convs, self.fpn_blocks, strict=True)
        ):
            coarse = len(maps) - 1 - step
            maps[coarse] = lateral(maps[coarse])  # bottom-up fusion also uses the lateral map
            enlarged = F.interpolate(maps[coarse], scale_factor=2.0, mode="nearest")
            maps[coarse - 1] = fuse(self._join(enlarged, maps[coarse - 1]))

        for fine, (shrink, fuse) in enumerate(
            zip(self.downsample_convs, self.pan_blocks, strict=True)
        ):
            maps[fine + 1] = fuse(self._join(shrink(maps[fine]), maps[fine + 1]))
        return maps

    def fuse(self) -> None:
        """Fold the norms of the fusion part into their convolutions (deploy form).

        The input projections don't change.
        """
        fold_norms(self.lateral_convs, self.fpn_blocks, self.downsample_convs, self.pan_blocks)

    def _join(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second if self.summed else torch.cat([first, second], dim=1)


def fuse_block_size(hidden_dim: int, expansion: float, depth_mult: float) -> tuple[int, int]:
    """Channels and number of the inner convolutions of a fuse block.

    Halves are rounded to even, as in the official layouts.
    """
    return round(expansion * hidden_dim // 2), round(3 * depth_mult)


def fold_norms(*parts: nn.Module) -> None:
    """Fold every norm in ``parts`` into its convolution, in place.

    Also merges each re-parametrised convolution into one convolution.
    """
    for part in parts:
        blocks = list(part.modules())
        for block in blocks:
            if isinstance(block, _RepConv):
                block.fuse()
        for block in blocks:
            if isinstance(block, ConvNorm):
                block.fuse()


def position_embedding(
    width: int, height: int, dim: int, *, device: torch.device | None = None
) -> Tensor:
    """Sines and cosines of the x and y of cells: ``[1, height · width, dim]`` float32.

    The order is the official order: row p of the table belongs to x = p // height, y = p % height.
    But the map is flattened row by row. On square maps this swaps x and y, on other maps it
    scrambles them. Trained checkpoints depend on this order (docs/architecture.md).
    """
    quarter = dim // 4
    frequency = 1.0 / TEMPERATURE ** (
        torch.arange(quarter, dtype=torch.float32, device=device) / quarter
    )
    x, y = torch.meshgrid(
        torch.arange(width, dtype=torch.float32, device=device),
        torch.arange(height, dtype=torch.float32, device=device),
        indexing="ij",
    )
    phase_x, phase_y = (item.flatten()[:, None] * frequency for item in (x, y))
    return torch.cat([phase_x.sin(), phase_x.cos(), phase_y.sin(), phase_y.cos()], dim=1)[None]


class _TransformerEncoder(nn.Module):
    """One transformer layer over the cells of a map ("AIFI")."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_TransformerLayer(dim, ffn_dim, num_heads)])
        self._positions = TableCache()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        positions = self._position(x).to(tokens.dtype)
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens.transpose(1, 2).reshape(x.shape)

    def _position(self, x: Tensor) -> Tensor:
        (dim, height, width), device = x.shape[1:], x.device
        return self._positions.get_or_make(
            (height, width, device), lambda: position_embedding(width, height, dim, device=device)
        )


class _TransformerLayer(nn.Module):
    """Self-attention and feed-forward network, each followed by a norm.

    Positions are added to queries and keys only.
    """

    def __init__(self, dim: int, ffn_dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        placed = tokens + positions
        tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens, need_weights=False)[0])
        return self.norm2(tokens + self.linear2(F.gelu(self.linear1(tokens))))


class _Downsample(nn.Module):
    """1×1 convolution, then a depth-wise 3×3 convolution of stride 2; no activation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cv1 = ConvNorm(dim, dim, 1)
        self.cv2 = ConvNorm(dim, dim, 3, 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))


class FuseBlock(nn.Module):
    """Fuse two maps into one map ``[B, dim, h, w]`` ("RepNCSPELAN4").

    The input is the concatenated maps ``[B, 2·dim, h, w]`` or, if ``summed``, their sum
    ``[B, dim, h, w]``.
    """

    def __init__(self, dim: int, inner: int, depth: int, *, summed: bool = False) -> None:
        super().__init__()
        layer = _SplitCspLayer if summed else _CspLayer
        self.cv1 = ConvNorm(dim if summed else 2 * dim, 2 * dim, 1, act="silu")
        self.cv2 = nn.Sequential(layer(dim, inner, depth), ConvNorm(inner, inner, 3, act="silu"))
        self.cv3 = nn.Sequential(layer(inner, inner, depth), ConvNorm(inner, inner, 3, act="silu"))
        self.cv4 = ConvNorm(2 * dim + 2 * inner, dim, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        second = self.cv2(x.chunk(2, dim=1)[1])
        return self.cv4(torch.cat([x, second, self.cv3(second)], dim=1))


class _CspLayer(nn.Module):
    """Sum of two 1×1 branches, one of them with ``depth`` re-parametrised convolutions.

    Branches have ``inner`` channels (None: ``out_channels``). If ``inner`` differs from
    ``out_channels``, a final 1×1 convolution changes the channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, *, inner: int | None = None
    ) -> None:
        super().__init__()
        inner = out_channels if inner is None else inner
        self.conv1 = ConvNorm(in_channels, inner, 1, act="silu")
        self.conv2 = ConvNorm(in_channels, inner, 1, act="silu")
        self.bottlenecks = nn.Sequential(*(_RepConv(inner) for _ in range(depth)))
        self.conv3 = (
            nn.Identity() if inner == out_channels else ConvNorm(inner, out_channels, 1, act="silu")
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


class _SplitCspLayer(nn.Module):
    """``_CspLayer`` with one 1×1 convolution for both branches.

    The second half of its channels passes through the re-parametrised convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, 2 * out_channels, 1, act="silu")
        self.bottlenecks = nn.Sequential(*(_RepConv(out_channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        straight, refined = self.conv1(x).chunk(2, dim=1)
        return self.bottlenecks(refined) + straight


class _RepConv(nn.Module):
    """3×3 plus 1×1 convolution, each with norm, then SiLU (RepVGG, Ding et al. 2021).

    ``fuse`` merges both convolutions into one 3×3 convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1: ConvNorm | None = ConvNorm(channels, channels, 3)
        self.conv2: ConvNorm | None = ConvNorm(channels, channels, 1)
        self.act = ACTIVATIONS["silu"]

    def forward(self, x: Tensor) -> Tensor:
        if self.conv1 is None or self.conv2 is None:
            return self.act(self.conv(x))
        return self.act(self.conv1(x) + self.conv2(x))

    def fuse(self) -> None:
        if self.conv1 is None or self.conv2 is None:
            return
        self.conv, point = self.conv1.fused(), self.conv2.fused()
        with torch.no_grad():
            self.conv.weight += F.pad(point.weight, (1, 1, 1, 1))
            self.conv.bias += point.bias  # type: ignore[operator]
        self.conv1 = self.conv2 = None
