"""Name → a whole Config: the official recipes of D-FINE and DEIM-D-FINE, and the presets that learn on a CPU.

Numbers of the official recipes are those of the DEIM repository's configurations (docs/architecture.md lists their quirks). Where one
number there follows from others (flat epochs = end of Dense O2O), only the others are written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from deim_lab.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EmaConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
    override,
)
from deim_lab.errors import ConfigError, nearest

Json = Any

_THREE_LEVELS: dict[str, Any] = {"backbone_stages": (1, 2, 3), "decoder_points": (3, 6, 3), "hidden_dim": 256, "encoder_ffn_dim": 1024,
                                 "decoder_dim": 256, "decoder_ffn_dim": 1024}
_MODELS: dict[str, dict[str, Any]] = {
    "n": {},
    "s": dict(_THREE_LEVELS, backbone="hgnetv2_b0", expansion=0.5, depth_mult=0.34, decoder_layers=3),
    "m": dict(_THREE_LEVELS, backbone="hgnetv2_b2", expansion=1.0, depth_mult=0.67, decoder_layers=4),
    "l": dict(_THREE_LEVELS, backbone="hgnetv2_b4", expansion=1.0, depth_mult=1.0, decoder_layers=6, learnable_affine=False),
    "x": dict(_THREE_LEVELS, backbone="hgnetv2_b5", expansion=1.0, depth_mult=1.0, decoder_layers=6, learnable_affine=False,
              hidden_dim=384, encoder_ffn_dim=2048, reg_scale=8.0),
}
_MULTISCALE = {"n": None, "s": 20, "m": 6, "l": 4, "x": 3}
_BATCH = {"n": 128, "s": 32, "m": 32, "l": 32, "x": 32}
_WEIGHT_DECAY = {"n": 1e-4, "s": 1e-4, "m": 1e-4, "l": 1.25e-4, "x": 1.25e-4}

#        epochs, clean, lr, backbone lr, backbone norm, decay bias
_DEIM = {
    "n": (160, 12, 8e-4, 4e-4, "backbone", False),
    "s": (132, 12, 4e-4, 2e-4, "base", True),
    "m": (102, 12, 4e-4, 4e-5, "base", True),
    "l": (58, 8, 5e-4, 2.5e-5, "backbone", True),
    "x": (58, 8, 5e-4, 5e-6, "backbone", True),
}
_PLAIN = {
    "n": (160, 12, 8e-4, 4e-4, "backbone", False),
    "s": (132, 12, 2e-4, 1e-4, "backbone", False),
    "m": (132, 12, 2e-4, 2e-5, "backbone", False),
    "l": (80, 8, 2.5e-4, 1.25e-5, "backbone", True),
    "x": (80, 8, 2.5e-4, 2.5e-6, "backbone", True),
}


def _dfine(size: str, *, deim: bool) -> Config:
    epochs, clean, lr, backbone_lr, backbone_norm, decay_bias = (_DEIM if deim else _PLAIN)[size]
    frozen = not deim and size in "lx"
    constant_lr = not deim or size == "n"
    return Config(
        preset=f"{'deim_' if deim else ''}dfine_{size}",
        model=ModelConfig(**_MODELS[size], activation="silu" if deim else "relu", freeze_backbone_norm=frozen, freeze_stem=frozen),
        loss=LossConfig(classification="mal" if deim else "vfl"),
        augment=AugmentConfig(mosaic_prob=0.5 if deim else 0.0, mixup_prob=0.5 if deim else 0.0, multiscale_repeat=_MULTISCALE[size]),
        data=DataConfig(batch_size=_BATCH[size]),
        schedule=ScheduleConfig(warmup_epochs=4 if deim else 0, dense_share=0.5 if deim else 0.0, clean_epochs=clean,
                                lr_warmup_steps=2000 if deim else 500, lr_final_ratio=1.0 if constant_lr else 0.5),
        optim=OptimConfig(lr=lr, backbone_lr=backbone_lr, weight_decay=_WEIGHT_DECAY[size], backbone_norm=backbone_norm,  # type: ignore[arg-type]
                          decay_bias=decay_bias, recipe_batch=_BATCH[size]),
        train=TrainConfig(epochs=epochs),
    )


def _cpu_demo() -> Config:
    """Half a million parameters, 160 px: learns on one CPU thread in minutes. The DEIM recipe; plain: ``PLAIN_RECIPE``."""
    return Config(
        preset="cpu_demo",
        model=ModelConfig(backbone="hgnetv2_tiny", backbone_stages=(1, 2), hidden_dim=64, encoder_ffn_dim=128, expansion=0.34,
                          depth_mult=0.34, num_heads=4, decoder_dim=64, decoder_ffn_dim=128, decoder_layers=2,
                          decoder_points=(4, 4), num_queries=60, num_denoising=40, learnable_affine=True),
        augment=AugmentConfig(zoom_out_prob=0.0, iou_crop_prob=0.0),
        data=DataConfig(batch_size=4, eval_batch_size=16, input_size=(160, 160), workers=0, cache=True),
        schedule=ScheduleConfig(warmup_epochs=2, clean_epochs=4, lr_warmup_steps=50, lr_final_ratio=0.05, restart_from_best=False),
        optim=OptimConfig(lr=2e-3, backbone_lr=2e-3, recipe_batch=4, decay_bias=True, backbone_norm="base"),
        ema=EmaConfig(decay=0.99, warmup_updates=50),
        train=TrainConfig(epochs=36, eval_every=4, threads=1, checkpoint_every=4),
    )


def _smoke() -> Config:
    """``cpu_demo`` at two epochs and 96 px: proves that everything runs, learns next to nothing."""
    small = override(_cpu_demo(), {"data.input_size": 96, "train.epochs": 2, "train.eval_every": 1, "train.checkpoint_every": 1,
                                   "train.log_every": 5, "model.num_queries": 30, "model.num_denoising": 20})
    return Config(**{**{item: getattr(small, item) for item in small.__dataclass_fields__}, "preset": "smoke"})


_BUILDERS: dict[str, Callable[[], Config]] = {
    **{f"deim_dfine_{size}": partial(_dfine, size, deim=True) for size in _MODELS},
    **{f"dfine_{size}": partial(_dfine, size, deim=False) for size in _MODELS},
    "cpu_demo": _cpu_demo,
    "smoke": _smoke,
}

# What turns a DEIM recipe into the plain one it is compared with, all else equal.
PLAIN_RECIPE: dict[str, Json] = {"loss.classification": "vfl", "augment.mosaic_prob": 0.0, "augment.mixup_prob": 0.0}


class _Presets(Mapping[str, Config]):
    """Names → Configs, built when asked for; iterating gives the names."""

    def __getitem__(self, name: str) -> Config:
        if name not in _BUILDERS:
            raise KeyError(name)
        return _BUILDERS[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(_BUILDERS)

    def __len__(self) -> int:
        return len(_BUILDERS)

    def __repr__(self) -> str:
        return f"PRESETS({', '.join(_BUILDERS)})"


PRESETS: Mapping[str, Config] = _Presets()


def preset(name: str, overrides: Mapping[str, Json] | None = None) -> Config:
    """The named preset with dotted overrides applied. Raises ``ConfigError`` with the nearest right name."""
    if name not in _BUILDERS:
        raise ConfigError(f"unknown preset {name!r}{nearest(name, _BUILDERS)}; known: {', '.join(_BUILDERS)}")
    return override(_BUILDERS[name](), overrides or {})
