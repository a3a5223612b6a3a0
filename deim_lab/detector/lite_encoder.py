"""The encoder of DEIMv2's three smallest sizes: two feature levels from one map.

The second level is the first level at half the size. It has no self-attention. Instead, its mean
over the image is added to every cell. Then the blocks of ``encoder`` fuse the two levels top-down
and bottom-up. They add maps instead of concatenating them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from deim_lab.detector.encoder import FuseBlock, fold_norms, fuse_block_size
from deim_lab.detector.layers import ConvNorm
from deim_lab.errors import ConfigError


class LiteEncoder(nn.Module):
    """Encode one map ``[B, C, h, w]``, with even ``h`` and ``w``, to two feature levels.

    The levels are ``[B, hidden_dim, h, w]`` and ``[B, hidden_dim, h/2, w/2]``.

    Args:
        in_channels: channels of the backbone map.
        expansion, depth_mult: width and depth of the fuse blocks, as in ``encoder.HybridEncoder``.

    Raises:
        ConfigError: more than one map.
    """

    def __init__(
        self, in_channels: Sequence[int], *, hidden_dim: int, expansion: float, depth_mult: float
    ) -> None:
        super().__init__()
        if len(in_channels) != 1:
            raise ConfigError(
                f"model.encoder 'lite' needs exactly one backbone map, but model.backbone_stages "
                f"names {len(in_channels)}. For several maps, set model.encoder to 'hybrid'."
            )
        self.input_proj = nn.ModuleList([ConvNorm(in_channels[0], hidden_dim, 1)])
        self.down_sample1 = _Halve(hidden_dim)
        self.down_sample2 = _Halve(hidden_dim)
        self.bi_fusion = _GlobalFusion(hidden_dim)
        inner, depth = fuse_block_size(hidden_dim, expansion, depth_mult)
        self.fpn_block = FuseBlock(hidden_dim, inner, depth, summed=True)
        self.pan_block = FuseBlock(hidden_dim, inner, depth, summed=True)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        fine = self.input_proj[0](features[0])
        coarse = self.bi_fusion(self.down_sample1(fine))
        fine = self.fpn_block(fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        return [fine, self.pan_block(coarse + self.down_sample2(fine))]

    def fuse(self) -> None:
        """Fold the norms of the fusion part into their convolutions (deploy form).

        Projection and down-sampling don't change.
        """
        fold_norms(self.bi_fusion, self.fpn_block, self.pan_block)


class _Halve(nn.Sequential):
    """3×3 mean of stride 2 (with zero padding), 1×1 convolution, norm, SiLU."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.AvgPool2d(3, 2, 1),
            nn.Conv2d(dim, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
            nn.SiLU(),
        )


class _GlobalFusion(nn.Module):
    """Add the mean of all cells to each cell, then a 1×1 convolution ("GAP fusion")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cv = ConvNorm(dim, dim, 1, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        return self.cv(x + x.mean((2, 3), keepdim=True))
