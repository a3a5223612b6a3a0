"""The claims about MAL hold, in numbers, and can fail."""

from __future__ import annotations

import pytest

from deim_lab.study.gradients import claims


def test_all_claims_hold_with_the_recipe_and_with_the_summaries_gamma() -> None:
    for gamma in (1.5, 2.0):
        assert [claim.name for claim in claims.claims(gamma) if not claim.holds] == []


def test_a_poor_match_in_numbers() -> None:
    found = claims.poor_match(1.5).numbers
    assert found["largest_vfl"] == pytest.approx(0.05 * 0.85)
    assert found["smallest_mal"] == pytest.approx(0.1 - 0.05**1.5)
    assert found["most_factor"] == pytest.approx((0.1 - 0.05**1.5) / (0.05 * 0.05))
    assert found["least_factor"] == pytest.approx((0.9 - 0.05**1.5) / (0.05 * 0.85))
    assert "21 to 36 times" in claims.poor_match(1.5).sentence


def test_where_mal_is_the_smaller_one() -> None:
    found = claims.where_larger(1.5).numbers
    target, iou = 0.05**1.5, 0.05
    # |p − q^γ| < q |p − q| between the two points where the lines cross
    assert found["smaller_from"] == pytest.approx((target - iou**2) / (1 - iou), abs=2e-4)
    assert found["smaller_to"] == pytest.approx((target + iou**2) / (1 + iou), abs=2e-4)


def test_a_claim_can_fail() -> None:
    """A γ of 0 asks score 1 of every match; γ = 1 leaves the target at the IoU; a middling match is
    not nearly ignored by VFL.
    """
    assert not claims.direction(0.0).holds or claims.direction(0.0).numbers["share_lowered"] == 0
    assert not claims.poor_match(1.5, iou=0.5).holds
    assert not claims.good_match(2.0, iou=0.5).holds
    assert not claims.poor_gradient_of_gammas(0.5, 2.0).holds
    assert str(claims.poor_match(1.5, iou=0.5)).startswith("[FAILS]")


def test_gamma_table() -> None:
    table = claims.gamma_table((1.5, 2.0), (0.3, 0.5), score=0.1)
    assert table.loc[2.0, ("least at score", 0.5)] == pytest.approx(0.25)
    assert table.loc[1.5, ("gradient at score 0.1", 0.3)] == pytest.approx(0.1 - 0.3**1.5)
