"""matching/hungarian.py: costs and assignments, optimality, and the awkward batches."""

from __future__ import annotations

import itertools
import json
import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from deim_lab.boxes import cxcywh_to_xyxy, paired_iou
from deim_lab.config import MatchConfig
from deim_lab.matching import assign, hungarian, union
from deim_lab.structures import DecoderOutput, Targets
from numeric import float32_tolerance
from places import REFERENCE
from small_detectors import some_targets

pytestmark = pytest.mark.numeric

ARRAYS = np.load(REFERENCE / "matcher.npz")
CASES = json.loads((REFERENCE / "losses.json").read_text(encoding="utf-8"))
SIGMOID_CASES = [tag for tag, case in CASES["matcher"]["matcher"].items() if case["use_focal_loss"]]


def case_inputs(tag: str) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    counts = ARRAYS[f"{tag}.tgt_counts"].tolist()
    targets = Targets.from_lists(
        torch.from_numpy(ARRAYS[f"{tag}.tgt_boxes"]).split(counts),
        torch.from_numpy(ARRAYS[f"{tag}.tgt_labels"]).split(counts),
    )
    return (
        torch.from_numpy(ARRAYS[f"{tag}.pred_logits"]),
        torch.from_numpy(ARRAYS[f"{tag}.pred_boxes"]),
        targets,
    )


def random_inputs(
    counts: list[int], queries: int = 9, classes: int = 4, levels: int | None = None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    generator = torch.Generator().manual_seed(seed)
    lead = (len(counts), queries) if levels is None else (levels, len(counts), queries)
    targets = Targets.from_lists(
        [0.2 + 0.5 * torch.rand(n, 4, generator=generator) for n in counts],
        [torch.randint(classes, (n,), generator=generator) for n in counts],
    )
    return (
        torch.randn(*lead, classes, generator=generator),
        0.2 + 0.5 * torch.rand(*lead, 4, generator=generator),
        targets,
    )


@pytest.mark.parametrize("tag", SIGMOID_CASES)
def test_parity(tag: str) -> None:
    logits, boxes, targets = case_inputs(tag)
    cost = hungarian.costs(logits, boxes, targets).nan_to_num(nan=hungarian.NON_FINITE_COST)
    matches = hungarian.match(logits, boxes, targets)
    start = targets.offsets
    for image, count in enumerate(targets.counts.tolist()):
        expected = ARRAYS[f"{tag}.cost.{image}"]
        mine = cost[start[image] : start[image] + count].T
        np.testing.assert_allclose(
            mine.numpy(),
            expected,
            rtol=0,
            atol=float32_tolerance(10) * np.abs(expected).max(initial=0),
        )
        here = matches.image == image
        assert matches.query[here].tolist() == ARRAYS[f"{tag}.row.{image}"].tolist()
        assert (matches.target[here] - start[image]).tolist() == ARRAYS[
            f"{tag}.col.{image}"
        ].tolist()
    assert matches.level is None


def test_levels_are_matched_apart() -> None:
    logits, boxes, targets = random_inputs([3, 0, 5], levels=4)
    together = hungarian.match(logits, boxes, targets)
    assert len(together) == 4 * 8
    for level in range(4):
        alone, mine = (
            hungarian.match(logits[level], boxes[level], targets),
            together.of_level(level),
        )
        for name in ("image", "query", "target"):
            assert torch.equal(getattr(alone, name), getattr(mine, name))


def test_the_assignment_is_one_to_one_and_the_cheapest() -> None:
    logits, boxes, targets = random_inputs([3], queries=5)
    matches = hungarian.match(logits, boxes, targets)
    cost = hungarian.costs(logits, boxes, targets)
    assert sorted(matches.target.tolist()) == [0, 1, 2]
    assert len(set(matches.query.tolist())) == 3
    cheapest = min(
        sum(float(cost[t, q]) for t, q in enumerate(choice))
        for choice in itertools.permutations(range(5), 3)
    )
    assert float(cost[matches.target, matches.query].sum()) == pytest.approx(cheapest)


def test_parts_add_up_with_their_weights() -> None:
    logits, boxes, targets = random_inputs([2, 3])
    by_class, by_l1, by_giou = hungarian.cost_parts(logits, boxes, targets)
    total = hungarian.costs(logits, boxes, targets, cost_class=1.5, cost_l1=0.25, cost_giou=4.0)
    torch.testing.assert_close(total, 1.5 * by_class + 0.25 * by_l1 + 4.0 * by_giou)
    assert by_class.shape == (5, 9)


@pytest.mark.parametrize(
    ("knob", "value"),
    [("cost_class", 50.0), ("cost_l1", 0.0), ("cost_giou", 50.0), ("alpha", 0.9), ("gamma", 6.0)],
)
def test_each_knob_reaches_the_assignment(knob: str, value: float) -> None:
    """From the config to the cost; with its default this assignment is another one."""
    logits, boxes, targets = random_inputs([9, 8], queries=40, seed=3)
    changed: dict[str, Any] = {knob: value}
    found = hungarian.match(logits, boxes, targets, **changed)
    cost = hungarian.costs(logits, boxes, targets, **changed).numpy()
    expected = [linear_sum_assignment(cost[rows])[1] for rows in (slice(0, 9), slice(9, None))]
    by_target = found.query[found.target.argsort()].tolist()
    assert by_target == np.concatenate(expected).tolist()
    plain = hungarian.match(logits, boxes, targets)
    assert not torch.equal(found.query, plain.query) or not torch.equal(found.target, plain.target)
    levels = DecoderOutput(("layer_0",), logits[None], boxes[None])
    by_config = assign(levels, targets, MatchConfig(**changed))
    assert torch.equal(by_config.query, found.query)
    assert torch.equal(by_config.target, found.target)


def test_certain_scores_cost_finitely() -> None:
    """At a score of exactly 0 or 1 the logarithms end at log 1e-8."""
    logits, boxes, targets = random_inputs([1], queries=2, classes=1)
    logits[0, :, 0] = torch.tensor([200.0, -200.0])
    by_class, _, _ = hungarian.cost_parts(logits, boxes, targets)
    most = -math.log(1e-8)
    assert by_class[0].tolist() == pytest.approx([-0.75 * most, 0.25 * most], rel=1e-3)


def test_more_targets_than_queries_matches_every_query_once() -> None:
    logits, boxes, targets = random_inputs([12, 2], queries=5)
    matches = hungarian.match(logits, boxes, targets)
    first = matches.image == 0
    assert sorted(matches.query[first].tolist()) == [0, 1, 2, 3, 4]
    assert len(targets) - len(matches) == 7


@pytest.mark.parametrize("counts", [[0, 0], [0, 2], [2, 0]])
def test_images_without_targets(counts: list[int]) -> None:
    logits, boxes, targets = random_inputs(counts, levels=2)
    matches = hungarian.match(logits, boxes, targets)
    assert len(matches) == 2 * sum(counts)
    assert matches.image.dtype == torch.int64
    assert len(union(matches)) <= len(matches)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_predictions_are_counted_and_still_matched(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    logits, boxes, targets = random_inputs([4, 3])
    boxes[0, 2] = value
    with caplog.at_level(logging.WARNING, logger="deim_lab"):
        matches = hungarian.match(logits, boxes, targets)
    assert len(matches) == 7
    assert "4 of 63 matching costs are not finite" in caplog.text


def test_half_precision_is_matched_in_single() -> None:
    logits, boxes, targets = random_inputs([3, 4])
    half = hungarian.costs(logits.bfloat16(), boxes.bfloat16(), targets)
    torch.testing.assert_close(
        half, hungarian.costs(logits.bfloat16().float(), boxes.bfloat16().float(), targets)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = hungarian.match(logits, boxes, targets)
    outside = hungarian.match(logits, boxes, targets)
    assert torch.equal(inside.query, outside.query)


def test_a_small_and_a_turned_box_cost_finitely() -> None:
    logits, boxes, targets = random_inputs([2])
    boxes[0, 0] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    boxes[0, 1, 2:] *= -1
    assert hungarian.costs(logits, boxes, targets).isfinite().all()


def test_each_group_is_matched_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = Targets.from_lists(
        [0.2 + 0.5 * torch.rand(n, 4, generator=generator) for n in (3, 0, 5)],
        [torch.randint(4, (n,), generator=generator) for n in (3, 0, 5)],
    )
    logits, boxes = (
        torch.randn(2, 3, 4 * 6, 4, generator=generator),
        0.2 + 0.5 * torch.rand(2, 3, 4 * 6, 4, generator=generator),
    )
    found = hungarian.match(logits, boxes, wanted, groups=4)
    assert len(found) == 2 * 4 * 8
    assert found.level is not None
    assert list(zip(found.level, found.image, found.query)) == sorted(
        zip(found.level, found.image, found.query)
    )
    for level in range(2):
        for group in range(4):
            of_group = slice(6 * group, 6 * group + 6)
            alone = hungarian.match(logits[level][:, of_group], boxes[level][:, of_group], wanted)
            mine = found.of_level(level)
            here = mine.query // 6 == group
            assert torch.equal(mine.query[here] % 6, alone.query)
            assert torch.equal(mine.target[here], alone.target)


def test_late_cost_is_its_formula() -> None:
    make = torch.Generator().manual_seed(0)
    logits, boxes, targets = (
        torch.randn(2, 2, 5, 3, generator=make),
        torch.rand(2, 2, 5, 4, generator=make) * 0.5 + 0.2,
        some_targets(),
    )
    cost = hungarian.late_costs(logits, boxes, targets, iou_power=4.0)
    assert cost.shape == (2, 3, 5)
    for level, target, query in ((0, 0, 0), (1, 2, 4), (1, 1, 3)):
        iou = paired_iou(
            cxcywh_to_xyxy(boxes[level, 0, query]), cxcywh_to_xyxy(targets.boxes_cxcywh[target])
        )
        score = 1 / (1 + float(torch.exp(-logits[level, 0, query, targets.labels[target]])))
        assert float(cost[level, target, query]) == pytest.approx(
            -score * float(iou) ** 4, rel=float32_tolerance(10)
        )
