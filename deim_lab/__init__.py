"""Detector, matching, losses and Dense O2O of DEIM, to read, measure and extend.

The names below are loaded on first use, so that ``import deim_lab`` (and ``deim-lab --help``) stays
quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deim_lab import _moved

__version__ = "0.2.0"

_LAZY = {
    "PRESETS": "deim_lab.config.presets",
    "preset": "deim_lab.config.presets",
    "build_detector": "deim_lab.detector.detector",
    "export_official": "deim_lab.weights.own",
    "load_official": "deim_lab.weights.own",
    "train": "deim_lab.training.loop",
}
_ROOMS = (
    "boxes",
    "structures",
    "config",
    "schedule",
    "augment",
    "data",
    "detector",
    "weights",
    "matching",
    "losses",
    "evaluation",
    "inference",
    "runs",
    "training",
    "sweep",
    "study",
    "figures",
    "widgets",
)

__all__ = [
    "PRESETS",
    "__version__",
    "augment",
    "boxes",
    "build_detector",
    "config",
    "data",
    "detector",
    "evaluation",
    "export_official",
    "figures",
    "inference",
    "load_official",
    "losses",
    "matching",
    "preset",
    "runs",
    "schedule",
    "structures",
    "study",
    "sweep",
    "train",
    "training",
    "weights",
    "widgets",
]

if TYPE_CHECKING:
    from deim_lab.config.presets import PRESETS, preset
    from deim_lab.detector.detector import build_detector
    from deim_lab.training.loop import train
    from deim_lab.weights.own import export_official, load_official


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS or f"deim_lab.{name}" in _moved.MOVED:
        return importlib.import_module(f"deim_lab.{name}")
    raise AttributeError(f"module 'deim_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


_moved.install()
