"""Curves, minima and ratios of the losses against their closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from closed_forms import bce
from deim_lab.study.gradients import curves

P = curves.SCORES
IOUS = (0.0, 0.05, 0.3, 0.5, 0.95, 1.0)


@pytest.mark.parametrize("iou", IOUS)
@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0, 3.0])
def test_positives_are_the_closed_forms(iou: float, gamma: float) -> None:
    vfl, mal = curves.curve("vfl", iou=iou), curves.curve("mal", iou=iou, gamma=gamma)
    assert vfl["loss"].to_numpy() == pytest.approx(iou * bce(P, iou))
    assert vfl["gradient"].to_numpy() == pytest.approx(iou * (P - iou))
    assert mal["loss"].to_numpy() == pytest.approx(bce(P, iou**gamma))
    assert mal["gradient"].to_numpy() == pytest.approx(P - iou**gamma, abs=1e-12)


@pytest.mark.parametrize("alpha", [None, 0.4])
def test_negatives_are_the_closed_forms_with_constant_weights(alpha: float | None) -> None:
    mal = curves.curve("mal", iou=0.3, gamma=1.5, alpha=alpha, positive=False)
    weight = (1.0 if alpha is None else alpha) * P**1.5
    assert mal["loss"].to_numpy() == pytest.approx(-weight * np.log(1 - P))
    assert mal["gradient"].to_numpy() == pytest.approx(weight * P)
    vfl = curves.curve("vfl", iou=0.3, positive=False)
    assert vfl["gradient"].to_numpy() == pytest.approx(0.75 * P**3)


def test_focal_is_blind_to_the_iou_and_its_gradient_is_that_of_the_whole_product() -> None:
    low, high = curves.curve("focal", iou=0.05), curves.curve("focal", iou=0.95)
    assert low.equals(high)
    slope = np.gradient(low["loss"], P, edge_order=2) * P * (1 - P)  # d/dlogit = p (1 − p) d/dp
    assert low["gradient"].to_numpy()[5:-5] == pytest.approx(slope[5:-5], rel=0.02, abs=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_minima(gamma: float) -> None:
    ious = np.linspace(0, 1, 41)
    assert curves.minimum("mal", ious, gamma=gamma) == pytest.approx(ious**gamma, abs=1e-9)
    vfl = curves.minimum("vfl", ious)
    assert np.isnan(vfl[0])  # flat: a match of IoU 0 has no weight at all
    assert vfl[1:] == pytest.approx(ious[1:], abs=1e-9)
    assert (curves.minimum("focal", ious) == 1).all()
    assert curves.minimum("mal", 0.5, gamma=gamma).shape == ()


def test_minimum_is_the_least_point_of_the_curve() -> None:
    for kind in ("vfl", "mal"):
        found = curves.curve(kind, iou=0.6)
        assert float(curves.minimum(kind, 0.6)) == pytest.approx(
            found["score"].iloc[found["loss"].argmin()], abs=0.005
        )


def test_ratio() -> None:
    found = curves.gradient_ratio(0.05, gamma=1.5, scores=(0.03, 0.1, 0.5))
    expected = [(p - 0.05**1.5) / (0.05 * (p - 0.05)) for p in (0.03, 0.1, 0.5)]
    assert found["ratio"].tolist() == pytest.approx(expected)
    assert found["ratio"][0] < 0  # between the two minima they point in opposite directions
    assert np.isinf(curves.gradient_ratio(0.0, scores=0.5)["ratio"][0])
    assert curves.gradient_ratio(1.0)["ratio"].to_numpy() == pytest.approx(1)


def test_numbers_at_a_glance() -> None:
    found = curves.at_a_glance(2.0, 0.3, alpha=0.5, kinds=("focal", "vfl", "mal"), score=0.1)
    assert found.loc["mal", "minimum"] == pytest.approx(0.09)
    assert found.loc["mal", "positive"] == pytest.approx(0.01)
    assert found.loc["mal", "negative"] == pytest.approx(0.5 * 0.1**3)
    assert found.loc["mal", "ratio"] == pytest.approx(0.01 / (0.3 * -0.2))
    assert found.loc["vfl", "ratio"] == 1
    assert curves.at_a_glance(1.5, 0.0).loc["mal", "ratio"] == np.inf
    assert curves.at_a_glance(1.5, 0.5, kinds=()).empty


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "mall"}, "did you mean 'mal'"),
        ({"iou": 1.2}, r"iou 1\.2 is outside \[0, 1\]"),
        ({"iou": float("nan")}, "nan"),
        ({"score": 1.0}, r"score 1\.0 is outside \(0, 1\)"),
        ({"gamma": -1.0}, "gamma -1.0"),
        ({"gamma": float("nan")}, "gamma nan"),
        ({"alpha": 1.5}, "alpha 1.5"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, float | str], message: str) -> None:
    given: dict[str, Any] = {"kind": "mal", "score": 0.5, "iou": 0.5} | arguments
    with pytest.raises(ValueError, match=message):
        curves.loss_and_gradient(**given)
