"""AdamW with the parameter groups of the official recipes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from deim_lab.config import OptimConfig

# Norms that decay all the same: DEIMv2's own pattern misses these two of its lite encoder.
_DECAYED_NORMS = ("encoder.down_sample1.2", "encoder.down_sample2.2")


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """The trainable parameters in groups: ``backbone``, ``no_decay``, ``rest``; each with
    ``names``, ``lr``, ``base_lr``, ``weight_decay``.

    Two switches give every official grouping (docs/architecture.md, "Official quirks"):
    ``backbone_norm="backbone"`` leaves the backbone's batch norm with the backbone, decayed, at the
    backbone's rate (N, L, X); ``"base"`` moves it to the undecayed norms at the base rate (S, M,
    most of RT-DETRv2); ``"undecayed"`` makes a group of its own, ``backbone_norm``, at the
    backbone's rate (plain RT-DETRv2 r34). ``decay_bias`` says whether the biases of encoder and
    decoder decay. Every parameter is in exactly one group.
    """
    norms = _norm_parameters(model)
    groups: dict[str, dict[str, Any]] = {
        "backbone": {"lr": optim.backbone_lr, "weight_decay": optim.weight_decay},
        "backbone_norm": {"lr": optim.backbone_lr, "weight_decay": 0.0},
        "no_decay": {"lr": optim.lr, "weight_decay": 0.0},
        "rest": {"lr": optim.lr, "weight_decay": optim.weight_decay},
    }
    for name, group in groups.items():
        group.update(name=name, base_lr=group["lr"], params=[], names=[])
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = groups[_group_of(name, optim, is_norm=name in norms)]
        group["params"].append(parameter)
        group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over ``parameter_groups``; each group's ``base_lr`` is what the schedule's factor
    multiplies. Fused: one kernel a group.
    """
    return torch.optim.AdamW(
        parameter_groups(model, optim),
        lr=optim.lr,
        betas=optim.betas,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group to ``base_lr × factor``; returns the highest rate now in force."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return max(group["lr"] for group in optimizer.param_groups)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Continue from a saved state, in the groups that it was saved with: how a new run is grouped
    today must not change a run that was cut.
    """
    regroup(optimizer, saved["param_groups"])
    names = _names(saved["param_groups"])
    moments = {names[place]: moment for place, moment in saved["state"].items()}
    state = {
        place: moments[name]
        for place, name in enumerate(_names(optimizer.param_groups))
        if name in moments
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def regroup(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Deal the parameters out anew, into ``groups`` that name them. Names of parts that are no
    longer built (backbone stages that nothing reads) are left out.
    """
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    kept = [{**group, "names": [n for n in group["names"] if n in parameters]} for group in groups]
    optimizer.param_groups[:] = [
        {**group, "params": [parameters[name] for name in group["names"]]} for group in kept
    ]


def _names(groups: list[dict[str, Any]]) -> list[str]:
    """Of all parameters, in the order in which a saved state counts them."""
    return [name for group in groups for name in group["names"]]


def _norm_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that belong to a normalisation layer."""
    return frozenset(
        f"{path}.{name}"
        for path, module in model.named_modules()
        if _is_norm(module) and path not in _DECAYED_NORMS
        for name, _ in module.named_parameters(recurse=False)
    )


def _is_norm(module: nn.Module) -> bool:
    """By its class: torch's norms, this package's and other libraries' own are called …Norm or
    …Norm2d, or stem from one that is.
    """
    return any(re.search(r"Norm(\dd)?$", kind.__name__) for kind in type(module).__mro__)


def _group_of(name: str, optim: OptimConfig, *, is_norm: bool) -> str:
    if name.startswith("backbone."):
        of_norm = {"backbone": "backbone", "undecayed": "backbone_norm", "base": "no_decay"}
        return of_norm[optim.backbone_norm] if is_norm else "backbone"
    is_bias = "bias" in name and not optim.decay_bias
    return "no_decay" if is_norm or is_bias else "rest"
