"""The official layout of weights: kinds of entries, and descriptions of foreign files.

Module names follow the official state-dict layout, so official checkpoints need no key map. Derived
entries (anchors, point scales, copies of ``up`` and ``reg_scale``) are not required and not used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deim_lab.config.presets import PRESETS
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.detector.queries import make_anchors

COPIED = ("up", "reg_scale")  # present at decoder.* and again at decoder.decoder.*
_DERIVED = ("anchors", "valid_mask", "num_points_scale", "project")
# added by a comparator only for training; no official checkpoint has these entries
_ONLY_TRAINING = ("decoder.group_embed.",)

StateDict = Mapping[str, Tensor]


def official_state_dict(
    model: Detector, eval_size: tuple[int, int] = (640, 640)
) -> dict[str, Tensor]:
    """The weights of ``model`` in the exact official layout, including derived entries.

    Keys, order, shapes and dtypes are the official ones.

    Args:
        eval_size: height and width in pixels for which the anchors are written.
    """
    device = next(model.parameters()).device
    anchors, valid = make_anchors(
        [(eval_size[0] // stride, eval_size[1] // stride) for stride in model.strides],
        device=device,
    )
    shape: dict[str, Tensor] = {}  # parameters of W(n), if the family has edge distributions
    if model.decoder.up is not None and model.decoder.reg_scale is not None:
        up, reg_scale = model.decoder.up.detach(), model.decoder.reg_scale.detach()
        shape = {
            "up": up,
            "reg_scale": reg_scale.long()
            if bool((reg_scale == reg_scale.round()).all())
            else reg_scale,
        }
    result: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if key.startswith(_ONLY_TRAINING):
            continue
        if (
            key.startswith("decoder.")
            and key.removeprefix("decoder.") not in shape
            and "decoder.anchors" not in result
        ):
            result |= {"decoder.anchors": anchors, "decoder.valid_mask": valid}
        if shape and key.startswith("decoder.decoder.") and "decoder.decoder.up" not in result:
            result |= {f"decoder.decoder.{name}": item for name, item in shape.items()}
        module, _, name = key.rpartition(".")
        if name == "weight" and module.endswith("cross_attn.sampling_offsets"):
            attention = module.removesuffix(".sampling_offsets")
            result[f"{attention}.num_points_scale"] = model.get_submodule(
                attention
            ).num_points_scale  # type: ignore[assignment]
        result[key] = shape[name] if module == "decoder" and name in shape else value
    return result


def describe(state: StateDict) -> str:
    """Describe a state dict in words, for error messages."""
    keys = list(state)
    shapes = {key: tuple(value.shape) for key, value in state.items() if _is_structural(key)}
    heads = state.get("decoder.enc_score_head.weight")
    classes = f" of {len(heads)} classes" if heads is not None else ""
    if not keys:
        return "nothing (no tensors)"
    if any(key.startswith("model.") for key in keys) or not any(
        key.startswith("decoder.") for key in keys
    ):
        return f"{_without_decoder(keys)} (tensors {some(keys)})"
    deploy = " in deploy form" if any("conv_bn_fused" in key for key in keys) else ""
    if not deploy:
        fitting = [name for name in PRESETS if _structure_of(name) == shapes]
        if fitting:
            return f"{' or '.join(fitting)}{classes}"
    if any("swish_ffn" in key for key in keys):
        return f"a DEIMv2{classes}{deploy}"
    layers = len({key.split(".")[3] for key in keys if key.startswith("decoder.decoder.layers.")})
    if any("cross_attn.value_proj" in key for key in keys):
        blocks = len({key.rpartition(".branch2a")[0] for key in keys if ".branch2a." in key})
        return f"an RT-DETRv2{classes}{deploy} with {layers} decoder layers" + (
            f" and a ResNet-vd of {blocks} blocks" if blocks else ""
        )
    width = next(
        (value.shape[0] for key, value in state.items() if key.endswith("enc_output.proj.weight")),
        "unknown",
    )
    stem = next(
        (value.shape[0] for key, value in state.items() if key.endswith("stem.stem1.conv.weight")),
        "unknown",
    )
    return (
        f"a D-FINE{classes}{deploy} with a stem of {stem} channels, {layers} decoder layers of "
        f"width {width}"
    )


def _without_decoder(keys: Sequence[str]) -> str:
    if any(key.startswith("model.backbone.") for key in keys):
        return (
            "a detector of transformers (give the folder with the file and its config.json instead)"
        )
    if any("res_layers." in key for key in keys):
        return "a ResNet-vd backbone alone"
    return (
        "an HGNetV2 backbone alone"
        if any("stem." in key or "stages." in key for key in keys)
        else "no detector"
    )


def is_derived(key: str) -> bool:
    return key.rpartition(".")[2] in _DERIVED or key in {
        f"decoder.decoder.{name}" for name in COPIED
    }


def is_optional(key: str) -> bool:
    """Whether a key is a batch counter (absent in frozen norms) or a parameter of W(n).

    The config has the parameters of W(n) too.
    """
    return key.endswith("num_batches_tracked") or key in {f"decoder.{name}" for name in COPIED}


def is_of_classes(key: str) -> bool:
    return key.startswith(
        ("decoder.denoising_class_embed.", "decoder.enc_score_head.", "decoder.dec_score_head.")
    )


def _is_structural(key: str) -> bool:
    return not (
        is_derived(key) or is_optional(key) or is_of_classes(key) or key.startswith(_ONLY_TRAINING)
    )


@functools.cache
def _structure_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = build_detector(name, 1)
    return {
        key: tuple(value.shape) for key, value in model.state_dict().items() if _is_structural(key)
    }


def some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(map(str, list(names)[:limit])) + (", …" if len(names) > limit else "")
