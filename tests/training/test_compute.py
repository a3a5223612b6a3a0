"""Device, precision and memory of a process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

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
