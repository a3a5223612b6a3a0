"""The command line on streams that are closed or lack signs: quiet, and with the right status."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from deim_lab import cli
from deim_lab.cli import options, presets


def lab_to_closed_pipe(
    arguments: Sequence[str], *, both: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the command line with a standard output that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [sys.executable, "-m", "deim_lab.cli", *arguments],
            stdout=write,
            stderr=write if both else subprocess.PIPE,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
    finally:
        os.close(write)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["presets"], 141),
        (["train", "--help"], 0),  # argparse itself passes over a closed pipe
        (["train", "--preset", "absent"], 2),  # nothing goes to the closed one
    ],
)
def test_a_closed_pipe_ends_quietly(arguments: list[str], status: int) -> None:
    ended = lab_to_closed_pipe(arguments)
    assert ended.returncode == status
    assert ended.stderr.startswith("deim-lab train: error:") if status == 2 else not ended.stderr


def test_a_closed_pipe_for_both_streams_ends_with_the_same_status() -> None:
    assert lab_to_closed_pipe(["presets"], both=True).returncode == 141
    assert lab_to_closed_pipe(["train", "--preset", "absent"], both=True).returncode == 141


def test_a_broken_pipe_of_the_lab_itself_is_still_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(presets, "run", broken)
    with pytest.raises(BrokenPipeError):
        cli.main(["presets"])


def test_a_terminal_without_a_sign_shows_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "latin-1", "cp1252"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert cli.main(["presets"]) == 0
        options.out("γ ≥ 2 → 细胞")
        sys.stdout.flush()
        assert raw.getvalue().decode(encoding).endswith("? ? 2 ? ??\n")
