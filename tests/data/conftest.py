"""Shared by the data tests: a folder with two images in both halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from small_coco import content_of, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for name, size in (("a.png", (30, 40, 3)), ("b.png", (20, 20, 3))):
            Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(
                tmp_path / "images" / split / name
            )
        write(tmp_path, content_of(), split)
    return tmp_path
