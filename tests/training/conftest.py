"""Shared by the tests of training/: a small data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from deim_lab.data import synthetic


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("data") / "set",
        train_images=18,
        val_images=6,
        size_px=(64, 64),
        seed=3,
    )
