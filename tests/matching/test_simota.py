"""matching/simota.py: a case worked by hand, the definition in plain loops, the losses on top."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deim_lab import config as configs, losses
from deim_lab.boxes import cxcywh_to_xyxy, paired_iou, pairwise_iou
from deim_lab.config import LossConfig, MatchConfig
from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError
from deim_lab.losses import criterion
from deim_lab.losses.criterion import LossTable
from deim_lab.matching import assign, simota, union as union_of
from deim_lab.structures import DecoderOutput, DetectorOutput, Matches, Targets
from numeric import float32_tolerance

pytestmark = pytest.mark.numeric

SIMOTA = MatchConfig(kind="simota")


def row_of_boxes(*centres: float, size: float = 0.2) -> Tensor:
    """Squares side by side at half height."""
    return torch.tensor([[x, 0.5, size, size] for x in centres])


def pairs(matches: Matches) -> list[tuple[int, int]]:
    return list(zip(matches.query.tolist(), matches.target.tolist(), strict=True))


def random_case(
    counts: list[int], queries: int = 12, classes: int = 3, levels: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor, Targets]:
    """Queries scattered around the targets, so that they overlap, compete and miss."""
    generator = torch.Generator().manual_seed(seed)
    targets = Targets.from_lists(
        [
            0.3 + 0.4 * torch.rand(n, 4, generator=generator) * torch.tensor([1, 1, 0.7, 0.7])
            for n in counts
        ],
        [torch.randint(classes, (n,), generator=generator) for n in counts],
    )
    boxes = 0.25 + 0.5 * torch.rand(levels, len(counts), queries, 4, generator=generator)
    return (
        2 * torch.randn(levels, len(counts), queries, classes, generator=generator),
        boxes,
        targets,
    )


def test_two_targets_side_by_side_by_hand() -> None:
    """Two squares of side 0.2; all scores 0.5, so only the boxes decide.

    Target A at 0.25 has IoU 1 with q0 (0.25), 0.18 / 0.22 with q1 (0.27), 0.12 / 0.28 with q2
    (0.33): 2.25, so it claims 2, q0 and q1. Target B at 0.45 has IoU 1 with q3 (0.45), 0.18 / 0.22
    with q4 (0.47), 0.08 / 0.32 with q2: 2.07, so it claims 2, q3 and q4. q5 is far from both.
    """
    targets = Targets.from_lists([row_of_boxes(0.25, 0.45)], [torch.tensor([0, 1])])
    boxes = row_of_boxes(0.25, 0.27, 0.33, 0.45, 0.47, 0.9)[None]
    logits = torch.zeros(1, 6, 2)
    cost, iou = simota.costs(logits, boxes, targets)
    np.testing.assert_allclose(
        iou[0].numpy(), [1, 0.18 / 0.22, 0.12 / 0.28, 0, 0, 0], atol=float32_tolerance(3)
    )
    flat = 2 * math.log(2)  # cross-entropy of two scores of 0.5
    np.testing.assert_allclose(
        cost[0, :2].numpy(), [flat, flat - 3 * math.log(0.18 / 0.22)], atol=1e-5
    )
    # q2 lies inside A (0.08 from its centre, less than 0.1) but not near it (2.5 / 40 = 0.0625); q5
    # in or near nobody.
    assert float(cost[0, 2]) == pytest.approx(flat - 3 * math.log(0.12 / 0.28) + 1e4, abs=1e-2)
    assert float(cost[0, 5]) == pytest.approx(flat - 3 * math.log(1e-8) + 2e4, abs=1e-2)
    assert pairs(simota.simota(logits, boxes, targets)) == [(0, 0), (1, 0), (3, 1), (4, 1)]
    assert pairs(simota.simota(logits, boxes, targets, candidates=1)) == [(0, 0), (3, 1)]


def test_a_centre_on_the_edge_is_neither_inside_nor_near() -> None:
    """A target of side 0.25 at 0.5: its edge is at 0.625, and 2.5 cells are 0.0625."""
    targets = Targets.from_lists([row_of_boxes(0.5, size=0.25)], [torch.tensor([0])])
    boxes = row_of_boxes(0.5625, 0.625, size=0.25)[None]
    cost, iou = simota.costs(torch.zeros(1, 2, 2), boxes, targets, iou_weight=0.0)
    flat = 2 * math.log(2)
    assert cost[0].tolist() == pytest.approx([flat + 1e4, flat + 2e4], rel=1e-6)
    assert float(iou[0, 0]) > 0
    assert float(iou[0, 1]) == 0.0


@pytest.mark.parametrize(
    "knobs",
    [{"simota_candidates": 2}, {"simota_radius": 0.5}, {"simota_iou_weight": 0.0}],
    ids=lambda knobs: next(iter(knobs)),
)
def test_each_knob_reaches_the_assignment(knobs: dict[str, Any]) -> None:
    """From the config to the cost; with its default this assignment is another one."""
    logits, boxes, targets = random_case([6, 9], seed=1)
    output = output_of(logits, boxes, layers=0)
    found = assign(output, targets, replace(SIMOTA, **knobs))
    named = {name.removeprefix("simota_"): value for name, value in knobs.items()}
    assert pairs(found) == pairs(simota.simota(logits, boxes, targets, **named))
    assert pairs(found) != pairs(assign(output, targets, SIMOTA))


@pytest.mark.parametrize(("favour", "winner"), [(0.0, 1), (2.0, 0)])
def test_a_contested_query_goes_to_the_cheaper_target(favour: float, winner: int) -> None:
    """A at 0.45 and B at 0.5 both claim q1 (0.48): IoU 0.17 / 0.23 with A, 0.18 / 0.22 with B.

    A: 1 + 0.74 + 0.6 = 2.34, claims q0, q1. B: 1 + 0.82 + 0.6 = 2.42, claims q2, q1. −3 log IoU is
    0.91 for A and 0.60 for B: it goes to B, unless its score for A's class (logit 2) makes A
    cheaper by 2.
    """
    targets = Targets.from_lists([row_of_boxes(0.45, 0.5)], [torch.tensor([0, 1])])
    logits = torch.zeros(1, 3, 2)
    logits[0, 1, 0] = favour
    found = simota.simota(logits, row_of_boxes(0.45, 0.48, 0.5)[None], targets)
    assert pairs(found) == [(0, 0), (1, winner), (2, 1)]


def test_of_all_targets_the_cheapest_wins_also_one_that_did_not_claim() -> None:
    targets = Targets.from_lists([row_of_boxes(0.2, 0.5, 0.8)], [torch.tensor([0, 0, 0])])
    claimed = torch.tensor([[[True, True], [True, False], [False, False]]])
    cost = torch.tensor([[[3.0, 1.0], [2.0, 0.5], [1.0, 0.1]]])
    assert simota._settle(claimed, cost, targets)[0].tolist() == [
        [False, True],
        [False, False],
        [True, False],
    ]


def test_a_target_far_from_all_queries_still_claims_one_and_equal_targets_leave_one_without() -> (
    None
):
    targets = Targets.from_lists([row_of_boxes(0.9, size=0.05)], [torch.tensor([0])])
    assert (
        len(simota.simota(torch.zeros(1, 4, 2), row_of_boxes(0.1, 0.2, 0.3, 0.4)[None], targets))
        == 1
    )
    twins = Targets.from_lists([row_of_boxes(0.5, 0.5)], [torch.tensor([0, 0])])
    assert pairs(simota.simota(torch.zeros(1, 1, 2), row_of_boxes(0.5)[None], twins)) == [(0, 0)]


def in_plain_loops(
    logits: Tensor, boxes: Tensor, targets: Targets, candidates: int, radius: float
) -> set[tuple[int, int, int]]:
    """The definition, one image, target and query at a time."""
    found: set[tuple[int, int, int]] = set()
    for image in range(targets.batch_size):
        rows = (targets.image_index == image).nonzero().flatten().tolist()
        if not rows:
            continue
        wanted = targets.boxes_cxcywh[rows]
        offset = (boxes[image][None, :, :2] - wanted[:, None, :2]).abs()
        inside, near = (offset < wanted[:, None, 2:] / 2).all(-1), (offset < radius / 40).all(-1)
        fair = (inside | near).any(0)
        iou = pairwise_iou(cxcywh_to_xyxy(wanted), cxcywh_to_xyxy(boxes[image])) * fair
        one_hot = torch.nn.functional.one_hot(targets.labels[rows], logits.shape[-1]).float()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[image][None].expand(len(rows), -1, -1),
            one_hot[:, None].expand(-1, logits.shape[1], -1),
            reduction="none",
        ).sum(-1)
        raw = pairwise_iou(cxcywh_to_xyxy(wanted), cxcywh_to_xyxy(boxes[image]))
        cost = entropy - 3 * (raw + 1e-8).log() + 1e4 * (~(inside & near)) + 1e4 * (~fair)
        claims: dict[int, list[int]] = {}
        for target in range(len(rows)):
            number = max(1, int(iou[target].sort(descending=True).values[:candidates].sum()))
            for query in cost[target].argsort()[:number].tolist():
                claims.setdefault(query, []).append(target)
        for query, claimants in claims.items():
            target = claimants[0] if len(claimants) == 1 else int(cost[:, query].argmin())
            found.add((image, query, rows[target]))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_definition_in_plain_loops(seed: int) -> None:
    logits, boxes, targets = random_case([4, 0, 1, 9], seed=seed)
    found = simota.simota(logits, boxes, targets, candidates=7, radius=6.0)
    for level in range(2):
        mine = found.of_level(level)
        assert len(mine) == len(set(zip(mine.image.tolist(), mine.query.tolist(), strict=True))), (
            "a query has one target"
        )
        assert set(
            zip(mine.image.tolist(), mine.query.tolist(), mine.target.tolist(), strict=True)
        ) == in_plain_loops(logits[level], boxes[level], targets, 7, 6.0)
    assert found.level is not None
    keys = list(zip(found.level.tolist(), found.image.tolist(), found.query.tolist(), strict=True))
    assert keys == sorted(keys)


def test_without_a_level_axis_and_in_half_precision() -> None:
    logits, boxes, targets = random_case([3, 5])
    alone = simota.simota(logits[1], boxes[1], targets)
    together = simota.simota(logits, boxes, targets).of_level(1)
    assert alone.level is None
    assert pairs(alone) == pairs(together)
    rounded = simota.simota(logits.bfloat16(), boxes.bfloat16(), targets)
    assert pairs(rounded) == pairs(
        simota.simota(logits.bfloat16().float(), boxes.bfloat16().float(), targets)
    )


@pytest.mark.parametrize("counts", [[0, 0], [0, 2]])
def test_images_without_targets(counts: list[int]) -> None:
    found = simota.simota(*random_case(counts))
    assert set(found.image.tolist()) == {index for index, count in enumerate(counts) if count}
    assert found.target.dtype == torch.int64


def test_predictions_that_are_not_finite_are_counted_and_come_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logits, boxes, targets = random_case([2], levels=1)
    boxes[0, 0, 3] = float("nan")
    with caplog.at_level(logging.WARNING, logger="deim_lab"):
        found = simota.simota(logits, boxes, targets)
    assert "2 of 24 matching costs are not finite" in caplog.text
    assert 3 not in found.query.tolist()


def test_a_prediction_that_is_not_finite_adds_nothing_to_the_number_of_claims() -> None:
    """IoU 1 with q1 and 0.18 / 0.22 with q2 and q3: 2.64, so the target claims 2 of them."""
    targets = Targets.from_lists([row_of_boxes(0.5)], [torch.tensor([0])])
    boxes = row_of_boxes(0.5, 0.5, 0.48, 0.52)[None]
    boxes[0, 0, 3] = float("nan")
    found = simota.simota(torch.zeros(1, 4, 2), boxes, targets)
    assert len(found) == 2
    assert found.query.tolist()[0] == 1


def test_scores_that_are_not_finite_are_counted_although_the_iou_is_finite(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logits, boxes, targets = random_case([2], levels=1)
    logits[0, 0, 3] = float("nan")
    with caplog.at_level(logging.WARNING, logger="deim_lab"):
        found = simota.simota(logits, boxes, targets)
    assert "2 of 24 matching costs are not finite" in caplog.text
    assert 3 not in found.query.tolist()


def test_autocast_is_off_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bool] = []

    def iou_of(*boxes: Tensor) -> Tensor:
        states.append(torch.is_autocast_enabled("cpu"))
        return paired_iou(*boxes)

    monkeypatch.setattr(simota, "paired_iou", iou_of)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        simota.simota(*random_case([2, 3]))
    assert states == [False]


def test_all_tensors_are_made_on_the_device_of_the_predictions() -> None:
    """The device "meta" computes nothing, but refuses a tensor of the CPU."""
    logits, boxes, targets = random_case([3, 2])
    targets = targets.to("meta")
    cost, iou = simota.costs(logits.to("meta"), boxes.to("meta"), targets)
    claimed = simota._claims(cost, iou, 4)
    settled = simota._settle(claimed, cost, targets)
    assert {item.device.type for item in (cost, iou, claimed, settled)} == {"meta"}


# --- the losses on top
# --------------------------------------------------------------------------------------------------


def output_of(logits: Tensor, boxes: Tensor, layers: int = 2) -> DetectorOutput:
    levels = ("encoder", "pre", *(f"layer_{i}" for i in range(layers)))
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(layers, *logits.shape[1:3], 132, generator=generator).requires_grad_()
    matching = DecoderOutput(
        levels, logits.requires_grad_(), boxes.requires_grad_(), corners, boxes[-1].detach()
    )
    return DetectorOutput(matching, up=torch.tensor([0.5]), reg_scale=torch.tensor([4.0]))


def table_of(output: DetectorOutput, targets: Targets, *, go_union: bool = True) -> LossTable:
    matches = assign(output, targets, SIMOTA)
    loss = LossConfig(go_union=go_union)
    return criterion.compute(output, targets, matches, loss=loss, match=SIMOTA)


def test_class_and_box_sums_are_divided_by_the_positives() -> None:
    logits, boxes, targets = random_case([4, 6], levels=4)
    output = output_of(logits, boxes)
    table = table_of(output, targets, go_union=False)
    for level, name in enumerate(output.matching.levels):
        matches = table.matches.of_level(level)
        predicted = output.matching.boxes_cxcywh[level, matches.image, matches.query]
        wanted = targets.boxes_cxcywh[matches.target]
        target, iou = torch.zeros_like(logits[level]), torch.zeros_like(logits[level])
        place = (matches.image, matches.query, targets.labels[matches.target])
        target[place] = 1.0
        iou[place] = paired_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted)).detach()
        values = table.as_dict()
        by_class, by_l1 = (
            float(loss.sum().detach()) / len(matches)
            for loss in (losses.mal(logits[level], target, iou), losses.l1(predicted, wanted))
        )
        assert values[f"class/{name}"] == pytest.approx(by_class, rel=float32_tolerance(10))
        assert values[f"l1/{name}"] == pytest.approx(5 * by_l1, rel=float32_tolerance(10))
    last = table.matches.of_level(3)
    assert table.positives_per_image == len(last) / 2
    assert table.positives_per_image > 5, "more than one query a target"
    assert table.matched_iou.shape == (len(last),)
    assert table.unmatched_targets == len(set(range(10)) - set(last.target.tolist()))


def test_a_target_whose_queries_went_to_others_is_counted() -> None:
    twins = Targets.from_lists([row_of_boxes(0.5, 0.5)], [torch.tensor([0, 0])])
    boxes = row_of_boxes(0.5).expand(4, 1, 1, 4).clone()
    table = table_of(output_of(torch.zeros(4, 1, 1, 2), boxes), twins)
    assert table.unmatched_targets == 1


def test_the_union_keeps_each_querys_most_frequent_target() -> None:
    logits, boxes, targets = random_case([5, 3], levels=4)
    matches = simota.simota(logits, boxes, targets)
    union = union_of(matches)
    assert matches.level is not None
    for image, query, target in zip(
        union.image.tolist(), union.query.tolist(), union.target.tolist(), strict=True
    ):
        here = (matches.image == image) & (matches.query == query)
        counts = torch.bincount(matches.target[here], minlength=len(targets))
        assert counts[target] == counts.max()
    table = table_of(output_of(logits, boxes), targets)
    predicted = boxes[3, union.image, union.query]
    expected = (
        5
        * float(losses.l1(predicted, targets.boxes_cxcywh[union.target]).sum().detach())
        / len(union)
    )
    assert table.as_dict()["l1/layer_1"] == pytest.approx(expected, rel=float32_tolerance(10))


@pytest.mark.parametrize("go_union", [True, False])
@pytest.mark.parametrize("counts", [[0, 0], [0, 1], [3, 4], [20, 2]])
def test_any_batch_has_the_same_terms_all_finite_and_all_outputs_in_the_graph(
    counts: list[int], go_union: bool
) -> None:
    logits, boxes, targets = random_case(counts, levels=4)
    output = output_of(logits, boxes)
    table = table_of(output, targets, go_union=go_union)
    assert len(table.as_dict()) == 4 * 3 + 2 + 1 + 1
    assert all(math.isfinite(value) for value in table.as_dict().values())
    table.total.backward()
    assert output.matching.logits.grad is not None
    assert (output.matching.logits.grad.abs().sum((1, 2, 3)) > 0).all()


# --- configuration and training
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("simoto", "'simota'"),
        ("groups", r"groups\(k\)"),
        ("groups(1)", "Use 'hungarian' for one group"),
        ("groups(21)", r"\[2, 20\]"),
        ("groups(2.5)", r"groups\(4\)"),
        ("group(4)", r"did you mean 'groups\(4\)'"),
    ],
)
def test_kinds_that_are_not_known(kind: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        preset("smoke", {"match.kind": kind})
    assert repr(kind) in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"match.simota_candidates": 0},
        {"match.simota_radius": 0.0},
        {"match.simota_iou_weight": -1.0},
    ],
)
def test_knobs_out_of_range(overrides: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(overrides))):
        preset("smoke", overrides)


def test_keeping_checkpoints_is_no_part_of_the_identity_and_matching_is() -> None:
    base = preset("smoke")
    assert configs.fingerprint(base) == configs.fingerprint(
        preset("smoke", {"train.keep_checkpoints": "all"})
    )
    assert configs.fingerprint(base) != configs.fingerprint(
        preset("smoke", {"match.kind": "simota"})
    )
    assert replace(base.match, kind="groups(12)").groups == 12
    assert base.match.groups == 1
