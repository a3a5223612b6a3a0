"""GPU ids: the visible ones, lists of them, and the runs of a sweep that get them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deim_lab.errors import ConfigError
from deim_lab.host import gpus
from deim_lab.sweep import grid, loop
from sweeps import a_grid


def test_gpus_are_those_that_are_visible_and_none_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-77,-1,3")
    assert gpus.visible() == ("2", "GPU-77")
    assert loop.gpus_for(grid.read(a_grid()), None) == ("2", "GPU-77")
    assert loop.gpus_for(grid.read(a_grid(parameters={"device": "cpu"})), None) == ()
    assert loop.gpus_for(grid.read(a_grid(base={"train.device": "cpu"})), ["0"]) == ()
    with pytest.raises(ConfigError, match="device 'cuda:1' names a GPU"):
        loop.gpus_for(grid.read(a_grid(parameters={"device": "cuda:1"})), None)
    assert loop.gpus_for(grid.read(a_grid(parameters={"device": "cuda:1"})), []) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.visible() == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus.visible() == ("0", "1")
    tool.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    assert gpus.visible() == ()


@pytest.mark.parametrize(
    "listed",
    [
        "",
        " ",
        ",",
        "0,,1",
        "0, ",
        "0,0",
        "0, 0",
        "-1",
        "0,-1",
        "NoDevFiles",
        "0,none",
        [""],
        ["0", " "],
        ["0", "0"],
        ["-1"],
    ],
)
def test_gpus_that_name_none_are_refused(
    listed: str | list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUDA takes such an entry for no GPU, so that every run would train on the CPU."""
    from deim_lab import cli
    from deim_lab.sweep.local import LocalExecutor

    content = a_grid(parameters={"device": "cpu"})
    with pytest.raises(ConfigError, match="leave it out") as caught:
        loop.gpus_for(grid.read(content), listed)
    assert repr(listed) in str(caught.value)
    assert "`0,1`" in str(caught.value)
    with pytest.raises(ConfigError, match="leave it out"):
        loop.run(content, tmp_path / "runs", gpus=listed)
    with pytest.raises(ConfigError, match="leave it out"):
        LocalExecutor(2, listed)
    if isinstance(listed, str):
        (tmp_path / "g.json").write_text(json.dumps(a_grid()), encoding="utf-8")
        words = [
            "sweep",
            str(tmp_path / "g.json"),
            "--runs",
            str(tmp_path / "runs"),
            f"--gpus={listed}",
        ]
        for more in ([], ["--dry-run"]):
            assert cli.main([*words, *more]) == 2
            assert f"gpus {listed!r}" in capsys.readouterr().err


def test_gpus_are_listed_as_text_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from deim_lab.sweep.local import LocalExecutor

    resolved = grid.read(a_grid())
    for listed in ("0, GPU-77", ["0", "GPU-77"], (" 0 ", "GPU-77")):
        assert loop.gpus_for(resolved, listed) == ("0", "GPU-77")
        assert LocalExecutor(2, listed).gpus == ("0", "GPU-77")
    assert loop.gpus_for(resolved, "none") == loop.gpus_for(resolved, []) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # means no GPU, and is nothing to refuse
    assert loop.gpus_for(resolved, None) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,1,0")  # each GPU counts once
    assert LocalExecutor(2, loop.gpus_for(resolved, None)).gpus == ("1", "0")
