"""``deim-lab train``: a run is left and not trained again; weights and explicit paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import the_run, train_command
from deim_lab import cli
from deim_lab.config.presets import preset
from deim_lab.runs import Run, table


def test_training_leaves_a_run_and_does_not_train_it_again(
    data: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(the_run(runs_dir))
    assert run.status == "done"
    assert run.config == preset(
        "smoke",
        {
            "data.input_size": 64,
            "train.epochs": 1,
            "model.num_queries": 20,
            "model.num_denoising": 8,
        },
    )
    assert len(table(runs_dir)) == 2
    assert cli.main(train_command(data, runs_dir)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run.folder)
    assert len([item for item in runs_dir.iterdir() if (item / "run.json").exists()]) == 1


def test_training_from_weights_and_explicit_paths(
    data: Path, runs_dir: Path, tmp_path: Path
) -> None:
    paths = [
        part
        for half in ("train", "val")
        for part in (
            f"--{half}-images",
            str(data / "images" / half),
            f"--{half}-annotations",
            str(data / "annotations" / f"instances_{half}.json"),
        )
    ]
    command = [
        part
        for part in train_command(
            data, tmp_path, "--seed", "3", "--resume", "never", "--weights", str(the_run(runs_dir))
        )
        if part not in ("--data", str(data))
    ]
    assert cli.main([*command, *paths]) == 0
    assert Run.open(the_run(tmp_path)).info["seed"] == 3
