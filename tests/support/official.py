"""The stored official numbers of whole detectors, and the weights and pictures behind them."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deim_lab.detector.detector import Detector
from deim_lab.structures import Prediction
from places import REFERENCE

NAMES = [
    f"{flavour}{model}"
    for flavour in ("deim_", "")
    for model in (
        *(f"dfine_{size}" for size in "nsmlx"),
        *(f"rtdetrv2_{size}" for size in ("r18", "r34", "r50m", "r50", "r101")),
    )
]
AS_BUILT = {"up", "reg_scale", "num_batches_tracked"}


@cache
def unit_ops() -> dict[str, np.ndarray]:
    """Inputs and results of single functions."""
    with np.load(REFERENCE / "unit_ops.npz") as arrays:
        return dict(arrays)


@cache
def layouts() -> dict[str, Any]:
    """By name of a preset: keys, shapes and types of the official weights; parameter counts."""
    return json.loads(gzip.decompress((REFERENCE / "state_dicts.json.gz").read_bytes()))


@cache
def optimizer_groups() -> dict[str, Any]:
    """By name of a preset: the optimiser's groups."""
    return json.loads(gzip.decompress((REFERENCE / "param_groups.json.gz").read_bytes()))


def layout_of(state: dict[str, Tensor]) -> list[list[Any]]:
    """Keys, shapes and types of weights, as ``layouts`` has them."""
    return [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in state.items()
    ]


def zeros_like_layout(name: str) -> dict[str, Tensor]:
    """Weights of zeros in the official layout of a preset."""
    return {
        key: torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, shape, dtype in layouts()[name]["state_dict"]
    }


def fill(model: nn.Module, *, conv_gain: float, lin_gain: float, salt: str = "") -> None:
    """Deterministic weights: a normal stream seeded by each key, scaled by the kind of tensor.

    A tensor with several names gets the values of its last name.
    """
    for key, tensor in model.state_dict().items():
        last, shape = key.rpartition(".")[2], tuple(tensor.shape)
        if last in AS_BUILT:
            continue
        x = np.random.default_rng(zlib.crc32((salt + key).encode())).standard_normal(shape)
        if last == "running_var":
            x = np.exp(0.2 * x)
        elif last == "running_mean":
            x = 0.1 * x
        elif len(shape) == 4:
            x = x * conv_gain / np.sqrt(np.prod(shape[1:]))
        elif len(shape) == 2:
            x = x * lin_gain / np.sqrt(shape[1])
        else:
            x = 1 + 0.1 * x if last in ("weight", "scale") else 0.1 * x
        tensor.copy_(torch.from_numpy(x.astype(np.float32)))


def picture(batch: int, height: int, width: int) -> Tensor:
    """A batch of waves that differ by image and channel."""
    b, c, y, x = np.meshgrid(
        np.arange(batch), np.arange(3), np.arange(height), np.arange(width), indexing="ij"
    )
    u, v, turn = x / width, y / height, 2 * np.pi
    waves = np.sin(turn * ((3 + c + b) * u + (2 + b) * v) + c) + np.cos(
        turn * (4 * (5 + b) * u * v + 7 * (1 + c) * v) + b
    )
    return torch.from_numpy((0.5 + 0.25 * waves).astype(np.float32))


def with_parts(model: Detector, images: Tensor) -> tuple[Prediction, list[Tensor], list[Tensor]]:
    """Prediction of a detector in eval mode; maps of its backbone and of its encoder on the way."""
    outputs: list[list[Tensor]] = []
    handles = [
        part.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for part in (model.backbone, model.encoder)
    ]
    prediction = model(images)
    for handle in handles:
        handle.remove()
    features, maps = outputs
    return prediction, features, maps
