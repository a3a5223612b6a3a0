"""The command line as a whole: help, bad input as one clear line, tracebacks."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import the_run
from deim_lab import cli


def test_help_is_quick_and_complete() -> None:
    heavy = (
        "torch",
        "torchvision",
        "pandas",
        "scipy",
        "matplotlib",
        "pycocotools",
        "numpy",
        "PIL",
        "tqdm",
    )
    code = (
        "import sys; from deim_lab import cli\ntry: cli.main(['--help'])\nexcept SystemExit as "
        "end: assert end.code == 0\n"
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert "HEAVY []" in answer
    for verb in ("train", "evaluate", "predict", "doctor", "presets", "demo"):
        assert verb in answer


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --preset deim_dfine_nn", "did you mean 'deim_dfine_n'"),
        ("train --set schedule.epoches=3", "did you mean 'train.epochs'"),
        ("train --set train.epochs", "is not KEY=VALUE"),
        ("train --set data.input_size=100", "not a multiple of 32"),
        ("train --preset smoke --data {tmp}/absent", "absent' does not exist"),
        ("train --preset smoke --data {tmp} --train-images x", "exclude each other"),
        (
            "train --preset smoke --train-images x",
            "missing: --train-annotations, --val-images, --val-annotations",
        ),
        ("train --preset smoke --data {data} --device cudo", "did you mean 'cuda'"),
        ("train --preset smoke --data {data} --resume {tmp}/absent", "absent does not exist"),
        ("train --preset smoke --data {data} --weights {tmp}/absent.pth", "absent.pth"),
        ("evaluate {tmp}/absent.pt --data {data}", "absent.pt"),
        ("evaluate {tmp} --data {data}", "Expected a run folder"),
        ("train --preset smoke --data {data} --device cuda:x", "cuda:x"),
        ("evaluate {run} --device tpu", "device 'tpu' is unknown"),
        ("evaluate --data {data}", "takes one RUN_OR_WEIGHTS"),
        ("evaluate {run} --weights {run}", "takes one RUN_OR_WEIGHTS"),
        ("evaluate --weights {tmp}/absent.pt --data {data}", "absent.pt"),
        ("evaluate {run}", "Give its place with --data"),
        ("evaluate {run} --preset smoke --data {data}", "is a run folder with its own preset"),
        ("evaluate {run} --data {data} --categories {tmp}/x.json", "needs --preset"),
        ("predict {run} {tmp}/absent.jpg --out {tmp}/o", "none of the 1 pictures can be read"),
        ("predict {run} {tmp}/*.jpg", "no file matches"),
        ("doctor --data {tmp}", "has no images/train"),
        ("presets smok", "did you mean 'smoke'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    command: str,
    message: str,
    data: Path,
    runs_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command.format(tmp=tmp_path, data=data, run=the_run(runs_dir)).split()
    more = ["--runs", str(tmp_path / "runs")] if words[0] in ("train", "evaluate", "doctor") else []
    assert cli.main([*words, *more]) == 2
    told = capsys.readouterr()
    error = [
        line for line in told.err.splitlines() if line.startswith(f"deim-lab {words[0]}: error: ")
    ]
    assert len(error) == 1
    assert message in error[0]
    assert "Traceback" not in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--seed", "-1"],
        ["train", "--seed", "x"],
        ["evaluate", "r", "--limit", "0"],
        ["predict", "r", "i", "--threshold", "2"],
        ["predict", "r", "i", "--threshold", "nan"],
        ["predict", "r"],
        ["trian"],
        [],
        ["train", "--epochs", "3"],
    ],
)
def test_wrong_options_are_refused_by_the_parser(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "error" in capsys.readouterr().err


def test_debug_shows_the_traceback_and_other_errors_are_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        cli.main(["presets", "smok", "--debug"])

    def bug(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(importlib.import_module("deim_lab.cli.presets"), "run", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["presets"])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("deim_lab.cli.presets"), "run", stop)
    assert cli.main(["presets"]) == 130
    assert "interrupted" in capsys.readouterr().err
