"""Shared by the tests of training/: a small data set, and a whole run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

import deim_lab
from deim_lab.config.presets import preset
from deim_lab.data import synthetic
from deim_lab.runs import Run
from short_runs import FAST


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("data") / "set",
        train_images=18,
        val_images=6,
        size_px=(64, 64),
        seed=3,
    )


@pytest.fixture(scope="session")
def whole(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of ``FAST`` with seed 1 that nothing cut."""
    folder = tmp_path_factory.mktemp("whole")
    return deim_lab.train(preset("smoke", FAST), small_set, seed=1, runs_dir=folder, device="cpu")
