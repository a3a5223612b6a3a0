"""Checks across sections: knobs that fit one by one, but not together."""

from __future__ import annotations

from typing import Any

from deim_lab.config.sections import AugmentConfig, DataConfig, LossConfig, ModelConfig
from deim_lab.errors import ConfigError

# Knobs of edge distributions, which RT-DETRv2 does not have.
_OF_EDGES = {
    "model": ("reg_max", "reg_scale", "up"),
    "loss": ("weight_fgl", "weight_ddf", "ddf_temperature"),
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
