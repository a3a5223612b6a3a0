"""Layers common to backbones, encoders and decoders, such as convolution with norm."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deim_lab.errors import ConfigError

T = TypeVar("T")

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu}


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) of ``x`` in [0, 1]; x and 1 - x are at least ``eps``."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


class TableCache(dict[Hashable, Any]):
    """Cache of tables that depend only on sizes and device.

    Beyond ``LIMIT`` tables, the oldest table is dropped.
    """

    LIMIT = 64  # multi-scale training uses about 20 sizes

    def get_or_make(self, key: Hashable, make: Callable[[], T]) -> T:
        if torch.compiler.is_compiling():  # a traced table can't be cached
            return make()
        if key not in self:
            if len(self) >= self.LIMIT:
                del self[next(iter(self))]
            with torch.inference_mode(False):  # an inference tensor can't be used in training
                self[key] = make()
        return self[key]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and an optional activation; "same" padding.

    It is the building block of the encoder. ``fuse`` folds the norm into the convolution, for
    inference.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        act: str | None = None,
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d | None = nn.Conv2d(
            in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False
        )
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(out_channels)
        self.act = ACTIVATIONS[act] if act else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_bn_fused(x) if self.conv is None else self.norm(self.conv(x))  # type: ignore[misc]
        return x if self.act is None else self.act(x)

    def fused(self) -> nn.Conv2d:
        """One convolution with bias, equal to convolution and norm in eval mode."""
        if self.conv is None or self.norm is None:
            return self.conv_bn_fused
        return fuse_conv_bn_eval(self.conv, self.norm)

    def fuse(self) -> None:
        if self.conv is not None:
            self.conv_bn_fused = self.fused()
            self.conv = self.norm = None


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with constant statistics and affine.

    They are buffers: saved, but neither trained nor updated.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )


def freeze_norms(module: nn.Module) -> None:
    """Replace all batch norms inside ``module`` by new constant norms."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            freeze_norms(child)


def check_stages(backbone: str, stages: Sequence[int], available: int) -> None:
    """Raise ``ConfigError`` unless ``stages`` are consecutive, from 0 to ``available`` - 1."""
    if (
        not stages
        or sorted(set(stages)) != list(stages)
        or not 0 <= stages[0] <= stages[-1] < available
    ):
        raise ConfigError(
            f"model.backbone_stages {list(stages)}: {backbone} has the stages 0 to "
            f"{available - 1}. Name them in increasing order."
        )
    if any(b - a != 1 for a, b in pairwise(stages)):
        raise ConfigError(
            f"model.backbone_stages {list(stages)} must be consecutive. The encoder doubles "
            f"sizes from level to level."
        )


class StagedBackbone(nn.Module):
    """A backbone that is built only up to the deepest returned stage.

    A state of the complete backbone can be loaded: tensors of deeper stages are left out.

    Attributes:
        list_name: name of the list of stages, or of finer parts.
        whole: length of this list in the complete backbone.
    """

    list_name: str
    whole: int

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_leave_out_deeper)

    def is_deeper(self, key: str) -> bool:
        """Whether a tensor of the complete backbone belongs to a stage that is not built."""
        match = re.match(rf"{self.list_name}\.(\d+)\.", key)
        built = len(list(self.get_submodule(self.list_name).children()))
        return match is not None and built <= int(match[1]) < self.whole


def _leave_out_deeper(backbone: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    assert isinstance(backbone, StagedBackbone)
    for key in [key for key in state if key.startswith(prefix)]:
        if backbone.is_deeper(key.removeprefix(prefix)):
            del state[key]


class Mlp(nn.Module):
    """``depth`` linear layers with activations between: ``[..., in] → [..., out]``."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, depth: int, act: str) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.act = ACTIVATIONS[act]

    def zero_last_layer(self) -> None:
        """Make the untrained output 0 for any input."""
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)
