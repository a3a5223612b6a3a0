"""inference/flops.py: parameters and operations of every preset and on paper."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim_lab.config.presets import PRESETS
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.inference.flops import Cost, count
from places import REFERENCE

SIZES: dict[str, dict[str, Any]] = json.loads(
    (REFERENCE / "model_sizes.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_equal_the_reference_and_gflops_the_published_ones(name: str) -> None:
    if name not in PRESETS:
        pytest.skip("no preset of this name yet")
    want = SIZES[name]
    with torch.device("meta"):
        model = build_detector(name, 80).eval()
    assert sum(item.numel() for item in model.parameters()) == want["parameters_train"]
    cost = count(model.deploy(), (want["size"], want["size"]))
    assert cost.parameters == want["parameters_deploy"]
    assert cost.gflops == pytest.approx(want["gflops"], rel=4e-3)
    assert cost.gmacs == pytest.approx(want["gmacs"], rel=4e-3)
    assert (cost.spared_gflops > 0) == ("rtdetrv2" in name)


class Known(nn.Module):
    """Layers whose operations can be counted on paper."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 5)
        self.layer_norm = nn.LayerNorm(5)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.deep(self.conv(images))))
        return self.layer_norm(self.linear(x.flatten(2).transpose(1, 2))).softmax(-1)


def test_the_count_is_that_of_paper() -> None:
    model = Known()
    macs = 8 * 3 * 9 * 64 + 8 * 9 * 16 + 16 * 8 * 5
    others = (
        8 * 64 + 2 * 8 * 16 + 8 * 16 + (5 + 1) * 16 * 5
    )  # bias; batch norm; ReLU; layer norm and softmax
    found = count(model, (8, 8))
    assert found == Cost(
        sum(item.numel() for item in model.parameters()), (2 * macs + others) / 1e9, macs / 1e9
    )
    assert model.training  # it was left as it was
    assert model.conv.weight.device.type == "cpu"
    assert count(model, (8, 16)).gmacs == pytest.approx(2 * found.gmacs)


def test_the_deploy_form_is_smaller_and_half_the_size_a_quarter_of_the_work(
    untrained: Detector,
) -> None:
    whole, deployed = count(untrained, (128, 128)), count(untrained.deploy(), (128, 128))
    assert deployed.parameters < whole.parameters
    assert deployed.gflops < whole.gflops
    assert count(untrained, (64, 64)).gflops < 0.6 * whole.gflops  # the queries' part stays
    assert next(untrained.parameters()).device.type == "cpu"
