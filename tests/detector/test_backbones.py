"""detector/backbones.py: backbones by name, stages that nothing reads, and bad input."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from deim_lab.config import ModelConfig, override
from deim_lab.config.presets import preset
from deim_lab.detector.backbones import build_backbone, known_backbones
from deim_lab.detector.detector import build_detector
from deim_lab.detector.hgnetv2 import HGNetV2
from deim_lab.detector.resnet_vd import VARIANTS, ResNetVd
from deim_lab.errors import ConfigError
from deim_lab.weights.fill import LoadReport, fill as weights_fill
from small_backbones import RESNET18_VD
from small_detectors import some_targets, without_gradient

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("backbone", ["hgnetv2_tiny", "resnet18_vd", "lite0"])
def test_stages_that_nothing_reads_are_not_built(backbone: str) -> None:
    chosen = override(
        preset("smoke"), {"model.backbone": backbone, "model.backbone_stages": [0, 1]}
    )
    model = build_detector(chosen, num_classes=3)
    assert without_gradient(model, some_targets()) == []


@pytest.mark.parametrize("backbone", ["hgnetv2_tiny", "resnet18_vd", "lite0"])
def test_a_state_with_all_stages_still_fits(backbone: str) -> None:
    """Own checkpoints held stages that nothing reads until they were no longer built."""
    fewer = override(preset("smoke"), {"model.backbone": backbone, "model.backbone_stages": [0, 1]})
    model, whole = build_detector(fewer, 3), build_detector(fewer, 3)
    all_stages = override(fewer, {"model.backbone_stages": [1, 2]})
    whole.backbone = build_backbone(all_stages.model)
    state = whole.state_dict()
    assert len(state) > len(model.state_dict())
    copy.deepcopy(model).load_state_dict(state)
    report = weights_fill(model, state, "the state")
    assert report == LoadReport()
    (note,) = report.notes
    assert "of backbone stages deeper than model.backbone_stages are left out (backbone." in note
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_backbones_are_built_by_name() -> None:
    assert isinstance(build_backbone(ModelConfig()), HGNetV2)
    assert isinstance(build_backbone(RESNET18_VD), ResNetVd)
    assert {*VARIANTS, "hgnetv2_b0", "hgnetv2_tiny"} <= set(known_backbones())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet50vd"}, "did you mean 'resnet50_vd'"),
        ({"backbone": "hgnetv2-b4"}, "did you mean 'hgnetv2_b4'"),
        ({"backbone_stages": (2, 3, 4)}, "resnet18_vd has the stages 0 to 3"),
        ({"backbone_stages": (0, 1, 3)}, "must be consecutive"),
        ({"backbone_stages": (3, 2, 1)}, "increasing order"),
    ],
)
def test_what_can_not_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(replace(RESNET18_VD, **changes))
