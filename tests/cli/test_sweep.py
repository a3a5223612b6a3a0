"""``deim-lab sweep``: errors before torch is imported, and options of the executors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deim_lab.sweep import loop
from places import ROOT
from sweeps import a_grid


def test_bad_input_is_said_on_the_command_line_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(
        json.dumps(a_grid(axes={"loss.weight_gio": [1, 2]})), encoding="utf-8"
    )
    code = (
        "import sys; from deim_lab import cli; rc = cli.main(sys.argv[1:]);"
        "print(rc, [m for m in ('torch', 'pandas', 'papermill', 'numpy') if m in sys.modules])"
    )
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "sweep",
            str(tmp_path / "g.json"),
            "--runs",
            str(tmp_path / "runs"),
        ],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert answer.stdout.strip() == "2 []"
    assert "deim-lab sweep: error:" in answer.stderr
    assert "did you mean 'loss.weight_giou'?" in answer.stderr
    assert not (tmp_path / "runs").exists()
    (tmp_path / "g.json").write_text(
        json.dumps(a_grid(data=str(tmp_path / "absent"))), encoding="utf-8"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, "sweep", str(tmp_path / "g.json")],
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd=ROOT,
    )
    assert answer.stdout.strip() == "2 []"


@pytest.mark.parametrize(
    "options",
    [
        ["--address", "x:1"],
        ["--gpus-per-run", "0.5"],
        ["--executor", "ray", "--partition", "p"],
        ["--executor", "slurm", "--gpus", "0"],
        ["--cpus", "4"],
        ["--executor", "ray", "--memory", "8"],
        ["--sbatch", "qos=long"],
        ["--executor", "ray", "--cluster", "local"],
    ],
)
def test_an_option_of_another_executor_is_refused(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from deim_lab import cli

    assert cli.main(["sweep", "any.yaml", *options]) == 2
    assert "belongs to --executor" in capsys.readouterr().err


def test_what_slurm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deim_lab import cli
    from deim_lab.sweep.on_slurm import SlurmExecutor

    seen: list[Any] = []
    result = SimpleNamespace(
        rows=[{"arm": "a", "seed": 0, "status": "done", "run": "r"}],
        done=["a"],
        failed=[],
        folder=tmp_path,
    )

    def ran(_grid: Any, _runs: Any, *, executor: Any, **_others: Any) -> Any:
        seen.append(executor)
        return result

    monkeypatch.setattr(loop, "run", ran)
    (tmp_path / "g.json").write_text(json.dumps(a_grid()), encoding="utf-8")
    words = [
        "sweep",
        str(tmp_path / "g.json"),
        "--runs",
        str(tmp_path),
        "--executor",
        "slurm",
        "--workers",
        "3",
    ]
    folder = tmp_path / "sweeps" / "g" / "slurm"
    for more in (
        [
            "--partition",
            "gpu",
            "--minutes",
            "90",
            "--cpus",
            "6",
            "--memory",
            "24.5",
            "--sbatch",
            "account=vision",
            "--sbatch",
            "nice=5",
        ],
        ["--cluster", "local"],
        [],
    ):
        assert cli.main([*words, *more]) == 0
    assert seen == [
        SlurmExecutor(
            folder,
            3,
            "gpu",
            minutes=90,
            gpus_per_run=1,
            memory_gib=24.5,
            cpus_per_run=6,
            options=(("account", "vision"), ("nice", 5)),
        ),
        SlurmExecutor(folder, 3, cluster="local"),
        SlurmExecutor(folder, 3, gpus_per_run=1),
    ]
