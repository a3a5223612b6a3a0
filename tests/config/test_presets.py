"""Presets: config and fingerprint are those of the golden file; the official numbers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

import golden
from deim_lab import config as configs
from deim_lab.config.presets import PRESETS, preset
from deim_lab.errors import ConfigError


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


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="deim_dfine_n"):
        preset("deim_dfine_nano")
    with pytest.raises(KeyError):
        PRESETS["nope"]


def test_official_numbers_of_the_recipes() -> None:
    large = preset("deim_dfine_l")
    assert (
        large.train.epochs,
        large.optim.lr,
        large.optim.backbone_lr,
        large.optim.weight_decay,
    ) == (58, 5e-4, 2.5e-5, 1.25e-4)
    assert preset("deim_dfine_x").model.reg_scale == 8.0
    assert preset("dfine_x").model.freeze_backbone_norm
    assert not preset("deim_dfine_x").model.freeze_backbone_norm
