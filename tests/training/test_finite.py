"""training/finite.py: a loss that is not finite is named and can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import deim_lab
from deim_lab.config.presets import preset
from deim_lab.errors import NonFiniteError
from deim_lab.losses import terms
from deim_lab.runs import Run
from deim_lab.training import checkpoint
from short_runs import FAST


def test_a_non_finite_loss_names_images_and_term_and_leaves_a_repro(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = terms.giou
    calls: list[int] = []

    def spoiled(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args, **kwargs) * (float("nan") if len(calls) > 4 else 1.0)

    monkeypatch.setattr(terms, "giou", spoiled)
    with pytest.raises(NonFiniteError) as caught:
        deim_lab.train(preset("smoke", FAST), small_set, runs_dir=tmp_path, device="cpu")
    assert "giou" in caught.value.term
    assert len(caught.value.image_ids) == 4
    assert caught.value.repro is not None
    repro = checkpoint.read(Path(caught.value.repro))
    assert repro["images"].shape == (4, 3, 64, 64)
    assert repro["image_ids"] == list(caught.value.image_ids)
    (folder,) = [path.parent for path in tmp_path.glob("*/run.json")]
    assert Run.open(folder).status == "failed"
    assert "giou" in Run.open(folder).info["error"]["message"]
