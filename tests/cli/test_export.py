"""``deim-lab export``: what it prints and writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from clips import save_detector
from deim_lab import cli


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("weights"))


def test_export_says_what_it_wrote(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "square.png"
    cv2.imwrite(
        str(picture), np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    )
    out = tmp_path / "deep" / "m.onnx"
    assert (
        cli.main(
            [
                "export",
                str(weights),
                "--out",
                str(out),
                "--size",
                "64",
                "128",
                "--raw",
                "--check-images",
                str(picture),
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("MiB, opset 17, images [batch, 3, 64, 128]")
    assert "px of PyTorch's" in lines[1]
    assert lines[-1] == str(out)
    assert out.is_file()
