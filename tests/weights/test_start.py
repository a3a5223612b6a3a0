"""weights/start.py: what a run starts from is a part of its identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deim_lab.config import fingerprint
from deim_lab.detector.backbones import build_backbone
from deim_lab.errors import ConfigError
from deim_lab.training.loop import train
from deim_lab.weights.own import save_weights
from deim_lab.weights.start import start_of
from small_backbones import config, shaken
from small_detectors import CATEGORIES, small, smoke_config


@pytest.mark.numeric
def test_content_is_the_identity_and_not_the_path(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("same", 0), ("other", 1)):
        torch.save(
            shaken(build_backbone(config("hgnetv2_b0").model), seed).state_dict(), tmp_path / name
        )
    torch.save(torch.load(tmp_path / "a"), tmp_path / "same")

    def identity(source: str | None, weights: str | None = None) -> str:
        chosen = config("hgnetv2_b0", source and str(tmp_path / source))
        return fingerprint(chosen, *start_of(chosen, weights))

    (tmp_path / "same").write_bytes((tmp_path / "a").read_bytes())
    assert identity("a") == identity("same")
    assert len({identity("a"), identity("other"), identity(None)}) == 3
    assert identity(None) == fingerprint(config("hgnetv2_b0"))
    assert identity("a", str(tmp_path / "other")) == identity(
        None, str(tmp_path / "other")
    )  # a whole detector's weights bring a backbone


def test_weights_and_backbone_weights_exclude_each_other(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.pt", small(seed=4), config=smoke_config(), categories=CATEGORIES)
    with pytest.raises(ConfigError, match=r"model\.backbone_weights='timm' and weights="):
        train(
            smoke_config(backbone_weights="timm"),
            runs_dir=tmp_path / "runs",
            weights=tmp_path / "own.pt",
            device="cpu",
        )
    assert not (tmp_path / "runs").exists()
