"""training/compute.py: device and memory of a process."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import torch

from deim_lab.errors import ConfigError
from deim_lab.training.compute import Compute

VERBS_WITHOUT_RESOURCE = """
import sys

sys.modules["resource"] = None  # as on Windows
import importlib

for name in ("train", "evaluate", "predict", "latency"):
    importlib.import_module(f"deim_lab.cli.{name}")
import torch

from deim_lab.inference import latency, predict
from deim_lab.training import compute, loop

print(compute.Compute(torch.device("cpu"), "fp32").peak_memory_mib())
"""


def test_without_the_module_resource_memory_is_unknown_and_all_else_works() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", VERBS_WITHOUT_RESOURCE],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (answer.returncode, answer.stdout.strip()) == (0, "nan"), answer.stderr


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
