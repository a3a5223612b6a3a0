"""DEIM Lab: detector, matching, losses and Dense O2O of DEIM, made to be read, measured and
extended.

The names below are loaded on first use, so that ``import deim_lab`` (and ``deim-lab --help``) stays
quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "PRESETS": "deim_lab.presets",
    "preset": "deim_lab.presets",
    "build_detector": "deim_lab.detector.detector",
    "export_official": "deim_lab.detector.weights",
    "load_official": "deim_lab.detector.weights",
    "train": "deim_lab.training.loop",
}
_ROOMS = (
    "boxes",
    "structures",
    "config",
    "presets",
    "schedule",
    "data",
    "augment",
    "detector",
    "matcher",
    "losses",
    "criterion",
    "training",
    "evaluate",
    "runs",
    "sweep",
    "compare",
    "figures",
    "widgets",
)

__all__ = [
    "PRESETS",
    "__version__",
    "augment",
    "boxes",
    "build_detector",
    "compare",
    "config",
    "criterion",
    "data",
    "detector",
    "evaluate",
    "export_official",
    "figures",
    "load_official",
    "losses",
    "matcher",
    "preset",
    "presets",
    "runs",
    "schedule",
    "structures",
    "sweep",
    "train",
    "training",
    "widgets",
]

if TYPE_CHECKING:
    from deim_lab.detector.detector import build_detector
    from deim_lab.detector.weights import export_official, load_official
    from deim_lab.presets import PRESETS, preset
    from deim_lab.training.loop import train


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"deim_lab.{name}")
    raise AttributeError(f"module 'deim_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
