"""Old module paths: every module that moved can be imported from its old path until 0.3.0.

``MOVED`` is the one table. ``install`` adds a finder to the end of ``sys.meta_path``, so a real
module always wins. The old path gives a proxy, which looks up each name in the new modules.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Mapping, Sequence

from deim_lab.errors import nearest

REMOVED_IN = "0.3.0"

_NEW_PATHS = {
    "values": "config.values",
    "presets": "config.presets",
    "gpus": "host.gpus",
    "images": "data.images",
    "demo": "cli.demo study.ablation",
    "coco80": "weights.coco80",
    "detector.layout": "weights.layout",
    "detector.fill": "weights.fill",
    "detector.classes": "weights.classes",
    "detector.hub": "weights.hub",
    "detector.weights": "weights.own",
    "detector.pretrained": "weights.backbone weights.start",
    "detector.predict": "inference.predict detections",
    "detector.video": "inference.video",
    "detector.onnx_file": "inference.onnx_file",
    "detector.export": "inference.export",
    "latency": "inference.latency",
    "flops": "inference.flops",
    "matcher": "matching.hungarian matching.assignment",
    "one_to_many": "matching.simota",
    "criterion": "losses.criterion matching.assignment",
    "evaluate": "evaluation.scores evaluation.thresholds evaluation.detector evaluation.backends",
    "augment.density": "study.density augment.sampling",
    "microscope": "study.matching",
    "zoo": "study.models",
    "scoring": "study.scores",
    "tables": "study.tables",
    "measured": "study.paper.measured",
    "reported": "study.paper.reported",
    "figures.claims": "study.gradients.claims",
    "compare": "study.ablation",
    "compare.activity": "study.ablation.activity",
    "compare.arms": "study.ablation.arms",
    "compare.reading": "study.ablation.reading study.ablation.grouping",
    "compare.statistics": "study.ablation.statistics",
    "compare.verdict": "study.ablation.verdict",
    "compare.views": "study.ablation.views study.ablation.standings study.ablation.words",
}

# Old module → the new modules in which its names are looked up, in this order.
MOVED: dict[str, tuple[str, ...]] = {
    f"deim_lab.{old}": tuple(f"deim_lab.{path}" for path in new.split())
    for old, new in _NEW_PATHS.items()
}

_IMPORT_MACHINERY = ("importlib", "_frozen_importlib", "_frozen_importlib_external")


def install(table: Mapping[str, tuple[str, ...]] = MOVED) -> None:
    """Let the old paths of ``table`` be imported; with the same table again, do nothing."""
    if not any(isinstance(item, Finder) and item.table == table for item in sys.meta_path):
        sys.meta_path.append(Finder(table))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Find the old paths of a table, and load a proxy for each with a ``DeprecationWarning``."""

    def __init__(self, table: Mapping[str, tuple[str, ...]]) -> None:
        self.table = table

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.table:
            return None
        is_package = any(old.startswith(f"{fullname}.") for old in self.table)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=is_package)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Proxy(spec.name, self.table)

    def exec_module(self, module: types.ModuleType) -> None:
        _warn(module.__name__, self.table[module.__name__])


class _Proxy(types.ModuleType):
    """An old module: its names are those of the new modules, loaded on first use."""

    def __init__(self, old: str, table: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(old, f"Moved to {_listed(table[old])}.")
        self._new = table[old]
        prefix = f"{old}."
        self._children = {path.removeprefix(prefix) for path in table if path.startswith(prefix)}

    def __getattr__(self, name: str) -> object:
        if name == "__all__":
            return self._names()
        if name.startswith("__"):  # asked of every module by tools: no reason to load the new one
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        for module in self._modules():
            if hasattr(module, name):
                return getattr(module, name)
        if name in self._children:
            return importlib.import_module(f"{self.__name__}.{name}")
        raise AttributeError(
            f"Module {self.__name__!r} moved to {_listed(self._new)}. "
            f"Neither the old nor the new path has {name!r}{nearest(name, dir(self))}."
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Ignore what an import sets for a child: it would hide a name of the new module."""
        if not isinstance(value, _Proxy):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self._names(), *self._children})

    def _names(self) -> list[str]:
        return sorted({name for module in self._modules() for name in _public(module)})

    def _modules(self) -> list[types.ModuleType]:
        return [importlib.import_module(path) for path in self._new]


def _public(module: types.ModuleType) -> list[str]:
    names = getattr(module, "__all__", None)
    return list(names) if names else [name for name in dir(module) if not name.startswith("_")]


def _warn(old: str, new: Sequence[str]) -> None:
    """Warn at the line whose import led here, whatever lies between that line and the loader."""
    frame: types.FrameType | None = sys._getframe(1)
    requested = old
    while frame is not None and _is_between(frame):
        requested = str(frame.f_locals.get("name", requested))  # the outermost import's is the last
        frame = frame.f_back
    if frame is None or requested.startswith(f"{old}."):  # a parent only: the child will warn
        return
    warnings.warn_explicit(
        f"{old} is now {_listed(new)}. The old path will be removed in {REMOVED_IN}.",
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__", "<unknown>"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _is_between(frame: types.FrameType) -> bool:
    """Whether a frame is of the import machinery, this module or ``deim_lab.__getattr__``."""
    module = str(frame.f_globals.get("__name__"))
    return module in (__name__, "deim_lab") or module.partition(".")[0] in _IMPORT_MACHINERY


def _listed(paths: Sequence[str]) -> str:
    return " and ".join(paths)
