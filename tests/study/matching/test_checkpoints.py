"""A run looked back on: checkpoints, quality of pairs, stability on cases known beforehand."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import deim_lab
from deim_lab.config.presets import preset
from deim_lab.data.coco import CocoDataset
from deim_lab.errors import DataError
from deim_lab.study import matching
from matching_views import CONFIG, view_of


def test_stability_knows_queries_by_their_anchor() -> None:
    before = view_of([7, 8, 9], [(0, 0), (1, 1), (2, 2)])
    assert matching.stability(before, before) == {"layer_0": 0.0}
    reranked = view_of([9, 7, 8], [(1, 0), (2, 1), (0, 2)])
    assert matching.stability(before, reranked) == {"layer_0": 0.0}, (
        "another rank is no other query"
    )
    swapped = view_of([7, 8, 9], [(1, 0), (0, 1), (2, 2)])
    assert matching.stability(before, swapped) == {"layer_0": pytest.approx(2 / 3)}
    fewer = view_of([7, 8, 9], [(0, 1)])
    assert matching.stability(before, fewer) == {"layer_0": 1.0}, "of the targets matched in both"
    table = matching.stability_over({0: before, 3: swapped, 4: swapped})
    assert table["changed"].tolist() == [pytest.approx(2 / 3), 0.0]
    assert table["epoch"].tolist() == [3, 4]
    with pytest.raises(ValueError, match="different images or levels"):
        matching.stability(before, replace(before, levels=("layer_1",)))


def test_low_quality_is_the_share_below_a_half() -> None:
    pairs = pd.DataFrame(
        {"epoch": [0, 0, 0, 1], "level": ["a", "a", "b", "a"], "iou": [0.49, 0.5, 0.1, 0.9]}
    )
    found = matching.low_quality(pairs)
    assert found.to_dict("list") == {
        "epoch": [0, 0, 1],
        "level": ["a", "b", "a"],
        "share": [0.5, 1.0, 0.0],
        "pairs": [2, 1, 1],
    }


def test_looking_back_over_a_run(
    small_set: Path, dataset: CocoDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fast = {
        "data.batch_size": 4,
        "data.input_size": 64,
        "model.num_queries": 20,
        "model.num_denoising": 8,
        "train.epochs": 3,
        "train.eval_every": 2,
        "train.threads": 1,
        "augment.mosaic_prob": 0.0,
    }
    batch = matching.fixed_batch(dataset, range(4), CONFIG)
    kept = deim_lab.train(
        preset("smoke", fast | {"train.keep_checkpoints": "all"}),
        small_set,
        runs_dir=tmp_path / "a",
        device="cpu",
    )
    views = matching.look_back(kept.folder, *batch)
    assert list(views) == [0, 1, 2]
    assert not torch.equal(views[0].scores, views[2].scores)
    pairs = matching.pairs_over(views)
    assert set(pairs["epoch"]) == {0, 1, 2}
    growth = matching.positives_over(kept.folder, dataset, CONFIG, samples=4)
    assert growth["epoch"].tolist() == [0, 0, 1, 1, 2, 2]
    assert growth.columns.tolist() == [
        "method",
        "targets",
        "positives",
        "per_target",
        "times",
        "epoch",
    ]

    usual = deim_lab.train(
        preset("smoke", fast), small_set, seed=1, runs_dir=tmp_path / "b", device="cpu"
    )
    with caplog.at_level(logging.WARNING):
        views = matching.look_back(usual.folder, *batch)
    assert 2 in views
    assert "keep_checkpoints" in caplog.text
    with pytest.raises(DataError, match="no checkpoint"):
        matching.look_back(tmp_path / "nothing", *batch)
