"""Box formats and overlaps: parity, ranges, symmetry, and boxes of no area."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deim_lab import boxes
from places import REFERENCE

pytestmark = pytest.mark.numeric

ARRAYS = np.load(REFERENCE / "unit_ops.npz")


def random_xyxy(count: int, seed: int = 0) -> Tensor:
    corners = torch.rand(
        count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return torch.cat([corners.amin(1), corners.amax(1)], dim=-1)


def test_parity_of_pairwise_overlaps() -> None:
    first, second = (torch.from_numpy(ARRAYS[f"iou.{name}"]).double() for name in ("b1", "b2"))
    np.testing.assert_allclose(
        boxes.pairwise_iou(first, second).numpy(), ARRAYS["iou.iou"], atol=1e-6
    )
    np.testing.assert_allclose(
        boxes.pairwise_giou(first, second).numpy(), ARRAYS["iou.giou"], atol=1e-6
    )


def test_paired_is_the_diagonal_of_pairwise() -> None:
    first, second = random_xyxy(30), random_xyxy(30, seed=1)
    iou, giou = boxes.paired_iou_and_giou(first, second)
    for found, paired, pairwise in (
        (iou, boxes.paired_iou, boxes.pairwise_iou),
        (giou, boxes.paired_giou, boxes.pairwise_giou),
    ):
        torch.testing.assert_close(found, paired(first, second))
        torch.testing.assert_close(found, pairwise(first, second).diagonal())


def test_ranges_symmetry_and_identity() -> None:
    first, second = random_xyxy(200), random_xyxy(200, seed=1)
    iou, giou = boxes.paired_iou_and_giou(first, second)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert ((giou > -1) & (giou <= iou)).all()
    torch.testing.assert_close(boxes.paired_giou(second, first), giou)
    torch.testing.assert_close(
        boxes.paired_giou(first, first), torch.ones(200, dtype=torch.float64)
    )


def test_worked_by_hand() -> None:
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    assert boxes.paired_iou(a, b).item() == pytest.approx(1 / 7)
    assert boxes.paired_giou(a, b).item() == pytest.approx(1 / 7 - 2 / 9)


def test_formats_are_inverse_and_negative_sizes_count_as_none() -> None:
    xyxy = random_xyxy(20)
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(xyxy)), xyxy)
    assert boxes.cxcywh_to_xyxy(torch.tensor([0.5, 0.5, -0.2, 0.4])).tolist() == pytest.approx(
        [0.5, 0.3, 0.5, 0.7]
    )


def test_boxes_of_no_area_have_no_overlap_and_finite_gradients() -> None:
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    for other in (torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.tensor([[0.1, 0.1, 0.2, 0.2]])):
        iou, giou = boxes.paired_iou_and_giou(point, other)
        assert iou.item() == 0.0
        assert giou.isfinite().all()
        assert torch.autograd.grad((iou + giou).sum(), point)[0].isfinite().all()


def test_a_box_turned_inside_out_has_no_area() -> None:
    turned = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert boxes.area(turned).item() == 0.0
    assert boxes.paired_giou(turned, turned).item() == 0.0


def test_leading_axes_are_kept() -> None:
    flat = random_xyxy(6)
    for function in (boxes.xyxy_to_cxcywh, boxes.cxcywh_to_xyxy, boxes.area):
        found = function(flat.reshape(2, 3, 4))
        assert torch.equal(found.reshape(6, *found.shape[2:]), function(flat))
        assert torch.equal(function(flat[0]), function(flat)[0])


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(n: int, m: int) -> None:
    assert boxes.pairwise_iou(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)
