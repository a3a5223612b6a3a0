"""training/optimizer.py: groups as the official ones, saved states, learning rates."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.detector.detector import build_detector
from deim_lab.training.optimizer import (
    build_optimizer,
    parameter_groups,
    restore_optimizer,
    set_learning_rate,
)
from official import NAMES, optimizer_groups

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_the_official_ones(name: str) -> None:
    official = optimizer_groups()[name]["groups"]
    config = preset(name)
    with torch.device("meta"):
        model = build_detector(config, num_classes=80)
    expected = {
        n: (group["lr"], group["weight_decay"]) for group in official for n in group["names"]
    }
    actual = {
        n: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, config.optim)
        for n in group["names"]
    }
    assert actual == expected


def test_every_trainable_parameter_is_in_one_group() -> None:
    config = preset("smoke")
    model = build_detector(config, num_classes=3)
    names = [n for group in parameter_groups(model, config.optim) for n in group["names"]]
    assert sorted(names) == sorted(n for n, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("backbone", "stages"), [("lite0", (2, 3)), ("torchvision:resnet18", (2, 3))]
)
def test_norms_are_known_by_their_type(backbone: str, stages: tuple[int, ...]) -> None:
    """Neither lite0 nor torchvision's shortcuts say "norm" or "bn" in the names of their norms."""
    config = preset("smoke", {"model.backbone": backbone, "model.backbone_stages": stages})
    model = build_detector(config, num_classes=3)
    norms = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm))
        for name, _ in module.named_parameters(recurse=False)
    }
    groups = {group["name"]: group for group in parameter_groups(model, config.optim)}
    assert groups["no_decay"]["weight_decay"] == 0
    assert norms == set(groups["no_decay"]["names"])


def test_a_saved_state_goes_on_in_its_own_groups() -> None:
    config = preset("smoke")
    older = override(config, {"optim.backbone_norm": "backbone"})
    first, second = (build_detector(config, num_classes=3) for _ in range(2))
    saved_from = build_optimizer(first, older.optim)
    for index, parameter in enumerate(first.parameters()):
        parameter.grad = torch.full_like(parameter, 1 + index)
    saved_from.step()
    second.load_state_dict(first.state_dict())
    restored = build_optimizer(second, config.optim)
    assert [g["names"] for g in restored.param_groups] != [
        g["names"] for g in saved_from.param_groups
    ]
    restore_optimizer(restored, copy.deepcopy(saved_from.state_dict()))
    for mine, theirs in zip(restored.param_groups, saved_from.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k != "params"} == {
            k: v for k, v in theirs.items() if k != "params"
        }
    for model, optimizer in ((first, saved_from), (second, restored)):
        for index, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 2 - index)
        optimizer.step()
    for here, there in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(here, there)


def test_a_saved_state_of_more_stages_goes_on_without_them() -> None:
    """Until 0.2.0 backbones were built whole; what nothing reads had no moments."""
    config = preset("smoke")
    model = build_detector(config, num_classes=3)
    optimizer = build_optimizer(model, config.optim)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    first = saved["param_groups"][0]
    first["names"].insert(1, "backbone.stages.3.weight")
    first["params"].insert(1, 1)
    for group in saved["param_groups"]:
        group["params"] = [place + (place > 0) for place in group["params"]]
    first["params"][1] = 1
    saved["state"] = {place + (place > 0): moment for place, moment in saved["state"].items()}
    restored = build_optimizer(model, config.optim)
    restore_optimizer(restored, saved)
    mine, theirs = restored.state_dict(), optimizer.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    for place, moment in theirs["state"].items():
        assert torch.equal(mine["state"][place]["exp_avg"], moment["exp_avg"])


def test_the_schedule_scales_each_group_from_its_own_base() -> None:
    config = preset("smoke", {"optim.backbone_lr": 1e-4, "optim.lr": 1e-3})
    optimizer = build_optimizer(build_detector(config, num_classes=3), config.optim)
    set_learning_rate(optimizer, 0.1)
    highest = set_learning_rate(optimizer, 0.5)
    assert highest == 5e-4
    assert {group["name"]: group["lr"] for group in optimizer.param_groups}["backbone"] == 5e-5


@pytest.mark.parametrize("size", ["atto", "femto", "pico", "n"])
def test_parameter_groups_are_the_official_ones(size: str) -> None:
    official = optimizer_groups()[f"deimv2_hgnetv2_{size}"]["groups"]
    config = preset(f"deimv2_hgnetv2_{size}")
    with torch.device("meta"):
        model = build_detector(config, 80)
    expected = {
        n: (group["lr"], group["weight_decay"]) for group in official for n in group["names"]
    }
    assert {
        n: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, config.optim)
        for n in group["names"]
    } == expected
