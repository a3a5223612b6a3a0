"""losses/terms.py: official values and gradients, and properties that the paper relies on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deim_lab import losses
from deim_lab.boxes import cxcywh_to_xyxy, paired_iou
from numeric import float32_tolerance
from places import REFERENCE

pytestmark = pytest.mark.numeric

CASES = json.loads((REFERENCE / "losses.json").read_text(encoding="utf-8"))
ARRAYS = np.load(REFERENCE / "losses.npz")
STEPS = 10  # of a loss: sigmoid, powers, logarithms, products, the sum
PRECISIONS = [
    pytest.param(torch.float64, 1e-9, id="float64"),
    pytest.param(torch.float32, float32_tolerance(STEPS), id="float32"),
]
CLASSIFICATION: dict[str, Callable[..., Tensor]] = {
    "focal": losses.focal,
    "vfl": losses.vfl,
    "mal": losses.mal,
}
NUM_TARGETS = 7


def array(name: str, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(ARRAYS[name]).to(dtype)


def pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Image, query and flat target of the fixed assignment."""
    offsets = np.concatenate([[0], np.cumsum(ARRAYS["tgt_counts"])])
    image = np.concatenate([np.full(len(ARRAYS[f"row.{b}"]), b) for b in range(3)])
    query = np.concatenate([ARRAYS[f"row.{b}"] for b in range(3)])
    target = np.concatenate([ARRAYS[f"col.{b}"] + offsets[b] for b in range(3)])
    return torch.from_numpy(image), torch.from_numpy(query), torch.from_numpy(target)


def matched_boxes(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    image, query, target = pairs()
    return array("pred_boxes", dtype)[image, query], array("tgt_boxes", dtype)[target]


def matched_iou(dtype: torch.dtype) -> Tensor:
    predicted, wanted = matched_boxes(dtype)
    return paired_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))


def assert_gradient(found: Tensor | None, name: str, dtype: torch.dtype) -> None:
    assert found is not None
    expected = torch.from_numpy(ARRAYS[name]).double()  # rounded to float32 in the file
    tolerance = 1e-6 if dtype == torch.float64 else float32_tolerance(2 * STEPS)  # there and back
    assert float((found.double() - expected).abs().max()) <= tolerance * max(
        1.0, float(expected.abs().max())
    )


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", CASES["classification"], ids=lambda case: case["id"])
def test_classification_parity(case: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    image, query, target_row = pairs()
    logits = array("pred_logits", dtype).requires_grad_()
    label = torch.from_numpy(ARRAYS["tgt_labels"])[target_row]
    target, iou = torch.zeros_like(logits), torch.zeros_like(logits)
    target[image, query, label] = 1
    iou[image, query, label] = (
        array(case["values"], dtype) if "values" in case else matched_iou(dtype)
    )
    options = {
        "gamma": case["params"]["gamma"],
        "alpha": case["params"].get("mal_alpha" if case["loss"] == "mal" else "alpha"),
    }
    value = CLASSIFICATION[case["loss"]](logits, target, iou, **options).sum() / case["num_boxes"]
    assert value.item() == pytest.approx(case["value_fp64"], rel=tolerance)
    if "grad_l2" in case:
        value.backward()
        assert_gradient(logits.grad, f"{case['id']}.grad_pred_logits", dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_box_parity(dtype: torch.dtype, tolerance: float) -> None:
    image, query, target_row = pairs()
    boxes = array("pred_boxes", dtype).requires_grad_()
    wanted = array("tgt_boxes", dtype)[target_row]
    plain_l1, plain_giou, weighted_giou, weighted_l1 = (
        case["value_fp64"] for case in CASES["boxes"]
    )
    l1 = losses.l1(boxes[image, query], wanted)
    assert (l1.sum() / NUM_TARGETS).item() == pytest.approx(plain_l1, rel=tolerance)
    assert plain_l1 == weighted_l1  # the weight does not touch L1
    assert_gradient(
        torch.autograd.grad(l1.sum() / NUM_TARGETS, boxes)[0], "loss_bbox.grad_pred_boxes", dtype
    )
    giou = losses.giou(cxcywh_to_xyxy(boxes[image, query]), cxcywh_to_xyxy(wanted))
    assert (giou.sum() / NUM_TARGETS).item() == pytest.approx(plain_giou, rel=tolerance)
    assert ((giou * array("boxes_weight", dtype)).sum() / NUM_TARGETS).item() == pytest.approx(
        weighted_giou, rel=tolerance
    )
    assert_gradient(
        torch.autograd.grad(giou.sum() / NUM_TARGETS, boxes)[0], "loss_giou.grad_pred_boxes", dtype
    )


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", ["rs4", "rs8"])
def test_fgl_parity(case: str, dtype: torch.dtype, tolerance: float) -> None:
    image, query, _ = pairs()
    corners = array("pred_corners", dtype).requires_grad_()
    bins = [
        array(f"{case}.fgl_{name}", dtype).reshape(NUM_TARGETS, 4)
        for name in ("target", "weight_right", "weight_left")
    ]
    edges = losses.fgl(corners[image, query].reshape(NUM_TARGETS, 4, -1), *bins)
    value = (edges * matched_iou(dtype)[:, None]).sum() / NUM_TARGETS
    expected = next(
        item for item in CASES["local"] if item["case"] == case and item["loss"] == "loss_fgl"
    )
    assert value.item() == pytest.approx(expected["value_fp64"], rel=tolerance)
    value.backward()
    assert_gradient(corners.grad, f"{case}.loss_fgl.grad_pred_corners", dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-7), (torch.float32, float32_tolerance(STEPS))],
    ids=["float64", "float32"],
)
def test_ddf_parity(dtype: torch.dtype, tolerance: float) -> None:
    image, query, _ = pairs()
    student, teacher = (
        array("pred_corners", dtype).requires_grad_(),
        array("teacher_corners", dtype).requires_grad_(),
    )
    edges = losses.ddf(
        student.unflatten(-1, (4, -1)), teacher.unflatten(-1, (4, -1)), temperature=5.0
    )
    weight = array("teacher_logits", dtype).sigmoid().amax(-1)
    weight[image, query] = matched_iou(dtype)
    matched = torch.zeros(edges.shape[:2], dtype=torch.bool)
    matched[image, query] = True
    expected = next(
        item for item in CASES["local"] if item["case"] == "rs4" and item["loss"] == "loss_ddf"
    )
    value = losses.decoupled_mean(
        edges * weight[..., None],
        matched[..., None].expand_as(edges),
        matched_share=expected["num_pos"],
        unmatched_share=expected["num_neg"],
        dims=(0, 1, 2),
    )
    assert value.item() == pytest.approx(expected["value_fp64"], rel=tolerance)
    value.backward()
    assert teacher.grad is None
    assert_gradient(student.grad, "rs4.loss_ddf.grad_pred_corners", dtype)


def test_ddf_of_equals_is_zero() -> None:
    corners = torch.randn(5, 4, 33)
    assert float(losses.ddf(corners, corners).abs().max()) == 0.0


def test_ddf_is_its_formula_at_temperature_five() -> None:
    student, teacher = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    p, q = (torch.softmax(logits / 5, dim=-1).tolist() for logits in (teacher, student))
    expected = 25 * sum(a * math.log(a / b) for a, b in zip(p, q))
    assert losses.ddf(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("matched", "expected"),
    [
        ([True, False, False], (1.0 * 3 + 4.0 * 1) / 4),
        ([True, True, False], (2.0 * 3 + 5.0 * 1) / 4),
        ([False, False, False], (0.0 * 3 + 3.0 * 1) / 4),
        ([True, True, True], (3.0 * 3 + 0.0 * 1) / 4),
    ],
)
def test_the_decoupled_mean_by_hand(matched: list[bool], expected: float) -> None:
    """Of 1, 3 and 5: a part of one entry is divided by 1, and a part of none counts as 0."""
    found = losses.decoupled_mean(
        torch.tensor([1.0, 3.0, 5.0]),
        torch.tensor(matched),
        matched_share=3.0,
        unmatched_share=1.0,
        dims=(0,),
    )
    assert found.item() == pytest.approx(expected)


def curve(loss: Callable[..., Tensor], iou: float, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Scores in (0, 1), and the loss and its gradient with respect to the logit there, of a
    positive matched at ``iou``.
    """
    score = torch.linspace(0.0005, 0.9995, 2000, dtype=torch.float64)
    logits = score.logit().requires_grad_()
    values = loss(logits, torch.ones_like(score), torch.full_like(score, iou), **options)
    return score, values.detach(), torch.autograd.grad(values.sum(), logits)[0]


@pytest.mark.parametrize("iou", [0.05, 0.3, 0.7, 0.95])
def test_where_the_losses_are_least(iou: float) -> None:
    score, values, _ = curve(losses.vfl, iou)
    assert float(score[values.argmin()]) == pytest.approx(iou, abs=1e-3)
    for gamma in (1.0, 1.5, 2.0):
        score, values, _ = curve(losses.mal, iou, gamma=gamma)
        assert float(score[values.argmin()]) == pytest.approx(iou**gamma, abs=1e-3)


def test_a_poor_match_pulls_with_mal_and_not_with_vfl() -> None:
    """At IoU 0.05: gradient of VFL is q (p − q), of MAL p − q^γ."""
    score, _, by_vfl = curve(losses.vfl, 0.05)
    _, _, by_mal = curve(losses.mal, 0.05, gamma=1.5)
    torch.testing.assert_close(by_vfl, 0.05 * (score - 0.05))
    torch.testing.assert_close(by_mal, score - 0.05**1.5)
    assert float(by_vfl.abs().max()) < 0.05
    assert float((by_mal / by_vfl)[score > 0.2].min()) > 20


def test_mal_at_gamma_one_is_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    target = (torch.rand(50, 8, generator=generator) < 0.2).double()
    iou = torch.rand(50, 8, generator=generator, dtype=torch.float64) * target
    p = logits.sigmoid()
    closed = (
        target * -(iou * p.log() + (1 - iou) * (1 - p).log()) + (1 - target) * -p * (1 - p).log()
    )
    torch.testing.assert_close(losses.mal(logits, target, iou, gamma=1.0), closed)


def test_vfl_and_mal_agree_on_a_perfect_match_and_on_negatives_of_equal_weight() -> None:
    logits = torch.linspace(-6, 6, 25)
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    torch.testing.assert_close(losses.vfl(logits, ones, ones), losses.mal(logits, ones, ones))
    torch.testing.assert_close(
        losses.vfl(logits, zeros, zeros, alpha=1.0), losses.mal(logits, zeros, zeros, gamma=2.0)
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
@pytest.mark.parametrize("name", ["vfl", "mal", "focal"])
def test_extreme_logits_and_no_overlap_stay_finite(name: str, gamma: float) -> None:
    logits = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0]).requires_grad_()
    for target in (torch.ones(5), torch.zeros(5)):
        values = CLASSIFICATION[name](logits, target, torch.zeros(5), gamma=gamma)
        assert values.isfinite().all()
        assert torch.autograd.grad(values.sum(), logits)[0].isfinite().all()


def test_a_negative_never_counts_as_a_match_of_quality_one() -> None:
    """0 ** 0 is 1: with γ = 0 the quality of a negative must stay 0."""
    value = losses.mal(torch.tensor([-20.0]), torch.zeros(1), torch.zeros(1), gamma=0.0)
    assert float(value) < 1e-6
