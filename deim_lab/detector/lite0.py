"""EfficientNet-Lite0, a backbone for a CPU, built from torchvision's blocks.

EfficientNet (Tan & Le 2019, table 1) in its Lite form has ReLU6 instead of Swish and no
squeeze-and-excitation. The stem, the first block and the last block are as in B0. A small package
holds the ImageNet weights (``pretrained``), so no hub is needed. Convolutions of stride 2 pad only
the far edges, as TensorFlow does, because the weights were trained with this padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from deim_lab.detector.layers import StagedBackbone, check_stages, freeze_norms

NORM_EPS, NORM_MOMENTUM = 1e-3, 0.01
MEAN, SCALE = 127.0, 128.0  # the input becomes (x − 127) / 128 with x in [0, 255]
_STEM = 32


@dataclass(frozen=True)
class _Group:
    """A group of ``blocks`` inverted residuals; the first has ``stride``."""

    expansion: int
    kernel: int
    stride: int
    out: int
    blocks: int


_GROUPS = (
    _Group(1, 3, 1, 16, 1),
    _Group(6, 3, 2, 24, 2),
    _Group(6, 5, 2, 40, 2),
    _Group(6, 3, 2, 80, 3),
    _Group(6, 5, 1, 112, 3),
    _Group(6, 5, 2, 192, 4),
    _Group(6, 3, 1, 320, 1),
)
_ENDS = (1, 2, 4, 6)  # last group of each stage, of the strides 4, 8, 16, 32


class Lite0(StagedBackbone):
    """EfficientNet-Lite0: images ``[B, 3, H, W]`` in [0, 1] → feature maps, finest first.

    Returns the maps of ``stages`` (0-based). A map has stride 4·2^stage and ``channels`` channels.

    Args:
        stages: stages to return; deeper stages are not built.
        freeze_norm: keep batch norms constant.
        freeze_stem: give the stem no gradient.

    Raises:
        ConfigError: a stage that the backbone does not have.
    """

    list_name = "groups"

    def __init__(
        self, stages: Sequence[int], *, freeze_norm: bool = False, freeze_stem: bool = False
    ) -> None:
        super().__init__()
        check_stages("lite0", stages, len(_ENDS))
        self.returned = tuple(_ENDS[stage] for stage in stages)
        self.channels = tuple(_GROUPS[index].out for index in self.returned)
        self.strides = tuple(4 * 2**stage for stage in stages)
        self.stem = _convolution(3, _STEM, 3, 2)
        self.whole = len(_GROUPS)
        self.groups = nn.ModuleList()
        width = _STEM
        for group in _GROUPS[: self.returned[-1] + 1]:
            self.groups.append(_group(width, group))
            width = group.out
        if freeze_norm:
            freeze_norms(self)
        if freeze_stem:
            self.stem.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem((255 * images - MEAN) / SCALE)
        features = []
        for index, group in enumerate(self.groups):
            x = group(x)
            if index in self.returned:
                features.append(x)
        return features


def from_wheel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the package's file to the names of this module.

    Leaves out the classifier (``_conv_head``, ``_bn1``, ``_fc``).
    """
    result = {}
    for key, value in state.items():
        if key.startswith(("_conv_stem.", "_bn0.")):
            name = key.removeprefix("_conv_stem").removeprefix("_bn0")
            result[f"stem.1{_part(name, '_conv_stem' in key)}"] = value
    places = [
        (index, block) for index, group in enumerate(_GROUPS) for block in range(group.blocks)
    ]
    modules = {
        "_expand_conv": ("expand.0", True),
        "_bn0": ("expand.0", False),
        "_depthwise_conv": ("depthwise.1", True),
        "_bn1": ("depthwise.1", False),
        "_project_conv": ("project.0", True),
        "_bn2": ("project.0", False),
    }
    for key, value in state.items():
        if not key.startswith("_blocks."):
            continue
        _, number, name, parameter = key.split(".")
        index, block = places[int(number)]
        module, is_conv = modules[name]
        result[f"groups.{index}.{block}.{module}{_part(f'.{parameter}', is_conv)}"] = value
    return result


def _part(name: str, is_conv: bool) -> str:
    """Name of a parameter of a convolution or its norm inside torchvision's block."""
    return f".0{name}" if is_conv else f".1{name}"


class _InvertedResidual(nn.Module):
    """Inverted residual (MobileNetV2, Sandler et al. 2018): widen, filter, narrow.

    Channels are filtered separately. The input is added if neither shape nor stride changes.
    """

    def __init__(self, in_channels: int, group: _Group, stride: int) -> None:
        super().__init__()
        wide = in_channels * group.expansion
        self.residual = stride == 1 and in_channels == group.out
        self.expand: nn.Module = (
            nn.Sequential(_block(in_channels, wide, 1)) if group.expansion > 1 else nn.Identity()
        )
        self.depthwise = _convolution(wide, wide, group.kernel, stride, groups=wide)
        self.project = nn.Sequential(_block(wide, group.out, 1, act=False))

    def forward(self, x: Tensor) -> Tensor:
        result = self.project(self.depthwise(self.expand(x)))
        return result + x if self.residual else result


def _group(in_channels: int, group: _Group) -> nn.Sequential:
    first = _InvertedResidual(in_channels, group, group.stride)
    return nn.Sequential(
        first, *(_InvertedResidual(group.out, group, 1) for _ in range(group.blocks - 1))
    )


def _convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1
) -> nn.Sequential:
    """Padding, then convolution, norm and activation.

    For even sizes and stride 2, right and bottom get one pixel more than left and top.
    """
    total = kernel - stride
    pad = nn.ZeroPad2d((total // 2, total - total // 2, total // 2, total - total // 2))
    return nn.Sequential(pad, _block(in_channels, out_channels, kernel, stride, groups=groups))


def _block(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    act: bool = True,
) -> nn.Module:
    return Conv2dNormActivation(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding=0,
        groups=groups,
        norm_layer=_norm,
        activation_layer=nn.ReLU6 if act else None,
    )


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)
