"""Use a timm or torchvision model with feature maps as a backbone.

timm cuts its models itself (``features_only``). A torchvision model is cut where each resolution
ends; a small test picture finds these places. Images are in [0, 1] and are normalised as in the
training of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deim_lab.errors import ConfigError, nearest
from deim_lab.host.optional import require

SOURCES = ("timm", "torchvision")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PROBE = 128  # px, side of the test picture that finds strides


class FeatureBackbone(nn.Module):
    """A model of another library: images ``[B, 3, H, W]`` in [0, 1] → feature maps.

    Returns the maps of ``stages`` (0-based), finest first. A map has stride 4·2^stage and
    ``channels`` channels.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``.
        stages: consecutive stages to return.
        pretrained: use the library's ImageNet weights, downloaded if not in its cache.

    Raises:
        ConfigError: unknown source or model, a model without maps of these strides, or timm is
            missing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, stages: Sequence[int], *, pretrained: bool = False) -> None:
        super().__init__()
        source, _, model = name.partition(":")
        self.strides = tuple(4 * 2**stage for stage in stages)
        if (
            not stages
            or list(stages) != list(range(stages[0], stages[0] + len(stages)))
            or stages[0] < 0
        ):
            raise ConfigError(
                f"model.backbone_stages {list(stages)} must be consecutive and increasing."
            )
        build = {"timm": _timm, "torchvision": _torchvision}.get(source)
        if build is None or not model:
            raise ConfigError(
                f"unknown model.backbone {name!r}. Expected timm:NAME or "
                f"torchvision:NAME{nearest(source, SOURCES)}."
            )
        self.body, self.channels, mean, std = build(model, self.strides, pretrained)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body((images - self.mean) / self.std)
        return list(maps.values()) if isinstance(maps, dict) else list(maps)


def is_adapted(name: str) -> bool:
    """Whether ``model.backbone`` names a model of another library."""
    return ":" in name


_Built = tuple[nn.Module, tuple[int, ...], Sequence[float], Sequence[float]]


def _timm(name: str, strides: tuple[int, ...], pretrained: bool) -> _Built:
    timm = require("timm", extra="pretrained", purpose=f"model.backbone 'timm:{name}'")
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name!r}{nearest(name, timm.list_models())}.")
    try:
        every = timm.create_model(
            name, features_only=True, pretrained=False
        ).feature_info.reduction()
    except Exception as error:
        raise ConfigError(
            f"timm:{name} makes no feature maps ({type(error).__name__}: {error}). "
            f"Choose another model."
        ) from error
    indices = _indices(f"timm:{name}", every, strides)
    body = timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=indices)
    settings = timm.get_pretrained_cfg(name)
    mean, std = (
        (settings.mean, settings.std) if settings is not None else (_IMAGENET_MEAN, _IMAGENET_STD)
    )
    return body, tuple(body.feature_info.channels()), mean, std


def _torchvision(name: str, strides: tuple[int, ...], pretrained: bool) -> _Built:
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    names = models.list_models(module=models)
    if name not in names:
        raise ConfigError(
            f"torchvision has no classification model {name!r}{nearest(name, names)}."
        )
    model = models.get_model(name, weights="DEFAULT" if pretrained else None)
    ends = _ends(model)
    indices = _indices(f"torchvision:{name}", list(ends), strides)
    chosen = [list(ends.values())[index] for index in indices]
    body = create_feature_extractor(
        model, {path: str(index) for index, (path, _) in enumerate(chosen)}
    )
    return body, tuple(channels for _, channels in chosen), _IMAGENET_MEAN, _IMAGENET_STD


def _ends(model: nn.Module) -> dict[int, tuple[str, int]]:
    """Stride → path and channels of the last module with that resolution, finest first.

    Considers modules one or two levels deep.
    """
    seen: dict[int, tuple[str, int]] = {}

    def record(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if (
                isinstance(output, Tensor)
                and output.ndim == 4
                and output.shape[2] > 1
                and _PROBE % output.shape[2] == 0
            ):
                seen[_PROBE // output.shape[2]] = (path, output.shape[1])

        return hook

    paths = [path for path, _ in model.named_modules() if path and path.count(".") <= 1]
    hooks = [model.get_submodule(path).register_forward_hook(record(path)) for path in paths]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, _PROBE, _PROBE))
    except Exception as error:
        raise ConfigError(
            f"{type(model).__name__} can't be a backbone. It failed on a picture of {_PROBE} px "
            f"({error})."
        ) from error
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return dict(sorted(seen.items()))


def _indices(name: str, available: Sequence[int], strides: Sequence[int]) -> list[int]:
    missing = [stride for stride in strides if stride not in available]
    if missing:
        raise ConfigError(
            f"{name} has feature maps of strides {list(available)}, but model.backbone_stages "
            f"needs {list(strides)}."
        )
    return [list(available).index(stride) for stride in strides]
