"""ResNet-vd, the backbone of RT-DETR.

It is ResNet (He et al. 2016) with variant D of "Bag of Tricks for Image Classification" (He et al.
2019, section 4.2). The stem has three 3×3 convolutions. Shortcuts pool before they project, so no
strided 1×1 convolution drops information. Module names are as in the official checkpoints
("PResNet").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from deim_lab.detector.layers import ConvNorm, StagedBackbone, check_stages, freeze_norms
from deim_lab.errors import ConfigError, nearest

WIDTHS = (64, 128, 256, 512)  # inner channels of the stages


@dataclass(frozen=True)
class Variant:
    """A depth: residual blocks of each stage, and whether they are bottlenecks.

    A bottleneck has 4 times as many output channels as inner channels.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool


VARIANTS: dict[str, Variant] = {
    "resnet18_vd": Variant((2, 2, 2, 2), bottleneck=False),
    "resnet34_vd": Variant((3, 4, 6, 3), bottleneck=False),
    "resnet50_vd": Variant((3, 4, 6, 3), bottleneck=True),
    "resnet101_vd": Variant((3, 4, 23, 3), bottleneck=True),
}


class ResNetVd(StagedBackbone):
    """ResNet-vd: images ``[B, 3, H, W]`` → feature maps of ``stages`` (0-based), finest first.

    A map has stride 4·2^stage and ``channels`` channels.

    Args:
        variant: a name of ``VARIANTS``.
        stages: stages to return; deeper stages are not built.
        freeze_norm: keep batch norms constant.
        freeze_stem: give the stem no gradient.

    Raises:
        ConfigError: unknown variant, or a stage that the variant does not have.
    """

    list_name = "res_layers"

    def __init__(
        self,
        variant: str,
        stages: Sequence[int],
        *,
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
        check_stages(variant, stages, len(WIDTHS))
        outputs = [width * (4 if spec.bottleneck else 1) for width in WIDTHS]
        self.returned = tuple(stages)
        self.channels = tuple(outputs[stage] for stage in stages)
        self.strides = tuple(4 * 2**stage for stage in stages)
        self.conv1 = nn.Sequential()
        for name, inner, outer, stride in (
            ("conv1_1", 3, 32, 2),
            ("conv1_2", 32, 32, 1),
            ("conv1_3", 32, WIDTHS[0], 1),
        ):
            self.conv1.add_module(name, ConvNorm(inner, outer, 3, stride, act="relu"))
        self.whole = len(WIDTHS)
        self.res_layers = nn.ModuleList(
            _Stage(inner, width, outer, blocks, downsample=stage > 0, bottleneck=spec.bottleneck)
            for stage, (inner, width, outer, blocks) in enumerate(
                zip([WIDTHS[0], *outputs[:-1]], WIDTHS, outputs, spec.blocks, strict=True)
            )
            if stage <= stages[-1]
        )
        if freeze_norm:
            freeze_norms(self)
        if freeze_stem:
            self.conv1.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.conv1(images), 3, 2, padding=1)
        features = []
        for index, stage in enumerate(self.res_layers):
            x = stage(x)
            if index in self.returned:
                features.append(x)
        return features


class _Stage(nn.Module):
    """A stage of residual blocks.

    The first block changes the channels and, with ``downsample``, halves the resolution. So only
    the first block has a shortcut with weights.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        blocks: int,
        *,
        downsample: bool,
        bottleneck: bool,
    ) -> None:
        super().__init__()
        kind = _Bottleneck if bottleneck else _BasicBlock
        self.blocks = nn.Sequential(
            kind(in_channels, width, 2 if downsample else 1, project=True),
            *(kind(out_channels, width, 1, project=False) for _ in range(blocks - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions plus a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.short = _shortcut(in_channels, width, stride) if project else nn.Identity()
        self.branch2a = ConvNorm(in_channels, width, 3, stride, act="relu")
        self.branch2b = ConvNorm(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch2b(self.branch2a(x)) + self.short(x))


class _Bottleneck(nn.Module):
    """1×1, 3×3 (strided) and 1×1 convolution plus a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.branch2a = ConvNorm(in_channels, width, 1, act="relu")
        self.branch2b = ConvNorm(width, width, 3, stride, act="relu")
        self.branch2c = ConvNorm(width, 4 * width, 1)
        self.short = _shortcut(in_channels, 4 * width, stride) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch2c(self.branch2b(self.branch2a(x))) + self.short(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A 1×1 convolution, after 2×2 means if the resolution halves."""
    if stride == 1:
        return ConvNorm(in_channels, out_channels, 1)
    result = nn.Sequential()
    result.add_module("pool", nn.AvgPool2d(2, 2, ceil_mode=True))
    result.add_module("conv", ConvNorm(in_channels, out_channels, 1))
    return result
