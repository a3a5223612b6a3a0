"""Checks across sections: knobs that fit one by one, but not together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from deim_lab.config.sections import AugmentConfig, DataConfig, LossConfig, ModelConfig
from deim_lab.errors import ConfigError

# Knobs of edge distributions, which RT-DETRv2 does not have.
_OF_EDGES = {
    "model": ("reg_max", "reg_scale", "up"),
    "loss": ("weight_fgl", "weight_ddf", "ddf_temperature"),
}


@dataclass(frozen=True)
class _Owner:
    """The part of a model that alone uses a knob."""

    name: str
    chosen_by: str  # the knob that chooses the part
    remedy: str
    used: Callable[[ModelConfig], bool]


_OWNERS = {
    "learnable_affine": _Owner(
        name="HGNetV2 backbones",
        chosen_by="backbone",
        remedy="choose a backbone hgnetv2_*",
        used=lambda model: model.backbone.startswith("hgnetv2_"),
    ),
    "encoder_ffn_dim": _Owner(
        name="model.encoder 'hybrid'",
        chosen_by="encoder",
        remedy="set model.encoder to 'hybrid'",
        used=lambda model: model.encoder == "hybrid",
    ),
}
_SMALLEST_SCALE = 0.75  # of the shorter side, in multi-scale training


def edges(model: ModelConfig, loss: LossConfig) -> None:
    """Refuse knobs of edge distributions in a family without them."""
    if model.family != "rtdetrv2":
        return
    sections: dict[str, Any] = {"model": model, "loss": loss}
    for section, names in _OF_EDGES.items():
        for name in names:
            value = getattr(sections[section], name)
            if value != getattr(type(sections[section]), name):
                raise ConfigError(
                    f"{section}.{name} {value}: model.family 'rtdetrv2' has no edge "
                    f"distributions, so it would have no effect"
                )


def of_the_model(model: ModelConfig, given: Iterable[str]) -> None:
    """Refuse a knob that was given, but belongs to a part that the model does not have.

    A knob at its default counts as not given.
    """
    for name, owner in _OWNERS.items():
        value = getattr(model, name)
        if f"model.{name}" not in given or value == getattr(ModelConfig, name):
            continue
        if not owner.used(model):
            raise ConfigError(
                f"model.{name} {value} would have no effect. It belongs to {owner.name}, and "
                f"model.{owner.chosen_by} is {getattr(model, owner.chosen_by)!r}. "
                f"Leave it out, or {owner.remedy}."
            )


def one_start(model: ModelConfig, weights: object) -> None:
    """Refuse weights of a backbone where weights of a whole detector are given too."""
    if weights is not None and model.backbone_weights is not None:
        raise ConfigError(
            f"model.backbone_weights {model.backbone_weights!r} would have no effect: weights "
            f"{str(weights)!r} fill the backbone too; give one of them"
        )


def anchors(model: ModelConfig, augment: AugmentConfig, data: DataConfig) -> None:
    """Refuse more queries than the smallest image of training has anchors."""
    height, width = _smallest(data.input_size, multiscale=augment.multiscale_repeat is not None)
    number = sum((height // stride) * (width // stride) for stride in model.strides)
    if number < model.num_queries:
        raise ConfigError(
            f"model.num_queries {model.num_queries} is above the {number} anchors of "
            f"{height}×{width} px (the smallest size of data.input_size {list(data.input_size)}): "
            f"raise the size or lower the queries"
        )


def _smallest(input_size: tuple[int, int], *, multiscale: bool) -> tuple[int, int]:
    """Height and width of the smallest images that training sees.

    Multi-scale goes down to 0.75 of the shorter side in whole 32 px, the longer one in step
    (``schedule.multiscale_sizes``).
    """
    shorter, factor = min(input_size), 1.0
    if multiscale:
        factor = int(_SMALLEST_SCALE * shorter / 32) * 32 / shorter
    height, width = (max(32, round(side * factor / 32) * 32) for side in input_size)
    return height, width
