"""The table of backbones by name.

A backbone turns images ``[B, 3, H, W]`` in [0, 1] into feature maps, finest first. Its attributes
``channels`` and ``strides`` describe the maps. ``BACKBONES`` holds the built-in backbones. To add
your own backbone, add an entry (docs/extending.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from deim_lab.config import ModelConfig, plugins
from deim_lab.config.entries import Entries, Entry
from deim_lab.detector import hgnetv2, resnet_vd
from deim_lab.detector.features import FeatureBackbone, is_adapted
from deim_lab.detector.hgnetv2 import HGNetV2
from deim_lab.detector.lite0 import Lite0
from deim_lab.detector.resnet_vd import ResNetVd
from deim_lab.errors import ConfigError, nearest

__all__ = ["BACKBONES", "Backbone", "BackboneModule", "build_backbone", "known_backbones"]

# Types of built backbones. Your own backbone has the same attributes.
BackboneModule = HGNetV2 | ResNetVd | Lite0 | FeatureBackbone


@dataclass(frozen=True)
class Backbone(Entry):
    """A backbone: an entry of ``detector.BACKBONES``.

    ``function(model)`` takes the ``ModelConfig`` and returns an untrained module. The module turns
    ``[B, 3, H, W]`` in [0, 1] into one map for each of ``model.backbone_stages``, finest first. Its
    attributes ``channels`` and ``strides`` have one number for each map; the stride of stage ``n``
    is ``4 · 2^n``.

    Attributes:
        freezes: whether it supports ``model.freeze_backbone_norm`` and ``model.freeze_stem``.
    """

    freezes: bool = field(default=False, kw_only=True)


def _hgnetv2(model: ModelConfig) -> nn.Module:
    return HGNetV2(
        model.backbone,
        model.backbone_stages,
        learnable_affine=model.learnable_affine,
        freeze_norm=model.freeze_backbone_norm,
        freeze_stem=model.freeze_stem,
    )


def _resnet_vd(model: ModelConfig) -> nn.Module:
    return ResNetVd(
        model.backbone,
        model.backbone_stages,
        freeze_norm=model.freeze_backbone_norm,
        freeze_stem=model.freeze_stem,
    )


def _lite0(model: ModelConfig) -> nn.Module:
    return Lite0(
        model.backbone_stages,
        freeze_norm=model.freeze_backbone_norm,
        freeze_stem=model.freeze_stem,
    )


BACKBONES: Entries[Backbone] = Entries(
    "backbone",
    "detector.BACKBONES",
    {
        **dict.fromkeys(hgnetv2.VARIANTS, Backbone(_hgnetv2, freezes=True)),
        **dict.fromkeys(resnet_vd.VARIANTS, Backbone(_resnet_vd, freezes=True)),
        "lite0": Backbone(_lite0, freezes=True),
    },
)
plugins.watch(BACKBONES, lambda config: [config.model.backbone])


def known_backbones() -> tuple[str, ...]:
    """All names for ``model.backbone`` except ``timm:NAME`` and ``torchvision:NAME``."""
    return tuple(BACKBONES)


def build_backbone(model: ModelConfig) -> BackboneModule:
    """Build the untrained backbone of ``model.backbone``.

    It returns the maps of ``model.backbone_stages``.

    Raises:
        ConfigError: an unknown name (with the nearest valid name), or a stage that the backbone
            does not have. Also for unsupported freezing, or your own backbone without ``channels``
            and ``strides`` for these stages.
    """
    name = model.backbone
    if name not in BACKBONES and not is_adapted(name):
        raise ConfigError(
            f"unknown model.backbone {name!r}{nearest(name, known_backbones())}. "
            f"Choose from {', '.join(known_backbones())}, timm:NAME, torchvision:NAME. "
            f"{BACKBONES.own_entry}"
        )
    frozen = model.freeze_backbone_norm or model.freeze_stem
    if is_adapted(name):
        if frozen:
            raise ConfigError(
                f"model.freeze_backbone_norm and model.freeze_stem do not work with {name}, a "
                f"model of another library. Leave them out."
            )
        return FeatureBackbone(name, model.backbone_stages)
    if frozen and not BACKBONES[name].freezes:
        raise ConfigError(
            f"model.backbone {name!r} does not support model.freeze_backbone_norm and "
            f"model.freeze_stem. Leave them out."
        )
    backbone: BackboneModule = BACKBONES.callable(name)(model)
    if BACKBONES.is_added(name):
        _check(backbone, model)
    return backbone


def _check(backbone: object, model: ModelConfig) -> None:
    """Raise ``ConfigError`` unless an added backbone has valid ``channels`` and ``strides``."""
    strides = tuple(4 * 2**stage for stage in model.backbone_stages)
    channels = getattr(backbone, "channels", None)
    if not isinstance(backbone, nn.Module) or channels is None or len(channels) != len(strides):
        raise ConfigError(
            f"The function of model.backbone {model.backbone!r} returned "
            f"{type(backbone).__name__} with channels {channels}. Expected a torch module with one "
            f"number of channels for each of model.backbone_stages {list(model.backbone_stages)}."
        )
    if tuple(getattr(backbone, "strides", ())) != strides:
        raise ConfigError(
            f"model.backbone {model.backbone!r} has the strides "
            f"{list(getattr(backbone, 'strides', ()))}. Expected {list(strides)} for "
            f"model.backbone_stages {list(model.backbone_stages)}."
        )
