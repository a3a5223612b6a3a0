"""Configuration: one tree of defaults, strict overrides, lossless JSON, a fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import deim_lab
from deim_lab import config as configs
from deim_lab.config.presets import PRESETS, preset
from deim_lab.errors import ConfigError


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_json(name: str) -> None:
    config = PRESETS[name]
    assert config.preset == name
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config


def test_overrides_keep_types_and_leave_the_base_alone() -> None:
    base = preset("smoke")
    changed = configs.override(
        base,
        {
            "loss.gamma": 2,
            "data.input_size": [64, 96],
            "augment.multiscale_repeat": 3,
            "train.threads": None,
        },
    )
    assert changed.loss.gamma == 2.0
    assert isinstance(changed.loss.gamma, float)
    assert changed.data.input_size == (64, 96)
    assert changed.train.threads is None
    assert base == preset("smoke")
    assert configs.override(base, configs.diff(base, changed)) == changed
    assert configs.diff(base, changed).keys() == {
        "loss.gamma",
        "data.input_size",
        "augment.multiscale_repeat",
        "train.threads",
    }


@pytest.mark.parametrize(
    "key",
    [
        "train.epochs",
        "train.device",
        "data.batch_size",
        "data.input_size",
        "loss.classification",
        "loss.gamma",
        "loss.alpha",
        "augment.mosaic_prob",
        "augment.mixup_prob",
        "schedule.warmup_epochs",
        "schedule.dense_share",
        "schedule.clean_epochs",
        "match.kind",
        "model.num_queries",
        "optim.lr",
        "optim.backbone_lr",
        "ema.decay",
    ],
)
def test_the_keys_that_others_rely_on_exist(key: str) -> None:
    assert key in set(configs.keys())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"schedule.epoches": 3}, ["schedule.epoches", "train.epochs"]),
        ({"loss.gama": 3}, ["loss.gama", "loss.gamma"]),
        ({"gamma": 3}, ["'gamma'", "loss.gamma"]),
        ({"loss.gamma": "high"}, ["loss.gamma", "'high'", "float"]),
        ({"loss.gamma": -1}, ["loss.gamma", "-1"]),
        ({"loss.gamma": float("nan")}, ["loss.gamma", "nan"]),
        ({"train.epochs": True}, ["train.epochs", "bool"]),
        ({"train.epochs": 1.5}, ["train.epochs", "1.5"]),
        ({"data.input_size": 650}, ["650", "640", "672"]),
        ({"data.input_size": [640]}, ["2 values"]),
        ({"loss.classification": "mall"}, ["'mall'", "'mal'"]),
        ({"augment.mosaic_prob": 1.5}, ["augment.mosaic_prob", "1.5", "[0, 1]"]),
        ({"match.kind": "hungarien"}, ["hungarien", "hungarian"]),
        ({"train.device": "gpu"}, ["gpu", "cuda"]),
        ({"model.num_queries": 0}, ["model.num_queries"]),
        ({"model.num_queries": 181}, ["181", "180 anchors", "96×96"]),
    ],
)
def test_bad_overrides_name_the_key_the_value_and_the_right_name(
    overrides: dict, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        preset("smoke", overrides)
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        (
            "deim_rtdetrv2_r18",
            {"model.learnable_affine": False},
            ["model.learnable_affine False", "HGNetV2", "'resnet18_vd'", "hgnetv2_*"],
        ),
        (
            "smoke",
            {"model.backbone": "lite0", "model.learnable_affine": False},
            ["model.learnable_affine False", "'lite0'"],
        ),
        (
            "deimv2_hgnetv2_atto",
            {"model.encoder_ffn_dim": 256},
            ["model.encoder_ffn_dim 256", "'hybrid'", "model.encoder is 'lite'", "Leave it out"],
        ),
    ],
)
def test_a_knob_of_a_part_that_the_model_lacks_is_refused(
    name: str, overrides: dict, said: list[str]
) -> None:
    with pytest.raises(ConfigError, match="would have no effect") as error:
        preset(name, overrides)
    for part in said:
        assert part in str(error.value)


LITE = {"model.encoder": "lite", "model.backbone_stages": [2], "model.decoder_points": [4, 2]}


@pytest.mark.parametrize(
    ("name", "overrides", "carried"),
    [
        ("deim_dfine_l", {"model.backbone": "resnet50_vd"}, {"model.learnable_affine": False}),
        ("cpu_demo", LITE, {"model.encoder_ffn_dim": 128}),
        ("deimv2_hgnetv2_atto", {"model.encoder_ffn_dim": 512}, {}),
        ("deim_rtdetrv2_r18", {"model.learnable_affine": True}, {}),
    ],
)
def test_a_knob_that_a_preset_carries_or_that_is_at_its_default_is_not_refused(
    name: str, overrides: dict, carried: dict
) -> None:
    config = preset(name, overrides)
    assert carried.items() <= configs.flatten(config).items()
    assert configs.from_dict(configs.to_dict(config)) == config


def test_a_stored_config_opens_with_a_knob_that_has_no_effect() -> None:
    stored = configs.to_dict(preset("deimv2_hgnetv2_atto"))
    stored["model"]["encoder_ffn_dim"] = 256
    assert configs.from_dict(stored).model.encoder_ffn_dim == 256


def test_weights_of_a_backbone_next_to_those_of_a_detector_are_refused(tmp_path: Path) -> None:
    config = preset("smoke", {"model.backbone_weights": "timm"})
    with pytest.raises(ConfigError, match=r"='timm' and weights='own\.pt' both fill"):
        deim_lab.train(config, runs_dir=tmp_path, weights="own.pt")
    assert list(tmp_path.iterdir()) == []


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="deim_dfine_n"):
        preset("deim_dfine_nano")
    with pytest.raises(KeyError):
        PRESETS["nope"]


def test_assignments_of_the_command_line() -> None:
    parsed = configs.parse_assignments(
        [
            "loss.gamma=2.0",
            "data.input_size=[384, 640]",
            "loss.alpha=None",
            "loss.classification=vfl",
            "a.b=1e-3",
        ]
    )
    assert parsed == {
        "loss.gamma": 2.0,
        "data.input_size": [384, 640],
        "loss.alpha": None,
        "loss.classification": "vfl",
        "a.b": 1e-3,
    }
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        configs.parse_assignments(["loss.gamma"])


def test_fingerprint_is_of_what_is_computed() -> None:
    base = preset("smoke")
    assert configs.fingerprint(base) == configs.fingerprint(
        preset("smoke", {"train.device": "cuda", "data.workers": 2})
    )
    assert configs.fingerprint(base) != configs.fingerprint(preset("smoke", {"loss.gamma": 2.0}))


def test_effective_gamma_and_alpha_are_the_losses_own_unless_given() -> None:
    assert preset("deim_dfine_n").loss.effective_gamma == 1.5
    assert preset("deim_dfine_n").loss.effective_alpha is None
    assert preset("deim_dfine_n", {"loss.classification": "vfl"}).loss.effective_gamma == 2.0
    assert preset("dfine_n").loss.effective_alpha == 0.75
    assert preset("dfine_n", {"loss.gamma": 1.0, "loss.alpha": 0.5}).loss.effective_gamma == 1.0


def test_official_numbers_of_the_recipes() -> None:
    large = preset("deim_dfine_l")
    assert (
        large.train.epochs,
        large.optim.lr,
        large.optim.backbone_lr,
        large.optim.weight_decay,
    ) == (58, 5e-4, 2.5e-5, 1.25e-4)
    assert preset("deim_dfine_x").model.reg_scale == 8.0
    assert preset("dfine_x").model.freeze_backbone_norm
    assert not preset("deim_dfine_x").model.freeze_backbone_norm
