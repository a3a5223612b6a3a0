"""The share of the gradient that falls on poor matches of a histogram."""

from __future__ import annotations

import numpy as np
import pytest

from deim_lab.study.gradients import share


def test_share_of_the_gradient_on_two_kinds_of_matches() -> None:
    """Half the pairs in the bin around IoU 0.2, half around 0.8: within a bin the gradients are
    linear in q (VFL's is not, but nearly).
    """
    histogram = np.zeros(200)
    histogram[[40, 160]] = 7  # bins 0.2–0.205 and 0.8–0.805
    low, high = 0.2025, 0.8025
    found = share.share_of_gradient(histogram, gamma=2.0, scores=(0.1, 0.5)).set_index(
        ["kind", "score"]
    )
    for p in (0.1, 0.5):
        vfl, mal = [q * abs(p - q) for q in (low, high)], [abs(p - q**2) for q in (low, high)]
        assert found.loc[("vfl", p), "share"] == pytest.approx(vfl[0] / sum(vfl), rel=1e-3)
        assert found.loc[("mal", p), "share"] == pytest.approx(mal[0] / sum(mal), rel=1e-3)
        assert found.loc[("mal", p), "total"] == pytest.approx(sum(mal) / 2, rel=1e-3)


def test_share_does_not_depend_on_the_number_of_pairs_and_knows_its_ends() -> None:
    histogram = np.arange(20) + 1.0
    shares, more = (
        share.share_of_gradient(factor * histogram)["share"].to_numpy() for factor in (1, 1000)
    )
    assert shares == pytest.approx(more)
    assert share.share_of_gradient(histogram, low_iou=1.0)["share"].to_numpy() == pytest.approx(1)
    assert (share.share_of_gradient(histogram, low_iou=0.0)["share"] == 0).all()
    poor = share.share_of_gradient([1.0] * 10 + [0.0] * 10)
    assert poor["share"].to_numpy() == pytest.approx(1)
    means = share.share_over_all_scores(share.share_of_gradient(np.ones(20)))
    assert 0 < means["vfl"] < means["mal"] < 1


def test_share_of_low_reads_within_a_bin() -> None:
    assert share.share_of_low([2, 2], 0.25) == pytest.approx(0.25)
    assert share.share_of_low([3, 1], 0.5) == pytest.approx(0.75)


@pytest.mark.parametrize("histogram", [[], [0, 0], [1, -1], [1, float("nan")], [[1, 2]]])
def test_a_histogram_that_is_none_is_refused(histogram: list[float]) -> None:
    with pytest.raises(ValueError, match="expected counts of pairs"):
        share.share_of_gradient(histogram)
