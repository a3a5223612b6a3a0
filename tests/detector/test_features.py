"""detector/features.py: other libraries' models as backbones."""

from __future__ import annotations

import pytest
import torch

from deim_lab.detector.backbones import build_backbone
from deim_lab.detector.detector import build_detector
from deim_lab.errors import ConfigError
from small_backbones import THREE, config, images

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("torchvision:resnet18", (128, 256, 512)),
        ("torchvision:mobilenet_v3_small", (24, 48, 576)),
        ("torchvision:regnet_y_400mf", (104, 208, 440)),
        ("torchvision:convnext_tiny", (192, 384, 768)),
        ("timm:resnet18", (128, 256, 512)),
        ("timm:mobilenetv4_conv_small", (64, 96, 960)),
    ],
)
def test_any_model_with_feature_maps(name: str, channels: tuple[int, ...]) -> None:
    pytest.importorskip("timm")
    backbone = build_backbone(config(name, **THREE).model)
    assert backbone.channels == channels
    assert backbone.strides == (8, 16, 32)
    found = backbone(images().float())
    assert [tuple(item.shape) for item in found] == [
        (2, c, 96 // s, 128 // s) for c, s in zip(channels, (8, 16, 32), strict=True)
    ]


def test_features_are_those_of_the_normalised_image() -> None:
    from torchvision import models

    torch.manual_seed(0)
    backbone = (
        build_backbone(config("torchvision:resnet18", **{"model.backbone_stages": [1, 2]}).model)
        .double()
        .eval()
    )
    whole = models.resnet18().double().eval()
    assert not whole.load_state_dict(
        {key.removeprefix("body."): value for key, value in backbone.state_dict().items()},
        strict=False,
    ).unexpected_keys
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    with torch.no_grad():
        x = whole.layer1(whole.maxpool(whole.relu(whole.bn1(whole.conv1((images() - mean) / std)))))
        fine = whole.layer2(x)
        for a, b in zip(backbone(images()), (fine, whole.layer3(fine)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_pictures_are_normalised_as_timms_model_was_trained() -> None:
    timm = pytest.importorskip("timm")
    name, known = "tf_efficientnet_lite0", timm.get_pretrained_cfg("tf_efficientnet_lite0")
    assert tuple(known.mean) != (0.485, 0.456, 0.406)
    backbone = build_backbone(config(f"timm:{name}", **{"model.backbone_stages": [1, 2]}).model)
    assert backbone.get_buffer("mean").flatten().tolist() == pytest.approx(known.mean)
    assert backbone.get_buffer("std").flatten().tolist() == pytest.approx(known.std)


def test_a_detector_trains_on_one() -> None:
    model = build_detector(config("torchvision:mobilenet_v3_small"), 3)
    output = model.train()(torch.rand(2, 3, 96, 96))
    output.matching.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm:resnet18x", "did you mean"),
        ("torchvision:resnet_18", "did you mean 'resnet18'"),
        ("tim:resnet18", "did you mean 'timm'"),
        ("torchvision:vit_b_16", "can't be a backbone"),
        ("lite1", "did you mean 'lite0'"),
    ],
)
def test_models_that_are_no_backbones(name: str, says: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=says):
        build_backbone(config(name).model)


def test_freezing_is_not_for_them() -> None:
    with pytest.raises(ConfigError, match="freeze"):
        build_backbone(config("torchvision:resnet18", **{"model.freeze_backbone_norm": True}).model)
