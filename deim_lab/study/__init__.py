"""The computations behind the notebooks: one module per notebook. ``figures`` draws them.

A module is loaded on first use, so that a small one (``tables``) does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["ablation", "density", "gradients", "matching", "models", "paper", "scores", "tables"]

if TYPE_CHECKING:
    from deim_lab.study import ablation, density, gradients, matching, models, paper, scores, tables


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"deim_lab.study.{name}")
    raise AttributeError(f"module 'deim_lab.study' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
