"""Shared by the tests of the matching study: a small set and its train half."""

from __future__ import annotations

from pathlib import Path

import pytest

from deim_lab.data import synthetic
from deim_lab.data.coco import CocoDataset, open_source, resolve


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("data") / "set",
        train_images=12,
        val_images=4,
        size_px=(64, 64),
        seed=3,
    )


@pytest.fixture(scope="session")
def dataset(small_set: Path) -> CocoDataset:
    return open_source(resolve(small_set, cache_dir=small_set.parent))[0]
