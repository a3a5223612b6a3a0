"""training/compute.py: device and memory of a process."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deim_lab.errors import ConfigError
from deim_lab.training.compute import Compute
from processes import CONTEXT


def write_memory_without_resource(path: Path) -> None:
    """Import the verbs anew, as on Windows, and write what the memory is."""
    missing: dict[str, Any] = {"resource": None}
    sys.modules.update(missing)
    for name in [name for name in sys.modules if name.partition(".")[0] == "deim_lab"]:
        del sys.modules[name]
    for name in ("train", "evaluate", "predict", "latency"):
        importlib.import_module(f"deim_lab.cli.{name}")
    for name in ("inference.latency", "inference.predict", "training.compute", "training.loop"):
        importlib.import_module(f"deim_lab.{name}")
    module = importlib.import_module("deim_lab.training.compute")
    memory = module.Compute(torch.device("cpu"), "fp32").peak_memory_mib()
    path.write_text(str(memory), encoding="utf-8")


def test_without_the_module_resource_memory_is_unknown_and_all_else_works(tmp_path: Path) -> None:
    process = CONTEXT.Process(target=write_memory_without_resource, args=(tmp_path / "memory",))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "memory").read_text(encoding="utf-8") == "nan"


def test_peak_memory_of_the_process() -> None:
    pytest.importorskip("resource")
    assert 50 < Compute(torch.device("cpu"), "fp32").peak_memory_mib() < 1_000_000


@pytest.mark.parametrize(
    ("visible", "refused"), [("97", True), ("GPU-1,2", True), ("", False), ("-1", False)]
)
def test_auto_does_not_take_the_cpu_where_a_gpu_was_given(
    visible: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deim_lab.training import compute

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.resolve("cpu", "auto").device.type == "cpu"
    with (
        pytest.raises(ConfigError, match=f"CUDA_VISIBLE_DEVICES={visible} assigns")
        if refused
        else contextlib.nullcontext()
    ):
        assert compute.resolve("auto", "auto").device.type == "cpu"
