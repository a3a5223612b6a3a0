"""Shared by the tests of the command line: a small set, a run on it, its detector."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from command_line import the_run, train_command
from deim_lab import cli
from deim_lab.data import synthetic
from deim_lab.detector.detector import build_detector
from deim_lab.weights.own import load_detector, load_weights, save_weights


@pytest.fixture(autouse=True)
def _quiet_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of main sets up logging anew, as in a process of its own."""
    monkeypatch.setattr(logging.root, "handlers", [])


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("cli") / "toy", train_images=8, val_images=4, size_px=(64, 64)
    )


@pytest.fixture(scope="session")
def runs_dir(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run, trained by the command."""
    folder = tmp_path_factory.mktemp("cli_runs")
    assert cli.main(train_command(data, folder)) == 0
    return folder


@pytest.fixture(scope="session")
def permuted(runs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector of the run, its classes in an order other than that of their ids."""
    loaded = load_detector(the_run(runs_dir))
    categories = [loaded.categories[row] for row in (3, 0, 4, 2, 1)]
    model = build_detector(loaded.config, len(categories))
    load_weights(model, the_run(runs_dir), categories=categories)
    path = tmp_path_factory.mktemp("permuted") / "permuted.pt"
    save_weights(path, model, config=loaded.config, categories=categories)
    return path
