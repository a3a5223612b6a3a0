"""Small untrained detectors, and what they are given: noise and a few targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deim_lab.config import Config
from deim_lab.config.presets import preset
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.detector.dfine import DFineDecoder
from deim_lab.detector.layers import Mlp
from deim_lab.detector.rtdetr import RTDetrDecoder
from deim_lab.structures import DetectorOutput, Targets

TINY = {
    "model.hidden_dim": 32,
    "model.encoder_ffn_dim": 64,
    "model.decoder_dim": 32,
    "model.decoder_ffn_dim": 64,
    "model.num_heads": 4,
    "model.num_queries": 20,
    "model.num_denoising": 8,
    "data.batch_size": 4,
    "data.input_size": 64,
    "data.workers": 0,
    "augment.multiscale_repeat": None,
    "train.threads": 1,
    "train.log_every": 1,
}
TINIER = TINY | {
    "model.backbone": "hgnetv2_tiny",
    "model.backbone_stages": [1, 2],
    "model.decoder_points": [4, 2],
}
CATEGORIES = [{"id": 1, "name": "red"}, {"id": 5, "name": "green"}, {"id": 7, "name": "blue"}]


def tiny(overrides: dict[str, Any] | None = None, seed: int = 0) -> Detector:
    """RT-DETRv2's encoder and decoder behind a small backbone, box heads that say something."""
    torch.manual_seed(seed)
    model = build_detector(preset("deim_rtdetrv2_r18", TINIER | (overrides or {})), 3)
    assert isinstance(model.decoder, DFineDecoder | RTDetrDecoder)
    with torch.no_grad():
        for head in (model.decoder.enc_bbox_head, *model.decoder.dec_bbox_head):
            assert isinstance(head, Mlp)
            head.get_parameter("layers.2.weight").normal_(0, 0.1)
    return model


def small(classes: int = 3, seed: int = 0, **overrides: Any) -> Detector:
    """The detector of the preset smoke, with other values of ``model``."""
    torch.manual_seed(seed)
    return build_detector(smoke_config(**overrides), classes)


def smoke_config(**overrides: Any) -> Config:
    """The preset smoke with other values of ``model``."""
    return preset("smoke", {f"model.{key}": value for key, value in overrides.items()})


def outputs(model: Detector) -> Tensor:
    """Scores and boxes of one fixed picture."""
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prediction = model.eval()(images)
    return torch.cat([prediction.logits, prediction.boxes_cxcywh], dim=-1)


def noise(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    """Random pictures, the same at every call."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def some_targets(batch: int = 2) -> Targets:
    """Three boxes in the first image, none in the others."""
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.2, 0.3, 0.1, 0.2], [0.7, 0.6, 0.2, 0.2]])
    return Targets.from_lists(
        [boxes, *[boxes[:0]] * (batch - 1)],
        [torch.tensor([0, 2, 1]), *[torch.zeros(0)] * (batch - 1)],
    )


def frozen(model: Detector) -> Detector:
    """In train mode, but with the norms as in eval mode: two passes then see the same features."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def without_gradient(model: Detector, targets: Targets | None) -> list[str]:
    """Trainable parameters that all outputs together give no gradient."""
    output = model(noise(2, 96, 96), targets)
    assert isinstance(output, DetectorOutput)
    levels = [part for part in (output.matching, output.denoising) if part is not None]
    sums = [level.logits.sum() + level.boxes_cxcywh.sum() for level in levels]
    torch.stack(sums).sum().backward()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
