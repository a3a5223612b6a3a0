"""Ablation sweeps: execute every run of a grid file and keep an index of the results.

Each run is an executed notebook in its own process. ``run`` does everything. The names below
are loaded on first use, so that checks without torch stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Executor": "deim_lab.sweep.spec",
    "RunRecord": "deim_lab.sweep.spec",
    "RunSpec": "deim_lab.sweep.spec",
    "Grid": "deim_lab.sweep.grid",
    "Sweep": "deim_lab.sweep.loop",
    "LocalExecutor": "deim_lab.sweep.local",
    "prepare": "deim_lab.sweep.loop",
    "read": "deim_lab.sweep.grid",
    "run": "deim_lab.sweep.loop",
    "run_one": "deim_lab.sweep.worker",
}

__all__ = [
    "Executor",
    "Grid",
    "LocalExecutor",
    "RunRecord",
    "RunSpec",
    "Sweep",
    "prepare",
    "read",
    "run",
    "run_one",
]

if TYPE_CHECKING:
    from deim_lab.sweep.grid import Grid, read
    from deim_lab.sweep.local import LocalExecutor
    from deim_lab.sweep.loop import Sweep, prepare, run
    from deim_lab.sweep.spec import Executor, RunRecord, RunSpec
    from deim_lab.sweep.worker import run_one


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'deim_lab.sweep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
