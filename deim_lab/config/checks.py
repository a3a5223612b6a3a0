"""Reject combinations of config knobs that are each valid, but not together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from deim_lab.config.data import DataConfig
from deim_lab.config.sections import AugmentConfig, LossConfig, ModelConfig
from deim_lab.errors import ConfigError

# Knobs of edge distributions. RT-DETRv2 has none.
_OF_EDGES = {
    "model": ("reg_max", "reg_scale", "up"),
    "loss": ("weight_fgl", "weight_ddf", "ddf_temperature"),
}


@dataclass(frozen=True)
class _Owner:
    """The only part of a model that uses a certain knob."""

    name: str
    chosen_by: str  # the knob that selects the part
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
_SMALLEST_SCALE = 0.75  # smallest multi-scale size / shorter side of the input


def edges(model: ModelConfig, loss: LossConfig) -> None:
    """Reject knobs of edge distributions in a model family without edge distributions."""
    if model.family != "rtdetrv2":
        return
    sections: dict[str, Any] = {"model": model, "loss": loss}
    for section, names in _OF_EDGES.items():
        for name in names:
            value = getattr(sections[section], name)
            if value != getattr(type(sections[section]), name):
                raise ConfigError(
                    f"{section}.{name} {value} would have no effect. "
                    f"model.family 'rtdetrv2' has no edge distributions. Leave it out."
                )


def of_the_model(model: ModelConfig, given: Iterable[str]) -> None:
    """Reject a given knob that only a part absent from this model would use.

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
    """Reject backbone weights next to weights of a whole detector."""
    if weights is not None and model.backbone_weights is not None:
        raise ConfigError(
            f"model.backbone_weights={model.backbone_weights!r} and weights={str(weights)!r} both "
            f"fill the backbone. Give only one of them."
        )


def anchors(model: ModelConfig, augment: AugmentConfig, data: DataConfig) -> None:
    """Reject a config with more queries than the smallest training image has anchors."""
    height, width = _smallest(data.input_size, multiscale=augment.multiscale_repeat is not None)
    num_anchors = sum((height // stride) * (width // stride) for stride in model.strides)
    if num_anchors < model.num_queries:
        raise ConfigError(
            f"model.num_queries {model.num_queries} is above the {num_anchors} anchors of a "
            f"{height}×{width} px image, the smallest size of data.input_size "
            f"{list(data.input_size)}. Raise the size or lower the queries."
        )


def _smallest(input_size: tuple[int, int], *, multiscale: bool) -> tuple[int, int]:
    """Height and width of the smallest images in training.

    Multi-scale goes down to 0.75 of the shorter side, in multiples of 32 px. The longer side
    shrinks by the same factor (``schedule.multiscale_sizes``).
    """
    shorter, factor = min(input_size), 1.0
    if multiscale:
        factor = int(_SMALLEST_SCALE * shorter / 32) * 32 / shorter
    height, width = (max(32, round(side * factor / 32) * 32) for side in input_size)
    return height, width
