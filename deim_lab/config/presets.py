"""Named presets: the official recipes, and two that a CPU trains in minutes.

A preset applies its recipe, a row of dotted keys, to the defaults of ``schema.Config``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from deim_lab.config.official import OFFICIAL, PLAIN_RECIPE, Recipe
from deim_lab.config.schema import Config, override
from deim_lab.errors import ConfigError, nearest

__all__ = ["PLAIN_RECIPE", "PRESETS", "preset"]

Json = Any

# Half a million parameters at 160 px: learns on one CPU thread in minutes. This is the DEIM
# recipe. For the plain recipe, add PLAIN_RECIPE.
_CPU_DEMO: Recipe = {
    "model.backbone": "hgnetv2_tiny",
    "model.backbone_stages": (1, 2),
    "model.hidden_dim": 64,
    "model.encoder_ffn_dim": 128,
    "model.expansion": 0.34,
    "model.depth_mult": 0.34,
    "model.num_heads": 4,
    "model.decoder_dim": 64,
    "model.decoder_ffn_dim": 128,
    "model.decoder_layers": 2,
    "model.decoder_points": (4, 4),
    "model.num_queries": 60,
    "model.num_denoising": 40,
    "augment.zoom_out_prob": 0.0,
    "augment.iou_crop_prob": 0.0,
    "data.batch_size": 4,
    "data.eval_batch_size": 16,
    "data.input_size": 160,
    "data.workers": 0,
    "data.cache": True,
    "schedule.warmup_epochs": 2,
    "schedule.clean_epochs": 4,
    "schedule.lr_warmup_steps": 50,
    "schedule.lr_final_ratio": 0.05,
    "schedule.restart_from_best": False,
    "optim.lr": 2e-3,
    "optim.backbone_lr": 2e-3,
    "optim.recipe_batch": 4,
    "optim.decay_bias": True,
    "optim.backbone_norm": "base",
    "ema.decay": 0.99,
    "ema.warmup_updates": 50,
    "train.epochs": 36,
    "train.eval_every": 4,
    "train.threads": 1,
    "train.checkpoint_every": 4,
}
# Proves that everything runs. It learns almost nothing.
_SMOKE: Recipe = {
    **_CPU_DEMO,
    "data.input_size": 96,
    "train.epochs": 2,
    "train.eval_every": 1,
    "train.checkpoint_every": 1,
    "train.log_every": 5,
    "model.num_queries": 30,
    "model.num_denoising": 20,
}

_RECIPES: dict[str, Recipe] = {**OFFICIAL, "cpu_demo": _CPU_DEMO, "smoke": _SMOKE}


@cache
def _build(name: str) -> Config:
    return override(Config(preset=name), _RECIPES[name])


class _Presets(Mapping[str, Config]):
    """Mapping of preset name → Config. Each Config is built on first access."""

    def __getitem__(self, name: str) -> Config:
        if name not in _RECIPES:
            raise KeyError(name)
        return _build(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_RECIPES)

    def __len__(self) -> int:
        return len(_RECIPES)

    def __repr__(self) -> str:
        return f"PRESETS({', '.join(_RECIPES)})"


PRESETS: Mapping[str, Config] = _Presets()


def preset(name: str, overrides: Mapping[str, Json] | None = None) -> Config:
    """The named preset with dotted overrides applied.

    Raises ``ConfigError`` with the nearest valid name.
    """
    if name not in _RECIPES:
        raise ConfigError(
            f"unknown preset {name!r}{nearest(name, _RECIPES)}. Choose from {', '.join(_RECIPES)}."
        )
    return override(_build(name), overrides or {})
