"""training/checkpoint.py: a truncated file costs one interval."""

from __future__ import annotations

from pathlib import Path

import pytest

import deim_lab
from deim_lab.config.presets import preset
from deim_lab.errors import WeightsError
from deim_lab.runs import Run
from deim_lab.training import checkpoint
from short_runs import FAST, CutError, cut_at, losses_of


def test_a_truncated_checkpoint_costs_one_interval(
    small_set: Path, whole: Run, tmp_path: Path
) -> None:
    config = preset("smoke", FAST)
    with pytest.raises(CutError):
        deim_lab.train(
            config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu", on_event=cut_at(10)
        )
    (last,) = (tmp_path / "cut").glob("*/checkpoints/last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    resumed = deim_lab.train(config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu")
    assert {s: r for s, *r in losses_of(resumed)} == {s: r for s, *r in losses_of(whole)}
    for path in (last, last.with_name(checkpoint.PREVIOUS)):
        path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match=r"last\.pt"):
        checkpoint.read_last(last.parent)
