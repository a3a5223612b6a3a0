"""AdamW with the parameter groups of the official recipes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deim_lab.config import OptimConfig


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
        group = groups[_group_of(name, optim)]
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


def _group_of(name: str, optim: OptimConfig) -> str:
    is_norm = "norm" in name or "bn" in name
    if name.startswith("backbone."):
        return (
            {"backbone": "backbone", "undecayed": "backbone_norm", "base": "no_decay"}[
                optim.backbone_norm
            ]
            if is_norm
            else "backbone"
        )
    is_bias = "bias" in name and not optim.decay_bias
    return "no_decay" if is_norm or is_bias else "rest"
