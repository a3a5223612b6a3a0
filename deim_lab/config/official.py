"""The official recipes of D-FINE, RT-DETRv2, DEIM on both, and DEIMv2: one row each.

A row overrides the defaults of ``schema.Config`` by dotted keys. Rows share named parts, defined
above them. The row's own numbers override those of a shared part. All numbers come from the
configurations of the DEIM repository (docs/architecture.md lists their quirks).
"""

from __future__ import annotations

from typing import Any

Recipe = dict[str, Any]

# Turns a DEIM recipe into the plain recipe for comparison, with all else equal.
PLAIN_RECIPE: Recipe = {
    "loss.classification": "vfl",
    "augment.mosaic_prob": 0.0,
    "augment.mixup_prob": 0.0,
}

# ------------------------------------------------------------------ the two ways to train
_DEIM: Recipe = {
    "model.activation": "silu",
    "loss.classification": "mal",
    "augment.mosaic_prob": 0.5,
    "augment.mixup_prob": 0.5,
    "schedule.warmup_epochs": 4,
    "schedule.dense_share": 0.5,
    "schedule.lr_warmup_steps": 2000,
    "schedule.lr_final_ratio": 0.5,
}
_PLAIN: Recipe = {
    **PLAIN_RECIPE,
    "model.activation": "relu",
    "schedule.warmup_epochs": 0,
    "schedule.dense_share": 0.0,
    "schedule.lr_final_ratio": 1.0,
}
_FROZEN: Recipe = {"model.freeze_backbone_norm": True, "model.freeze_stem": True}

# ------------------------------------------------------------------ D-FINE and DEIM-D-FINE
_PLAIN_DFINE: Recipe = {**_PLAIN, "schedule.lr_warmup_steps": 500}
_THREE_LEVELS: Recipe = {
    "model.backbone_stages": (1, 2, 3),
    "model.decoder_points": (3, 6, 3),
    "model.hidden_dim": 256,
    "model.encoder_ffn_dim": 1024,
    "model.decoder_dim": 256,
    "model.decoder_ffn_dim": 1024,
    "data.batch_size": 32,
    "optim.recipe_batch": 32,
}
_N: Recipe = {"data.batch_size": 128, "optim.recipe_batch": 128, "optim.weight_decay": 1e-4}
_S: Recipe = {
    **_THREE_LEVELS,
    "model.backbone": "hgnetv2_b0",
    "model.expansion": 0.5,
    "model.depth_mult": 0.34,
    "model.decoder_layers": 3,
    "augment.multiscale_repeat": 20,
    "optim.weight_decay": 1e-4,
}
_M: Recipe = {
    **_THREE_LEVELS,
    "model.backbone": "hgnetv2_b2",
    "model.expansion": 1.0,
    "model.depth_mult": 0.67,
    "model.decoder_layers": 4,
    "augment.multiscale_repeat": 6,
    "optim.weight_decay": 1e-4,
}
_L: Recipe = {
    **_THREE_LEVELS,
    "model.backbone": "hgnetv2_b4",
    "model.learnable_affine": False,
    "model.expansion": 1.0,
    "model.depth_mult": 1.0,
    "model.decoder_layers": 6,
    "augment.multiscale_repeat": 4,
    "optim.weight_decay": 1.25e-4,
}
_X: Recipe = {
    **_L,
    "model.backbone": "hgnetv2_b5",
    "model.hidden_dim": 384,
    "model.encoder_ffn_dim": 2048,
    "model.reg_scale": 8.0,
    "augment.multiscale_repeat": 3,
}

_DFINE: dict[str, Recipe] = {
    "deim_dfine_n": {
        **_N,
        **_DEIM,
        "train.epochs": 160,
        "schedule.clean_epochs": 12,
        "schedule.lr_final_ratio": 1.0,
        "optim.lr": 8e-4,
        "optim.backbone_lr": 4e-4,
        "optim.backbone_norm": "backbone",
        "optim.decay_bias": False,
    },
    "deim_dfine_s": {
        **_S,
        **_DEIM,
        "train.epochs": 132,
        "schedule.clean_epochs": 12,
        "optim.lr": 4e-4,
        "optim.backbone_lr": 2e-4,
        "optim.backbone_norm": "base",
        "optim.decay_bias": True,
    },
    "deim_dfine_m": {
        **_M,
        **_DEIM,
        "train.epochs": 102,
        "schedule.clean_epochs": 12,
        "optim.lr": 4e-4,
        "optim.backbone_lr": 4e-5,
        "optim.backbone_norm": "base",
        "optim.decay_bias": True,
    },
    "deim_dfine_l": {
        **_L,
        **_DEIM,
        "train.epochs": 58,
        "schedule.clean_epochs": 8,
        "optim.lr": 5e-4,
        "optim.backbone_lr": 2.5e-5,
        "optim.backbone_norm": "backbone",
        "optim.decay_bias": True,
    },
    "deim_dfine_x": {
        **_X,
        **_DEIM,
        "train.epochs": 58,
        "schedule.clean_epochs": 8,
        "optim.lr": 5e-4,
        "optim.backbone_lr": 5e-6,
        "optim.backbone_norm": "backbone",
        "optim.decay_bias": True,
    },
    "dfine_n": {
        **_N,
        **_PLAIN_DFINE,
        "train.epochs": 160,
        "schedule.clean_epochs": 12,
        "optim.lr": 8e-4,
        "optim.backbone_lr": 4e-4,
        "optim.backbone_norm": "backbone",
        "optim.decay_bias": False,
    },
    "dfine_s": {
        **_S,
        **_PLAIN_DFINE,
        "train.epochs": 132,
        "schedule.clean_epochs": 12,
        "optim.lr": 2e-4,
        "optim.backbone_lr": 1e-4,
        "optim.backbone_norm": "backbone",
        "optim.decay_bias": False,
    },
    "dfine_m": {
        **_M,
        **_PLAIN_DFINE,
        "train.epochs": 132,
        "schedule.clean_epochs": 12,
        "optim.lr": 2e-4,
        "optim.backbone_lr": 2e-5,
        "optim.backbone_norm": "backbone",
        "optim.decay_bias": False,
    },
    "dfine_l": {
        **_L,
        **_PLAIN_DFINE,
        **_FROZEN,
        "train.epochs": 80,
        "schedule.clean_epochs": 8,
        "optim.lr": 2.5e-4,
        "optim.backbone_lr": 1.25e-5,
        "optim.backbone_norm": "backbone",
        "optim.decay_bias": True,
    },
    "dfine_x": {
        **_X,
        **_PLAIN_DFINE,
        **_FROZEN,
        "train.epochs": 80,
        "schedule.clean_epochs": 8,
        "optim.lr": 2.5e-4,
        "optim.backbone_lr": 2.5e-6,
        "optim.backbone_norm": "backbone",
        "optim.decay_bias": True,
    },
}

# ------------------------------------------------------------------ RT-DETRv2 and DEIM-RT-DETRv2
_RTDETR: Recipe = {
    "model.family": "rtdetrv2",
    "model.backbone_stages": (1, 2, 3),
    "model.hidden_dim": 256,
    "model.encoder_ffn_dim": 1024,
    "model.expansion": 1.0,
    "model.depth_mult": 1.0,
    "model.decoder_dim": 256,
    "model.decoder_ffn_dim": 1024,
    "model.decoder_points": (4, 4, 4),
    "model.gateway": False,
    "loss.go_union": False,
    "augment.multiscale_repeat": 3,
    "data.batch_size": 16,
    "optim.recipe_batch": 16,
    "optim.backbone_norm": "base",
    "optim.decay_bias": True,
    "ema.warmup_updates": 2000,
}
_R18: Recipe = {**_RTDETR, "model.backbone": "resnet18_vd", "model.expansion": 0.5}
_R34: Recipe = {**_RTDETR, "model.backbone": "resnet34_vd", "model.expansion": 0.5}
_R50M: Recipe = {**_RTDETR, "model.backbone": "resnet50_vd", "model.expansion": 0.5}
_R50: Recipe = {**_RTDETR, "model.backbone": "resnet50_vd"}
_R101: Recipe = {
    **_RTDETR,
    "model.backbone": "resnet101_vd",
    "model.hidden_dim": 384,
    "model.encoder_ffn_dim": 2048,
}
_DEIM_RTDETR: Recipe = {**_DEIM, "model.query_position": "deep", "optim.lr": 2e-4}
_PLAIN_RTDETR: Recipe = {**_PLAIN, "model.query_position": "wide", "optim.lr": 1e-4}

_RTDETRV2: dict[str, Recipe] = {
    "deim_rtdetrv2_r18": {
        **_R18,
        **_DEIM_RTDETR,
        "model.decoder_layers": 3,
        "train.epochs": 120,
        "schedule.clean_epochs": 3,
        "schedule.dense_share": 60 / (120 - 3),
        "optim.backbone_lr": 2e-4,
    },
    "deim_rtdetrv2_r34": {
        **_R34,
        **_DEIM_RTDETR,
        "model.decoder_layers": 4,
        "train.epochs": 120,
        "schedule.clean_epochs": 3,
        "schedule.dense_share": 60 / (120 - 3),
        "optim.backbone_lr": 1e-4,
    },
    "deim_rtdetrv2_r50m": {
        **_R50M,
        **_DEIM_RTDETR,
        "model.decoder_layers": 3,
        "train.epochs": 60,
        "schedule.clean_epochs": 2,
        "schedule.dense_share": 30 / (60 - 2),
        "optim.backbone_lr": 2e-5,
    },
    "deim_rtdetrv2_r50": {
        **_R50,
        **_DEIM_RTDETR,
        "model.decoder_layers": 6,
        "train.epochs": 60,
        "schedule.clean_epochs": 2,
        "schedule.dense_share": 30 / (60 - 2),
        "optim.backbone_lr": 2e-5,
    },
    "deim_rtdetrv2_r101": {
        **_R101,
        **_DEIM_RTDETR,
        "model.decoder_layers": 6,
        "train.epochs": 60,
        "schedule.clean_epochs": 2,
        "schedule.dense_share": 30 / (60 - 2),
        "optim.backbone_lr": 2e-6,
    },
    "rtdetrv2_r18": {
        **_R18,
        **_PLAIN_RTDETR,
        "model.decoder_layers": 3,
        "train.epochs": 120,
        "schedule.clean_epochs": 3,
        "optim.backbone_lr": 1e-4,
    },
    "rtdetrv2_r34": {
        **_R34,
        **_PLAIN_RTDETR,
        "model.decoder_layers": 4,
        "train.epochs": 120,
        "schedule.clean_epochs": 3,
        "optim.backbone_lr": 5e-5,
        "optim.backbone_norm": "undecayed",
        "optim.decay_bias": False,
    },
    "rtdetrv2_r50m": {
        **_R50M,
        **_PLAIN_RTDETR,
        **_FROZEN,
        "model.decoder_layers": 6,
        "model.eval_layers": 3,
        "train.epochs": 84,
        "schedule.clean_epochs": 3,
        "optim.backbone_lr": 1e-5,
    },
    "rtdetrv2_r50": {
        **_R50,
        **_PLAIN_RTDETR,
        **_FROZEN,
        "model.decoder_layers": 6,
        "train.epochs": 72,
        "schedule.clean_epochs": 0,
        "optim.backbone_lr": 1e-5,
    },
    "rtdetrv2_r101": {
        **_R101,
        **_PLAIN_RTDETR,
        **_FROZEN,
        "model.decoder_layers": 6,
        "train.epochs": 72,
        "schedule.clean_epochs": 0,
        "optim.backbone_lr": 1e-6,
    },
}

# ------------------------------------------------------------------ DEIMv2 with HGNetV2
_DEIMV2: Recipe = {
    "model.family": "deimv2",
    "model.query_position": "deep",
    "match.iou_power": 4.0,
}
# The three smallest sizes train without the losses of edge distributions and without the union.
_LITE: Recipe = {
    **_DEIMV2,
    "model.encoder": "lite",
    "model.backbone_stages": (2,),
    "model.decoder_points": (4, 2),
    "model.gateway": False,
    "model.share_box_head": True,
    "loss.weight_fgl": 0.0,
    "loss.weight_ddf": 0.0,
    "loss.go_union": False,
    "augment.mixup_prob": 0.0,
    "data.batch_size": 128,
    # 500 epochs: Dense O2O in epochs 4 to 250, strong augmentation up to epoch 400.
    "train.epochs": 500,
    "schedule.warmup_epochs": 4,
    "schedule.dense_share": 0.615,
    "schedule.clean_epochs": 100,
    "schedule.lr_warmup_steps": 4000,
    "schedule.lr_clean_epochs": 32,
}

_DEIMV2_HGNETV2: dict[str, Recipe] = {
    "deimv2_hgnetv2_atto": {
        **_LITE,
        "model.backbone": "hgnetv2_atto",
        "model.hidden_dim": 64,
        "model.decoder_dim": 64,
        "model.decoder_ffn_dim": 160,
        "model.num_queries": 100,
        "augment.mosaic_prob": 0.3,
        "augment.min_box_px": 12.0,
        "data.input_size": 320,
        "optim.lr": 2e-3,
        "optim.backbone_lr": 1e-3,
        "optim.decay_bias": True,
    },
    "deimv2_hgnetv2_femto": {
        **_LITE,
        "model.backbone": "hgnetv2_femto",
        "model.hidden_dim": 96,
        "model.decoder_dim": 96,
        "model.decoder_ffn_dim": 256,
        "model.num_queries": 150,
        "augment.mosaic_prob": 0.5,
        "augment.min_box_px": 10.0,
        "data.input_size": 416,
        "optim.lr": 1.6e-3,
        "optim.backbone_lr": 8e-4,
        "optim.decay_bias": False,
    },
    "deimv2_hgnetv2_pico": {
        **_LITE,
        "model.backbone": "hgnetv2_pico",
        "model.hidden_dim": 112,
        "model.decoder_dim": 112,
        "model.decoder_ffn_dim": 320,
        "model.num_queries": 200,
        "augment.mosaic_prob": 0.5,
        "augment.min_box_px": 8.0,
        "data.input_size": 640,
        "optim.lr": 1.6e-3,
        "optim.backbone_lr": 8e-4,
        "optim.decay_bias": False,
    },
    "deimv2_hgnetv2_n": {
        **_DFINE["deim_dfine_n"],
        **_DEIMV2,
        "data.batch_size": 32,
        "optim.recipe_batch": 32,
        "schedule.late_match_share": 0.15,
    },
}

# Every official recipe, in the order in which they are listed.
OFFICIAL: dict[str, Recipe] = {**_DFINE, **_RTDETRV2, **_DEIMV2_HGNETV2}
