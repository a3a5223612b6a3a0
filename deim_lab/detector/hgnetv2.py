"""HGNetV2, the backbone of D-FINE and DEIM.

It has a stem of stride 4, then stages of densely aggregated convolutions. The architecture is
PaddleDetection's PP-HGNetV2 (Cui et al.). The sizes B0 to B5 and DEIMv2's atto, femto and pico are
as in the official checkpoints. The last three end at stride 16. ``hgnetv2_tiny`` is a size of this
project, for learning on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim_lab.detector.layers import StagedBackbone, check_stages, freeze_norms
from deim_lab.errors import ConfigError, nearest


@dataclass(frozen=True)
class Stage:
    """A stage of ``blocks`` blocks, each with ``layers`` chained layers of ``mid`` channels.

    A block aggregates the outputs of its layers to ``out`` channels.
    """

    mid: int
    out: int
    blocks: int
    layers: int
    downsample: bool = True  # halve the resolution first
    light: bool = False  # layers are 1×1 + depth-wise convolutions
    kernel: int = 3


@dataclass(frozen=True)
class Variant:
    """A size of the backbone: channels inside and after the stem, and the stages."""

    stem: tuple[int, int]
    stages: tuple[Stage, ...]


def _standard(
    stem: tuple[int, int],
    layers: int,
    mid: Sequence[int],
    out: Sequence[int],
    blocks: Sequence[int],
) -> Variant:
    kinds: tuple[dict[str, Any], ...] = (
        {"downsample": False},
        {},
        {"light": True, "kernel": 5},
        {"light": True, "kernel": 5},
    )
    return Variant(
        stem,
        tuple(
            Stage(m, o, b, layers, **kind)
            for m, o, b, kind in zip(mid, out, blocks, kinds, strict=True)
        ),
    )


_SMALL = (
    Stage(16, 64, 1, 3, downsample=False),
    Stage(32, 256, 1, 3),
)  # stages 0 and 1 of DEIMv2's three smallest sizes and of B0

VARIANTS: dict[str, Variant] = {
    "hgnetv2_b0": _standard((16, 16), 3, (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1)),
    "hgnetv2_b1": _standard((24, 32), 3, (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1)),
    "hgnetv2_b2": _standard((24, 32), 4, (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1)),
    "hgnetv2_b3": _standard((24, 32), 5, (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1)),
    "hgnetv2_b4": _standard((32, 48), 6, (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1)),
    "hgnetv2_b5": _standard((32, 64), 6, (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2)),
    "hgnetv2_atto": Variant((16, 16), (*_SMALL, Stage(64, 256, 1, 3, light=True))),
    "hgnetv2_femto": Variant((16, 16), (*_SMALL, Stage(64, 512, 1, 3, light=True, kernel=5))),
    "hgnetv2_pico": Variant((16, 16), (*_SMALL, Stage(64, 512, 2, 3, light=True, kernel=5))),
    "hgnetv2_tiny": Variant(
        (16, 16), (Stage(16, 32, 1, 2, downsample=False), Stage(24, 96, 1, 2), Stage(48, 192, 1, 2))
    ),
}


class HGNetV2(StagedBackbone):
    """HGNetV2: images ``[B, 3, H, W]`` → feature maps of ``stages`` (0-based), finest first.

    A map has stride 4·2^stage and ``channels`` channels.

    Args:
        variant: a name of ``VARIANTS``.
        stages: stages to return; deeper stages are not built.
        learnable_affine: apply a learnt scalar scale and shift after each activation.
        freeze_norm: keep batch norms constant.
        freeze_stem: give the stem no gradient.

    Raises:
        ConfigError: unknown variant, or a stage that the variant does not have.
    """

    list_name = "stages"

    def __init__(
        self,
        variant: str,
        stages: Sequence[int],
        *,
        learnable_affine: bool,
        freeze_norm: bool = False,
        freeze_stem: bool = False,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ConfigError(
                f"unknown model.backbone {variant!r}{nearest(variant, VARIANTS)}. Choose from "
                f"{', '.join(VARIANTS)}."
            )
        spec = VARIANTS[variant]
        check_stages(variant, stages, len(spec.stages))
        self.returned = tuple(stages)
        self.channels = tuple(spec.stages[stage].out for stage in stages)
        self.strides = tuple(4 * 2**stage for stage in stages)
        inner, outer = spec.stem
        self.stem = _Stem(inner, outer, learnable_affine)
        self.whole = len(spec.stages)
        built = spec.stages[: stages[-1] + 1]
        widths = [outer, *(stage.out for stage in built)]
        self.stages = nn.ModuleList(
            _Stage(width, stage, learnable_affine)
            for width, stage in zip(widths[:-1], built, strict=True)
        )
        if freeze_norm:
            freeze_norms(self)
        if freeze_stem:
            self.stem.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.returned:
                features.append(x)
        return features


class _Affine(nn.Module):
    """x · scale + bias with two learnt scalars ("learnable affine block")."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class _Conv(nn.Module):
    """Convolution, batch norm, and (``act``) ReLU with the optional learnt affine."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        act: bool = True,
        affine: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU() if act else nn.Identity()
        self.lab = _Affine() if act and affine else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.lab(self.act(self.bn(self.conv(x))))


class _LightConv(nn.Module):
    """1×1 convolution without activation, then a depth-wise convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = _Conv(in_channels, out_channels, 1, act=False)
        self.conv2 = _Conv(out_channels, out_channels, kernel, groups=out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class _Stem(nn.Module):
    """Stem of stride 4: a convolution, then a convolved and a pooled branch in parallel."""

    def __init__(self, inner: int, outer: int, affine: bool) -> None:
        super().__init__()
        self.stem1 = _Conv(3, inner, 3, 2, affine=affine)
        self.stem2a = _Conv(inner, inner // 2, 2, affine=affine)
        self.stem2b = _Conv(inner // 2, inner, 2, affine=affine)
        self.stem3 = _Conv(2 * inner, inner, 3, 2, affine=affine)
        self.stem4 = _Conv(inner, outer, 1, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = _pad_far_edges(self.stem1(x))
        convolved = self.stem2b(_pad_far_edges(self.stem2a(x)))
        pooled = F.max_pool2d(x, 2, 1)
        return self.stem4(self.stem3(torch.cat([pooled, convolved], dim=1)))


class _Block(nn.Module):
    """Chained layers; their outputs and the input are aggregated to ``out`` channels."""

    def __init__(self, in_channels: int, stage: Stage, affine: bool, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        widths = [in_channels, *[stage.mid] * stage.layers]
        self.layers = nn.ModuleList(
            _LightConv(width, stage.mid, stage.kernel, affine)
            if stage.light
            else _Conv(width, stage.mid, stage.kernel, affine=affine)
            for width in widths[:-1]
        )
        self.aggregation = nn.Sequential(
            _Conv(sum(widths), stage.out // 2, 1, affine=affine),
            _Conv(stage.out // 2, stage.out, 1, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        result = self.aggregation(torch.cat(outputs, dim=1))
        return result + x if self.residual else result


class _Stage(nn.Module):
    def __init__(self, in_channels: int, stage: Stage, affine: bool) -> None:
        super().__init__()
        self.downsample = (
            _Conv(in_channels, in_channels, 3, 2, groups=in_channels, act=False)
            if stage.downsample
            else nn.Identity()
        )
        self.blocks = nn.Sequential(
            *(
                _Block(stage.out if index else in_channels, stage, affine, residual=index > 0)
                for index in range(stage.blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


def _pad_far_edges(x: Tensor) -> Tensor:
    """Pad one row and one column of zeros at the bottom and the right.

    This is "same" padding for the 2×2 kernels of the stem.
    """
    return F.pad(x, (0, 1, 0, 1))
