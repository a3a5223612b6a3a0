"""Knobs that would have no effect are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import deim_lab
from deim_lab import config as configs
from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError


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
