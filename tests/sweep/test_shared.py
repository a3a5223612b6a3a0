"""Common to Ray and Slurm: absent extras, values out of range, a node without the files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deim_lab.errors import ConfigError
from deim_lab.sweep import shared
from deim_lab.sweep.on_ray import RayExecutor
from deim_lab.sweep.on_slurm import SlurmExecutor
from deim_lab.sweep.spec import RunRecord, RunSpec
from moods import CLUSTER

pytestmark = CLUSTER


def test_without_slurm_or_the_extras(
    specs: Callable[..., list[RunSpec]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch is not on this machine"):
        next(SlurmExecutor(folder=tmp_path).execute(specs("well")))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"deim-lab\[slurm\]"):
        next(SlurmExecutor(folder=tmp_path).execute(specs("well")))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"deim-lab\[ray\]"):
        next(RayExecutor().execute(specs("well")))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RayExecutor, {"workers": 0}, "workers 0 is below 1"),
        (RayExecutor, {"gpus_per_run": 1.5}, "a fraction of one GPU"),
        (RayExecutor, {"gpus_per_run": -1}, "gpus_per_run -1"),
        (SlurmExecutor, {"folder": "x", "minutes": 0}, "minutes 0 is below 1"),
        (SlurmExecutor, {"folder": "x", "memory_gib": 0.5}, "memory_gib 0.5 is below 1"),
        (SlurmExecutor, {"folder": "x", "gpus_per_run": 0.5}, "whole GPUs only"),
        (SlurmExecutor, {"folder": "x", "gpus_per_run": 1, "cluster": "local"}, "the same GPUs"),
        (SlurmExecutor, {"folder": "x", "cluster": "moon"}, "cluster 'moon' is unknown"),
    ],
)
def test_values_out_of_range(kind: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_a_node_that_does_not_share_the_files(
    specs: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    (spec,) = specs("well")
    for change in ({"notebook": "/elsewhere/a.ipynb"}, {"runs_dir": "/elsewhere/runs"}):
        record = shared.run_on_node(RunSpec(**{**vars(spec), **change}))
        assert record.status == "failed"
        assert record.error is not None
        assert "/elsewhere" in record.error["message"]
        assert "share" in record.error["message"]
    (absent,) = specs("well", data="/elsewhere/set")
    record = shared.run_on_node(absent)
    assert record.error is not None
    assert "/elsewhere/set" in record.error["message"]

    done = RunRecord(index=0, arm="well", seed=0, status="done", run="a_run", where="node7")
    assert shared.arrived(spec, done, lost=0).status == "failed"
    (Path(spec.runs_dir) / "a_run").mkdir()
    assert shared.arrived(spec, done, lost=1) == RunRecord(
        index=0, arm="well", seed=0, status="done", run="a_run", where="node7", attempts=2
    )
