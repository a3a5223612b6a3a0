"""Name → a whole Config: the official recipes of D-FINE, RT-DETRv2 and DEIM on both, and the
presets that learn on a CPU.

Numbers of the official recipes are those of the DEIM repository's configurations
(docs/architecture.md lists their quirks). Where one number there follows from others (flat epochs =
end of Dense O2O), only the others are written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from deim_lab.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    EmaConfig,
    LossConfig,
    MatchConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
    override,
)
from deim_lab.errors import ConfigError, nearest

Json = Any

_THREE_LEVELS: dict[str, Any] = {
    "backbone_stages": (1, 2, 3),
    "decoder_points": (3, 6, 3),
    "hidden_dim": 256,
    "encoder_ffn_dim": 1024,
    "decoder_dim": 256,
    "decoder_ffn_dim": 1024,
}
_MODELS: dict[str, dict[str, Any]] = {
    "n": {},
    "s": dict(
        _THREE_LEVELS, backbone="hgnetv2_b0", expansion=0.5, depth_mult=0.34, decoder_layers=3
    ),
    "m": dict(
        _THREE_LEVELS, backbone="hgnetv2_b2", expansion=1.0, depth_mult=0.67, decoder_layers=4
    ),
    "l": dict(
        _THREE_LEVELS,
        backbone="hgnetv2_b4",
        expansion=1.0,
        depth_mult=1.0,
        decoder_layers=6,
        learnable_affine=False,
    ),
    "x": dict(
        _THREE_LEVELS,
        backbone="hgnetv2_b5",
        expansion=1.0,
        depth_mult=1.0,
        decoder_layers=6,
        learnable_affine=False,
        hidden_dim=384,
        encoder_ffn_dim=2048,
        reg_scale=8.0,
    ),
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
        model=ModelConfig(
            **_MODELS[size],
            activation="silu" if deim else "relu",
            freeze_backbone_norm=frozen,
            freeze_stem=frozen,
        ),
        loss=LossConfig(classification="mal" if deim else "vfl"),
        augment=AugmentConfig(
            mosaic_prob=0.5 if deim else 0.0,
            mixup_prob=0.5 if deim else 0.0,
            multiscale_repeat=_MULTISCALE[size],
        ),
        data=DataConfig(batch_size=_BATCH[size]),
        schedule=ScheduleConfig(
            warmup_epochs=4 if deim else 0,
            dense_share=0.5 if deim else 0.0,
            clean_epochs=clean,
            lr_warmup_steps=2000 if deim else 500,
            lr_final_ratio=1.0 if constant_lr else 0.5,
        ),
        optim=OptimConfig(
            lr=lr,
            backbone_lr=backbone_lr,
            weight_decay=_WEIGHT_DECAY[size],
            backbone_norm=backbone_norm,  # type: ignore[arg-type]
            decay_bias=decay_bias,
            recipe_batch=_BATCH[size],
        ),
        train=TrainConfig(epochs=epochs),
    )


# RT-DETRv2: depth of the ResNet; encoder channels, feed-forward width, expansion
_RTDETR = {
    "r18": (18, 256, 1024, 0.5),
    "r34": (34, 256, 1024, 0.5),
    "r50m": (50, 256, 1024, 0.5),
    "r50": (50, 256, 1024, 1.0),
    "r101": (101, 384, 2048, 1.0),
}
#       decoder layers, of which inference runs; epochs, clean; backbone lr (lr: 2e-4)
_DEIM_RTDETR = {
    "r18": (3, None, 120, 3, 2e-4),
    "r34": (4, None, 120, 3, 1e-4),
    "r50m": (3, None, 60, 2, 2e-5),
    "r50": (6, None, 60, 2, 2e-5),
    "r101": (6, None, 60, 2, 2e-6),
}
#       the same (lr: 1e-4)
_PLAIN_RTDETR = {
    "r18": (3, None, 120, 3, 1e-4),
    "r34": (4, None, 120, 3, 5e-5),
    "r50m": (6, 3, 84, 3, 1e-5),
    "r50": (6, None, 72, 0, 1e-5),
    "r101": (6, None, 72, 0, 1e-6),
}


def _rtdetrv2(size: str, *, deim: bool) -> Config:
    depth, hidden_dim, ffn_dim, expansion = _RTDETR[size]
    layers, eval_layers, epochs, clean, backbone_lr = (_DEIM_RTDETR if deim else _PLAIN_RTDETR)[
        size
    ]
    frozen = not deim and depth >= 50
    grouped = (
        not deim and size == "r34"
    )  # plain r34 alone keeps norms of the backbone at its rate, and biases without decay
    dense_epochs = {120: 60, 60: 30}.get(epochs, 0) if deim else 0
    return Config(
        preset=f"{'deim_' if deim else ''}rtdetrv2_{size}",
        model=ModelConfig(
            family="rtdetrv2",
            backbone=f"resnet{depth}_vd",
            backbone_stages=(1, 2, 3),
            freeze_backbone_norm=frozen,
            freeze_stem=frozen,
            hidden_dim=hidden_dim,
            encoder_ffn_dim=ffn_dim,
            expansion=expansion,
            depth_mult=1.0,
            decoder_dim=256,
            decoder_ffn_dim=1024,
            decoder_layers=layers,
            eval_layers=eval_layers,
            decoder_points=(4, 4, 4),
            gateway=False,
            query_position="deep" if deim else "wide",
            activation="silu" if deim else "relu",
        ),
        loss=LossConfig(classification="mal" if deim else "vfl", go_union=False),
        augment=AugmentConfig(
            mosaic_prob=0.5 if deim else 0.0, mixup_prob=0.5 if deim else 0.0, multiscale_repeat=3
        ),
        data=DataConfig(batch_size=16),
        schedule=ScheduleConfig(
            warmup_epochs=4 if deim else 0,
            dense_share=dense_epochs / (epochs - clean),
            clean_epochs=clean,
            lr_final_ratio=0.5 if deim else 1.0,
        ),
        optim=OptimConfig(
            lr=2e-4 if deim else 1e-4,
            backbone_lr=backbone_lr,
            backbone_norm="undecayed" if grouped else "base",
            decay_bias=not grouped,
            recipe_batch=16,
        ),
        ema=EmaConfig(warmup_updates=2000),
        train=TrainConfig(epochs=epochs),
    )


_LITE: dict[str, Any] = {
    "encoder": "lite",
    "backbone_stages": (2,),
    "decoder_points": (4, 2),
    "gateway": False,
    "share_box_head": True,
}
_DEIMV2: dict[str, dict[str, Any]] = {
    "atto": dict(
        _LITE,
        backbone="hgnetv2_atto",
        hidden_dim=64,
        decoder_dim=64,
        decoder_ffn_dim=160,
        num_queries=100,
    ),
    "femto": dict(
        _LITE,
        backbone="hgnetv2_femto",
        hidden_dim=96,
        decoder_dim=96,
        decoder_ffn_dim=256,
        num_queries=150,
    ),
    "pico": dict(
        _LITE,
        backbone="hgnetv2_pico",
        hidden_dim=112,
        decoder_dim=112,
        decoder_ffn_dim=320,
        num_queries=200,
    ),
    "n": {},
}
_LATE = 4.0  # DEIMv2's exponent of the matching cost in the last epochs
# Of the three smallest: input px, mosaic probability, smallest box px, lr, backbone lr, decay bias.
_DEIMV2_SMALL = {
    "atto": (320, 0.3, 12.0, 2e-3, 1e-3, True),
    "femto": (416, 0.5, 10.0, 1.6e-3, 8e-4, False),
    "pico": (640, 0.5, 8.0, 1.6e-3, 8e-4, False),
}


def _deimv2(size: str) -> Config:
    """DEIMv2's HGNetV2 sizes. The three smallest learn without edge distributions' own losses and
    without the union of matches.
    """
    name, model = (
        f"deimv2_hgnetv2_{size}",
        ModelConfig(family="deimv2", query_position="deep", **_DEIMV2[size]),
    )
    if size == "n":
        base = _dfine("n", deim=True)
        return replace(
            base,
            preset=name,
            model=model,
            data=DataConfig(batch_size=32),
            optim=OptimConfig(recipe_batch=32),
            match=MatchConfig(iou_power=_LATE),
            schedule=replace(base.schedule, late_match_share=0.15),
        )
    side, mosaic, min_box, lr, backbone_lr, decay_bias = _DEIMV2_SMALL[size]
    return Config(
        preset=name,
        model=model,
        match=MatchConfig(iou_power=_LATE),
        loss=LossConfig(weight_fgl=0.0, weight_ddf=0.0, go_union=False),
        augment=AugmentConfig(mosaic_prob=mosaic, mixup_prob=0.0, min_box_px=min_box),
        data=DataConfig(batch_size=128, input_size=(side, side)),
        # Dense O2O for the epochs 4 to 250, strong augmentation to 400, of 500
        schedule=ScheduleConfig(
            warmup_epochs=4,
            dense_share=0.615,
            clean_epochs=100,
            lr_warmup_steps=4000,
            lr_clean_epochs=32,
        ),
        optim=OptimConfig(lr=lr, backbone_lr=backbone_lr, decay_bias=decay_bias),
        train=TrainConfig(epochs=500),
    )


def _cpu_demo() -> Config:
    """Half a million parameters, 160 px: learns on one CPU thread in minutes. The DEIM recipe;
    plain: ``PLAIN_RECIPE``.
    """
    return Config(
        preset="cpu_demo",
        model=ModelConfig(
            backbone="hgnetv2_tiny",
            backbone_stages=(1, 2),
            hidden_dim=64,
            encoder_ffn_dim=128,
            expansion=0.34,
            depth_mult=0.34,
            num_heads=4,
            decoder_dim=64,
            decoder_ffn_dim=128,
            decoder_layers=2,
            decoder_points=(4, 4),
            num_queries=60,
            num_denoising=40,
            learnable_affine=True,
        ),
        augment=AugmentConfig(zoom_out_prob=0.0, iou_crop_prob=0.0),
        data=DataConfig(
            batch_size=4, eval_batch_size=16, input_size=(160, 160), workers=0, cache=True
        ),
        schedule=ScheduleConfig(
            warmup_epochs=2,
            clean_epochs=4,
            lr_warmup_steps=50,
            lr_final_ratio=0.05,
            restart_from_best=False,
        ),
        optim=OptimConfig(
            lr=2e-3, backbone_lr=2e-3, recipe_batch=4, decay_bias=True, backbone_norm="base"
        ),
        ema=EmaConfig(decay=0.99, warmup_updates=50),
        train=TrainConfig(epochs=36, eval_every=4, threads=1, checkpoint_every=4),
    )


def _smoke() -> Config:
    """``cpu_demo`` at two epochs and 96 px: proves that everything runs, learns next to nothing."""
    small = override(
        _cpu_demo(),
        {
            "data.input_size": 96,
            "train.epochs": 2,
            "train.eval_every": 1,
            "train.checkpoint_every": 1,
            "train.log_every": 5,
            "model.num_queries": 30,
            "model.num_denoising": 20,
        },
    )
    return Config(
        **{**{item: getattr(small, item) for item in small.__dataclass_fields__}, "preset": "smoke"}
    )


_BUILDERS: dict[str, Callable[[], Config]] = {
    **{f"deim_dfine_{size}": partial(_dfine, size, deim=True) for size in _MODELS},
    **{f"dfine_{size}": partial(_dfine, size, deim=False) for size in _MODELS},
    **{f"deim_rtdetrv2_{size}": partial(_rtdetrv2, size, deim=True) for size in _RTDETR},
    **{f"rtdetrv2_{size}": partial(_rtdetrv2, size, deim=False) for size in _RTDETR},
    **{f"deimv2_hgnetv2_{size}": partial(_deimv2, size) for size in _DEIMV2},
    "cpu_demo": _cpu_demo,
    "smoke": _smoke,
}

# What turns a DEIM recipe into the plain one it is compared with, all else equal.
PLAIN_RECIPE: dict[str, Json] = {
    "loss.classification": "vfl",
    "augment.mosaic_prob": 0.0,
    "augment.mixup_prob": 0.0,
}


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
    """The named preset with dotted overrides applied. Raises ``ConfigError`` with the nearest right
    name.
    """
    if name not in _BUILDERS:
        raise ConfigError(
            f"unknown preset {name!r}{nearest(name, _BUILDERS)}; known: {', '.join(_BUILDERS)}"
        )
    return override(_BUILDERS[name](), overrides or {})
