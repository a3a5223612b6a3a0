"""A view of the matching equals what the criterion matches; duplicates are counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deim_lab.config import MatchConfig
from deim_lab.data.coco import CocoDataset
from deim_lab.errors import ConfigError
from deim_lab.matching import assign, hungarian
from deim_lab.structures import Matches, Targets
from deim_lab.study import matching
from matching_views import CONFIG, model_of, view_of


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


def test_a_model_of_other_groups_is_refused(dataset: CocoDataset) -> None:
    with pytest.raises(ConfigError, match="query groups"):
        matching.inspect(
            model_of(),
            *matching.fixed_batch(dataset, range(2), CONFIG),
            MatchConfig(kind="groups(2)"),
        )
