"""detector/resnet_vd.py: maps, frozen norms, and the same numbers as timm's network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from deim_lab.detector.backbones import build_backbone
from deim_lab.detector.layers import FrozenBatchNorm2d
from deim_lab.detector.resnet_vd import VARIANTS, ResNetVd
from numeric import depth_of, float32_tolerance
from small_backbones import RESNET18_VD

pytestmark = pytest.mark.numeric


def noise(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def randomise(model: nn.Module) -> None:
    """Weights and statistics under which no part of the network is trivial."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.uniform_(0.7, 1.3)
        elif name.endswith(("bias", "running_mean")):
            value.normal_(0, 0.2)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_channels_and_strides_are_those_of_the_maps(name: str) -> None:
    backbone = build_backbone(replace(RESNET18_VD, backbone=name)).eval()
    with torch.no_grad():
        maps = backbone(noise(64, 96))
    assert backbone.strides == (8, 16, 32)
    assert [tuple(item.shape) for item in maps] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert backbone.channels == (
        (512, 1024, 2048) if VARIANTS[name].bottleneck else (128, 256, 512)
    )


@pytest.mark.parametrize("stages", [(0,), (2, 3), (0, 1, 2, 3)])
def test_the_stages_asked_for_are_returned(stages: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    every = ResNetVd("resnet18_vd", (0, 1, 2, 3)).eval()
    some = ResNetVd("resnet18_vd", stages).eval()
    some.load_state_dict(every.state_dict())  # deeper stages are there all the same
    with torch.no_grad():
        maps, wanted = some(noise(64, 64)), every(noise(64, 64))
    assert len(maps) == len(stages)
    assert all(torch.equal(item, wanted[stage]) for item, stage in zip(maps, stages, strict=True))


def test_resnet50_vd_computes_what_timm_computes() -> None:
    """timm's resnet50d is the same network under other names, in the same order."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(
        "resnet50d", features_only=True, out_indices=(2, 3, 4), pretrained=False
    ).eval()
    randomise(theirs)
    mine = ResNetVd("resnet50_vd", (1, 2, 3)).eval()
    mine.load_state_dict(dict(zip(mine.state_dict(), theirs.state_dict().values(), strict=True)))
    with torch.no_grad():
        found, wanted = mine(noise(72, 88)), theirs(noise(72, 88))  # odd maps on the way
    for ours, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            ours,
            expected,
            rtol=0,
            atol=float32_tolerance(depth_of(mine)) * float(expected.abs().max()),
        )


def test_frozen_norms_and_stem() -> None:
    backbone = build_backbone(
        replace(RESNET18_VD, freeze_backbone_norm=True, freeze_stem=True)
    ).train()
    randomise(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    before = [
        module.running_mean.clone()
        for module in backbone.modules()
        if isinstance(module, FrozenBatchNorm2d)
    ]
    sum(item.sum() for item in backbone(noise(64, 64, batch=2))).backward()
    after = [
        module.running_mean
        for module in backbone.modules()
        if isinstance(module, FrozenBatchNorm2d)
    ]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    without = {name for name, parameter in backbone.named_parameters() if parameter.grad is None}
    assert without == {f"conv1.conv1_{index}.conv.weight" for index in (1, 2, 3)}


def test_frozen_norms_compute_what_norms_do_in_eval_mode() -> None:
    free = build_backbone(RESNET18_VD).eval()
    randomise(free)
    frozen = build_backbone(replace(RESNET18_VD, freeze_backbone_norm=True))
    frozen.load_state_dict(free.state_dict(), strict=False)
    with torch.no_grad():
        for found, wanted in zip(frozen.train()(noise(64, 64)), free(noise(64, 64)), strict=True):
            torch.testing.assert_close(
                found,
                wanted,
                rtol=0,
                atol=float32_tolerance(depth_of(free)) * float(wanted.abs().max()),
            )
