"""Shared by the tests of inference/: a short video, a detector to export and its exported file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clips import write_video
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.inference.export import export_onnx
from deim_lab.weights.own import LoadedDetector
from exports import loaded_of


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4")


@pytest.fixture(scope="session")
def untrained() -> Detector:
    """A small detector with its initial weights."""
    torch.manual_seed(0)
    return build_detector("smoke", 3).eval()


@pytest.fixture(scope="session")
def smoke() -> LoadedDetector:
    """A small detector as if trained."""
    return loaded_of("smoke")


@pytest.fixture(scope="session")
def file(smoke: LoadedDetector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``smoke`` as an ONNX file."""
    path = tmp_path_factory.mktemp("onnx") / "smoke.onnx"
    export_onnx(smoke, path)
    return path
