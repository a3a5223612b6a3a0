"""detector/edges.py against the official numbers, and what must hold for any bins."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deim_lab.boxes import cxcywh_to_xyxy
from deim_lab.detector.edges import (
    bin_distances,
    boxes_to_bins,
    distances_to_boxes,
    expected_distances,
)
from numeric import float32_tolerance
from places import REFERENCE

pytestmark = pytest.mark.numeric

WEIGHTS = json.loads((REFERENCE / "fdr_weights.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def helpers() -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / "fdr_helpers.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def _double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("case", WEIGHTS)
def test_bins_equal_the_official_ones(case: str) -> None:
    reg_max, reg_scale, up = (float(part.split("=")[1]) for part in case.split(","))
    exact = bin_distances(int(reg_max), _double(up), _double(reg_scale))
    torch.testing.assert_close(
        exact, torch.tensor(WEIGHTS[case]["W_fp64"], dtype=torch.float64), rtol=0, atol=1e-12
    )
    single = bin_distances(int(reg_max), torch.tensor([up]), torch.tensor([int(reg_scale)]))
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single,
        torch.tensor(WEIGHTS[case]["W_deploy_fp32"]),
        rtol=0,
        atol=float32_tolerance(1) * reg_scale,
    )


def test_bins_increase_and_are_antisymmetric() -> None:
    bins = bin_distances(32, 0.5, 4.0)
    assert (bins.diff() > 0).all()
    torch.testing.assert_close(bins, -bins.flip(0))


@pytest.mark.parametrize("reg_max", [2, 15])
def test_bins_refuse_what_has_no_middle(reg_max: int) -> None:
    with pytest.raises(ValueError, match=str(reg_max)):
        bin_distances(reg_max, 0.5, 4.0)


def test_expected_distances_parity(helpers: dict[str, torch.Tensor]) -> None:
    found = expected_distances(helpers["integral.in"], bin_distances(32, _double(0.5), _double(4)))
    torch.testing.assert_close(found, helpers["integral.out_rs4"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("reg_scale", [4, 8])
def test_boxes_parity(helpers: dict[str, torch.Tensor], reg_scale: int) -> None:
    found = distances_to_boxes(helpers["points"], helpers["distance"], reg_scale)
    torch.testing.assert_close(found, helpers[f"dist2box_rs{reg_scale}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("reg_scale", [4, 8])
def test_bins_of_boxes_parity(helpers: dict[str, torch.Tensor], reg_scale: int) -> None:
    bins = bin_distances(32, _double(0.5), _double(reg_scale))
    found = boxes_to_bins(helpers["points"], helpers["gt_xyxy"], bins=bins, reg_scale=reg_scale)
    for name, value in zip(("target", "weight_right", "weight_left"), found, strict=True):
        assert value.shape == (64, 4)
        # the official target passes through float32 (31.9), the weights don't
        tolerance = 1e-6 if name == "target" else 1e-9
        torch.testing.assert_close(
            value.flatten(), helpers[f"box2dist_rs{reg_scale}.{name}"], rtol=0, atol=tolerance
        )


def test_bins_of_boxes_invert_boxes_of_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    bins = bin_distances(32, _double(0.5), _double(4))
    reference = torch.rand(3, 50, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.1
    distances = (torch.rand(3, 50, 4, generator=generator, dtype=torch.float64) * 2 - 1) * 1.9
    boxes = distances_to_boxes(reference, distances, 4.0)
    target, right, left = boxes_to_bins(reference, cxcywh_to_xyxy(boxes), bins=bins, reg_scale=4.0)
    index = target.long()
    torch.testing.assert_close(bins[index] * left + bins[index + 1] * right, distances)


def test_out_of_range_edges_go_to_the_outermost_bins() -> None:
    bins = bin_distances(32, 0.5, 4.0)
    reference = torch.tensor([[0.5, 0.5, 0.1, 0.1]])
    target, right, left = boxes_to_bins(
        reference, torch.tensor([[0.0, 0.9, 1.0, 0.1]]), bins=bins, reg_scale=4.0
    )
    torch.testing.assert_close(target, torch.tensor([[31.9, 0.0, 31.9, 0.0]]))
    assert right.tolist() == [[1, 0, 1, 0]]
    assert left.tolist() == [[0, 1, 0, 1]]


def test_half_precision_corners_give_float32_distances() -> None:
    corners = torch.randn(2, 5, 132)
    bins = bin_distances(32, 0.5, 4.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = expected_distances(corners, bins)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected_distances(corners, bins))


def test_empty() -> None:
    target, right, left = boxes_to_bins(
        torch.zeros(0, 4), torch.zeros(0, 4), bins=bin_distances(32, 0.5, 4.0), reg_scale=4.0
    )
    assert target.shape == right.shape == left.shape == (0, 4)
