"""AdamW with the parameter groups of the official recipes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from deim_lab.config import OptimConfig

# Norms with weight decay: DEIMv2's pattern misses these two norms of its lite encoder.
_DECAYED_NORMS = ("encoder.down_sample1.2", "encoder.down_sample2.2")


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Divide the trainable parameters into the groups of the official recipes.

    The groups are ``backbone``, ``backbone_norm``, ``no_decay`` and ``rest``. Each group has
    ``names``, ``lr``, ``base_lr``, ``weight_decay``. Every parameter is in exactly one group; empty
    groups are left out. Two switches give every official grouping (docs/architecture.md, "Official
    quirks"). The first is ``backbone_norm``, the group of the backbone's batch norm:

    - ``"backbone"``: with the backbone, decayed, at the backbone's rate (N, L, X).
    - ``"base"``: with the undecayed norms at the base rate (S, M, most of RT-DETRv2).
    - ``"undecayed"``: in a separate group ``backbone_norm``, at the backbone's rate (plain
      RT-DETRv2 r34).

    The second, ``decay_bias``, sets whether the biases of encoder and decoder decay.
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
    """AdamW over ``parameter_groups``, fused: one kernel per group.

    The schedule's factor multiplies each group's ``base_lr``.
    """
    return torch.optim.AdamW(
        parameter_groups(model, optim),
        lr=optim.lr,
        betas=optim.betas,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set the rate of every group to ``base_lr × factor``; return the highest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return max(group["lr"] for group in optimizer.param_groups)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Continue from a saved state, with the groups of that state.

    A new grouping in the code must not change a run that was interrupted.
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
    """Move the parameters into ``groups``, which name them.

    Names of parts that are no longer built (unused backbone stages) are left out.
    """
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    built = [{**group, "names": [n for n in group["names"] if n in parameters]} for group in groups]
    optimizer.param_groups[:] = [
        {**group, "params": [parameters[name] for name in group["names"]]} for group in built
    ]


def _names(groups: list[dict[str, Any]]) -> list[str]:
    """Names of all parameters, in the order in which a saved state counts them."""
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
    """Whether a module is a norm: its class or a base class is named …Norm or …Norm2d.

    This holds for the norms of torch, of this package and of other libraries.
    """
    return any(re.search(r"Norm(\dd)?$", kind.__name__) for kind in type(module).__mro__)


def _group_of(name: str, optim: OptimConfig, *, is_norm: bool) -> str:
    if name.startswith("backbone."):
        of_norm = {"backbone": "backbone", "undecayed": "backbone_norm", "base": "no_decay"}
        return of_norm[optim.backbone_norm] if is_norm else "backbone"
    is_bias = "bias" in name and not optim.decay_bias
    return "no_decay" if is_norm or is_bias else "rest"
