"""Name → backbone: the one place that knows which backbones there are.

A backbone turns images ``[B, 3, H, W]`` in [0, 1] into feature maps, finest first, and says their
``channels`` and ``strides``.
"""

from __future__ import annotations

from deim_lab.config import ModelConfig
from deim_lab.detector import hgnetv2, resnet_vd
from deim_lab.detector.features import FeatureBackbone, is_adapted
from deim_lab.detector.hgnetv2 import HGNetV2
from deim_lab.detector.lite0 import Lite0
from deim_lab.detector.resnet_vd import ResNetVd
from deim_lab.errors import ConfigError, nearest

Backbone = HGNetV2 | ResNetVd | Lite0 | FeatureBackbone


def known_backbones() -> tuple[str, ...]:
    """Every name that ``model.backbone`` takes, besides ``timm:NAME`` and ``torchvision:NAME``."""
    return (*hgnetv2.VARIANTS, *resnet_vd.VARIANTS, "lite0")


def build_backbone(model: ModelConfig) -> Backbone:
    """The untrained backbone of ``model.backbone``, which returns the maps of
    ``model.backbone_stages``.

    Raises:
        ConfigError: unknown name (with the nearest right one), or a stage that it has not.
    """
    if model.backbone in resnet_vd.VARIANTS:
        return ResNetVd(
            model.backbone,
            model.backbone_stages,
            freeze_norm=model.freeze_backbone_norm,
            freeze_stem=model.freeze_stem,
        )
    if model.backbone in hgnetv2.VARIANTS:
        return HGNetV2(
            model.backbone,
            model.backbone_stages,
            learnable_affine=model.learnable_affine,
            freeze_norm=model.freeze_backbone_norm,
            freeze_stem=model.freeze_stem,
        )
    if model.backbone == "lite0":
        return Lite0(
            model.backbone_stages,
            freeze_norm=model.freeze_backbone_norm,
            freeze_stem=model.freeze_stem,
        )
    if is_adapted(model.backbone):
        if model.freeze_backbone_norm or model.freeze_stem:
            raise ConfigError(
                f"model.freeze_backbone_norm and model.freeze_stem are not for another library's "
                f"model ({model.backbone})"
            )
        return FeatureBackbone(model.backbone, model.backbone_stages)
    raise ConfigError(
        f"unknown model.backbone {model.backbone!r}{nearest(model.backbone, known_backbones())}; "
        f"known: {', '.join(known_backbones())}, timm:NAME, torchvision:NAME"
    )
