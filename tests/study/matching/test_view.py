"""The microscope against the matching that trains; stability, positives and duplicates on cases
known beforehand.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import deim_lab
from deim_lab.config import MatchConfig
from deim_lab.config.presets import preset
from deim_lab.data import synthetic
from deim_lab.data.coco import CocoDataset, open_source, resolve
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.errors import ConfigError, DataError
from deim_lab.matching import assign, hungarian
from deim_lab.structures import Matches, Targets
from deim_lab.study import matching
from deim_lab.study.matching import View

CONFIG = preset("smoke", {"data.input_size": 64, "model.num_queries": 20})


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("data") / "set",
        train_images=12,
        val_images=4,
        size_px=(64, 64),
        seed=3,
    )


@pytest.fixture(scope="module")
def dataset(small_set: Path) -> CocoDataset:
    return open_source(resolve(small_set, cache_dir=small_set.parent))[0]


def model_of(kind: str = "hungarian", seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return build_detector(replace(CONFIG, match=MatchConfig(kind=kind)), 6)


@pytest.mark.parametrize("kind", ["hungarian", "simota", "groups(3)"])
def test_the_view_is_what_the_criterion_matches(dataset: CocoDataset, kind: str) -> None:
    model, match = model_of(kind), MatchConfig(kind=kind, cost_l1=3.0)
    images, targets = matching.fixed_batch(dataset, range(6), CONFIG)
    view = matching.inspect(model.train(), images, targets, match)
    assert not model.training
    with torch.no_grad():
        output = model.every_level(images).matching
    expected = assign(output, targets, match)
    assert torch.equal(view.matches.query, expected.query)
    assert torch.equal(view.matches.target, expected.target)
    cost = hungarian.costs(output.logits, output.boxes_cxcywh, targets, cost_l1=3.0)
    torch.testing.assert_close(sum(view.costs.values()), cost)
    assert view.levels == ("encoder", "pre", "layer_0", "layer_1")
    assert view.iou.shape == (len(expected),)
    assert len(view.names[0].unique()) == view.names.shape[1], (
        "every query has a name of its own, also in groups of the same anchors"
    )

    pairs = view.pairs()
    row = pairs.iloc[5]
    flat = int(row["target"]) + int(targets.offsets[int(row["image"])])
    score = output.logits[
        view.levels.index(row["level"]), int(row["image"]), int(row["query"]), targets.labels[flat]
    ].sigmoid()
    assert row["score"] == pytest.approx(float(score), abs=1e-6)
    parts, assigned = view.costs_of(2, "layer_1")
    here = pairs[(pairs["image"] == 2) & (pairs["level"] == "layer_1")]
    assert {(int(q), int(t)) for q, t in assigned} == set(
        zip(here["query"].tolist(), here["target"].tolist(), strict=True)
    )
    assert parts["class"].shape == (int(targets.counts[2]), output.logits.shape[2])


def test_the_assignment_is_the_cheapest_sum_of_the_shown_costs(dataset: CocoDataset) -> None:
    view = matching.inspect(model_of(), *matching.fixed_batch(dataset, range(3), CONFIG))
    parts, assigned = view.costs_of(1, "pre")
    total = sum(parts.values(), torch.zeros(()))
    chosen = sum(float(total[target, query]) for query, target in assigned)
    for _ in range(50):
        other = torch.randperm(total.shape[1])[: total.shape[0]]
        assert chosen <= float(total[torch.arange(len(total)), other].sum()) + 1e-5


def test_drawn_pairs_are_in_pixels_and_every_target_has_a_row(dataset: CocoDataset) -> None:
    images, targets = matching.fixed_batch(dataset, range(4), CONFIG)
    view = matching.inspect(model_of(), images, targets)
    first = view.matches.target == 0  # take its query from the first target of the first image
    matches = Matches(
        *(getattr(view.matches, name)[~first] for name in ("image", "query", "target", "level"))
    )
    table = replace(view, matches=matches, iou=view.iou[~first]).of_image(0, (64, 32))
    assert len(table) == 4 * int(targets.counts[0])
    lost = table[table["target"] == 0]
    assert lost["query_x1"].isna().all()
    assert table[table["target"] != 0]["query_x1"].notna().all()
    x, y, w, h = targets.of_image(0)[0][0].tolist()
    np.testing.assert_allclose(
        lost[["target_x1", "target_y1", "target_x2", "target_y2"]].iloc[0],
        [64 * (x - w / 2), 32 * (y - h / 2), 64 * (x + w / 2), 32 * (y + h / 2)],
        atol=1e-4,
    )


def view_of(names: list[int], pairs: list[tuple[int, int]]) -> View:
    """One image, one level; ``pairs`` of (query, target); ``names`` who each query is."""
    query, target = torch.tensor(pairs).T
    zero = torch.zeros_like(query)
    boxes = torch.full((1, 1, len(names), 4), 0.5)
    targets = Targets.from_lists([boxes[0, 0, :3]], [torch.zeros(3, dtype=torch.int64)])
    return View(
        ("layer_0",),
        {},
        Matches(zero, query, target, zero),
        torch.ones(len(pairs)),
        boxes,
        torch.zeros(1, 1, len(names), 2),
        torch.tensor([names]),
        targets,
    )


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


def test_duplicates_count_what_detects_a_target_again() -> None:
    view = view_of([0, 1, 2, 3], [(0, 0)])
    scores = torch.tensor([[[[0.9, 0.9], [0.4, 0.9], [0.2, 0.9], [0.9, 0.9]]]])
    boxes = view.boxes_cxcywh.clone()
    boxes[..., 3, :] = 0.1  # fits no target
    one = replace(
        view,
        scores=scores,
        boxes_cxcywh=boxes,
        targets=Targets(view.targets.boxes_cxcywh[:1], torch.tensor([0]), torch.tensor([0]), 1),
    )
    found = matching.duplicates(one, thresholds=(0.3, 0.5, 0.95))
    assert found["found"].tolist() == [1, 1, 0]
    assert found["detections"].tolist()[:2] == [2, 1]
    assert found["spare"].tolist()[:2] == [0.5, 0]
    assert np.isnan(found["spare"].iloc[2])


def test_positives_of_each_kind_on_the_same_images(dataset: CocoDataset) -> None:
    counted = matching.positives(
        model_of(),
        dataset,
        CONFIG,
        samples=12,
        batch_size=5,
        kinds=("hungarian", "simota", "groups(5)"),
    )
    by_method = {name: rows.reset_index() for name, rows in counted.groupby("method", sort=False)}
    assert list(by_method) == [
        "one-to-one",
        "SimOTA",
        "5 query groups",
        "Dense O2O (Mosaic 0.5, MixUp 0.5)",
        "Dense O2O (Mosaic 1, MixUp 0)",
        "Dense O2O (Mosaic 1, MixUp 1)",
    ]
    plain = by_method["one-to-one"]
    assert sorted(plain["image"]) == list(range(12))
    assert (plain["positives"] == plain["targets"]).all()
    assert (
        plain["targets"].tolist()
        == dataset.counts[torch.tensor(plain["image"].to_numpy())].tolist()
    )
    for other in ("SimOTA", "5 query groups"):
        assert by_method[other]["targets"].tolist() == plain["targets"].tolist()
        assert by_method[other]["image"].tolist() == plain["image"].tolist()
    assert (by_method["5 query groups"]["positives"] == 5 * plain["positives"]).all()
    dense = by_method["Dense O2O (Mosaic 1, MixUp 1)"]
    assert dense["targets"].mean() > 3 * plain["targets"].mean()
    assert (dense["positives"] == dense["targets"].clip(upper=20)).all(), (
        "one-to-one, and no more than there are queries"
    )
    found = matching.summary(counted).set_index("method")
    assert found.loc["5 query groups", "times"] == pytest.approx(5)
    assert found.loc["one-to-one", "per_target"] == 1


def test_the_claims_are_read_from_the_numbers() -> None:
    counted = pd.DataFrame(
        {
            "method": ["one-to-one", "SimOTA", "Dense O2O (a)", "Dense O2O (b)"],
            "image": 0,
            "targets": [2, 2, 8, 5],
            "positives": [2, 19, 8, 5],
        }
    )
    said = matching.claims(counted)
    assert "9.5 positives per target here, about the claimed 10" in said
    lines = said.splitlines()
    assert "Dense O2O (a): 4.0 times the positives per image of plain images, about the" in lines[1]
    assert lines[2].startswith("Dense O2O (b): 2.5 times")
    assert lines[2].endswith("fewer than the claimed 4.")


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


def test_a_model_of_other_groups_is_refused(dataset: CocoDataset) -> None:
    with pytest.raises(ConfigError, match="query groups"):
        matching.inspect(
            model_of(),
            *matching.fixed_batch(dataset, range(2), CONFIG),
            MatchConfig(kind="groups(2)"),
        )
