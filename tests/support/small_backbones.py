"""Backbones of a small detector, with changed weights, and pictures for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deim_lab.config import Config, ModelConfig
from deim_lab.config.presets import preset
from deim_lab.detector.detector import build_detector
from deim_lab.weights.backbone import load_backbone_weights, read_backbone_weights

RESNET18_VD = ModelConfig(
    family="rtdetrv2", backbone="resnet18_vd", backbone_stages=(1, 2, 3), decoder_points=(4, 4, 4)
)
THREE = {"model.backbone_stages": [1, 2, 3], "model.decoder_points": [4, 4, 4]}


def config(backbone: str, source: str | None = None, /, **more: Any) -> Config:
    """The preset smoke with this backbone, weights from this source."""
    return preset("smoke", {"model.backbone": backbone, "model.backbone_weights": source, **more})


def filled(chosen: Config, seed: int = 0) -> Any:
    """The backbone of a detector that took up its weights."""
    torch.manual_seed(seed)
    model = build_detector(chosen, 3)
    found = read_backbone_weights(chosen.model)
    assert found is not None
    load_backbone_weights(model, found)
    return model.backbone.double().eval()


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """No vector and no statistic at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.exp(0.2 * torch.randn(value.shape, generator=generator)))
            elif value.is_floating_point() and value.ndim < 2:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model


def images(size: tuple[int, int] = (96, 128)) -> Tensor:
    """Two random pictures in float64, the same at every call."""
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
