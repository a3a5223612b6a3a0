"""``deim-lab presets`` and ``deim-lab doctor`` print what they are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deim_lab import cli
from deim_lab.config.presets import PRESETS


def test_doctor_and_presets(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(
            ["doctor", "--data", str(data), "--preset", "smoke", "--set", "model.num_queries=5"]
        )
        == 0
    )
    assert "queries" in capsys.readouterr().out
    assert cli.main(["presets"]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in PRESETS)
    assert cli.main(["presets", "smoke"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["epochs"] == 2
