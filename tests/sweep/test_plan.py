"""The plan: its checks, the identity of its runs, and its text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deim_lab import cli, sweep
from deim_lab.errors import ConfigError, DataError
from deim_lab.sweep import grid, plan
from sweeps import NOTEBOOK, Json, Pretended, a_grid


def test_absent_notebook_and_data_and_too_many_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist \(did you mean .*03_train\.ipynb"):
        plan.check(grid.read(a_grid(notebook=NOTEBOOK.replace("03_train", "03_trian"))))
    (tmp_path / "broken.ipynb").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="can't be read as a notebook"):
        plan.check(grid.read(a_grid(notebook=str(tmp_path / "broken.ipynb"))))
    with pytest.raises(DataError, match=r"absent' does not exist on "):
        plan.check(grid.read(a_grid(data=str(tmp_path / "absent"))))
    many = grid.read(a_grid(), seeds=range(31))
    with pytest.raises(ConfigError, match=r"62 runs \(2 arms × 31 seeds\), more than 60"):
        plan.check(many)
    plan.check(many, yes=True)
    plan.check(many, max_runs=62)


def test_weights_of_a_backbone_make_arms_and_a_second_call_knows_them(
    place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(config: Any, weights: Any) -> list[Json]:
        return (
            []
            if config.model.backbone_weights is None
            else [{"backbone": Path(config.model.backbone_weights).read_text(encoding="utf-8")}]
        )

    monkeypatch.setattr("deim_lab.weights.start.start_of", start)
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.pth", "1"), ("b.pth", "2"), ("again.pth", "1")):
        Path(name).write_text(content, encoding="utf-8")
    key = "model.backbone_weights"
    root, grid = (
        tmp_path / "runs",
        place(seeds=[0], arms={"scratch": {}, "a": {key: "a.pth"}, "b": {key: "b.pth"}}),
    )
    prepared = sweep.prepare(grid, root)
    assert prepared.grid.arms["a"] == {
        key: str(tmp_path / "a.pth")
    }  # a worker is in another folder
    assert len({item.spec.fingerprint for item in prepared.runs}) == 3
    assert len(sweep.run(grid, root, executor=Pretended()).done) == 3
    second = Pretended()
    assert len(sweep.run(grid, root, executor=second).done) == 3
    assert second.seen == []
    same = place(seeds=[0], arms={"a": {key: "a.pth"}, "again": {key: "again.pth"}})
    with pytest.raises(
        ConfigError,
        match=r"arms 'a' and 'again' differ in model\.backbone_weights alone and start from the "
        r"same weights",
    ):
        sweep.prepare(same, root, name="other")


def test_dry_run_makes_nothing(
    place: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = place(data="embedded", about="What γ does.")
    assert (
        cli.main(
            ["sweep", str(grid), "--runs", str(tmp_path / "runs"), "--dry-run", "--seeds", "4,5"]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "4 runs = 2 arms × 2 seeds" in said
    assert "What γ does." in said
    assert "4 new; time unknown: no comparable run has finished" in said
    assert not (tmp_path / "runs").exists()
