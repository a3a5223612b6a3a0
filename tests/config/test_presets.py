"""Presets: the resolved config and the fingerprint of each are those of its golden file."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

import golden
from deim_lab import config as configs
from deim_lab.config import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_golden_file_says(name: str) -> None:
    changes = golden.difference(name)
    assert not changes, (
        f"preset {name!r} has changed:\n{changes}\n"
        f"If you meant to change the recipe, run `{golden.WRITE}` and commit the files."
    )


def test_every_golden_file_is_of_a_preset() -> None:
    assert {path.stem for path in golden.FOLDER.glob("*.json")} == set(PRESETS)


def test_the_difference_names_the_knob_and_the_fingerprint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changed = configs.override(PRESETS["smoke"], {"loss.gamma": 2.0})
    monkeypatch.setattr(golden, "PRESETS", {"smoke": changed})
    monkeypatch.setattr(golden, "FOLDER", shutil.copytree(golden.FOLDER, tmp_path / "presets"))
    changes = golden.difference("smoke").splitlines()
    assert '-  "loss.gamma": null,' in changes
    assert '+  "loss.gamma": 2.0,' in changes
    assert f'+  "fingerprint": "{configs.fingerprint(changed)}",' in changes
    assert len([line for line in changes if line.startswith(("+ ", "- "))]) == 4
    golden.write()
    assert golden.difference("smoke") == ""
    assert [path.name for path in golden.FOLDER.iterdir()] == ["smoke.json"]


def test_a_knob_that_is_not_stored_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    renamed = dataclasses.replace(PRESETS["smoke"], preset="new")
    monkeypatch.setattr(golden, "PRESETS", {"new": renamed})
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    assert '+  "loss.gamma": null,' in golden.difference("new").splitlines()
