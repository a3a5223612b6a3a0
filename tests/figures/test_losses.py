"""Loss figures against closed forms: curves, minima, ratios, surfaces, claims, shares of the
gradient, F1 over thresholds.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deim_lab import figures
from deim_lab.figures import claims, losses, quality, surfaces
from drawn import xs, ys

P = losses.SCORES
IOUS = (0.0, 0.05, 0.3, 0.5, 0.95, 1.0)


def bce(p: np.ndarray, q: float) -> np.ndarray:
    return -q * np.log(p) - (1 - q) * np.log(1 - p)


@pytest.mark.parametrize("iou", IOUS)
@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0, 3.0])
def test_positives_are_the_closed_forms(iou: float, gamma: float) -> None:
    vfl, mal = losses.curve("vfl", iou=iou), losses.curve("mal", iou=iou, gamma=gamma)
    assert vfl["loss"].to_numpy() == pytest.approx(iou * bce(P, iou))
    assert vfl["gradient"].to_numpy() == pytest.approx(iou * (P - iou))
    assert mal["loss"].to_numpy() == pytest.approx(bce(P, iou**gamma))
    assert mal["gradient"].to_numpy() == pytest.approx(P - iou**gamma, abs=1e-12)


@pytest.mark.parametrize("alpha", [None, 0.4])
def test_negatives_are_the_closed_forms_with_constant_weights(alpha: float | None) -> None:
    mal = losses.curve("mal", iou=0.3, gamma=1.5, alpha=alpha, positive=False)
    weight = (1.0 if alpha is None else alpha) * P**1.5
    assert mal["loss"].to_numpy() == pytest.approx(-weight * np.log(1 - P))
    assert mal["gradient"].to_numpy() == pytest.approx(weight * P)
    vfl = losses.curve("vfl", iou=0.3, positive=False)
    assert vfl["gradient"].to_numpy() == pytest.approx(0.75 * P**3)


def test_focal_is_blind_to_the_iou_and_its_gradient_is_that_of_the_whole_product() -> None:
    low, high = losses.curve("focal", iou=0.05), losses.curve("focal", iou=0.95)
    assert low.equals(high)
    slope = np.gradient(low["loss"], P, edge_order=2) * P * (1 - P)  # d/dlogit = p (1 − p) d/dp
    assert low["gradient"].to_numpy()[5:-5] == pytest.approx(slope[5:-5], rel=0.02, abs=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_minima(gamma: float) -> None:
    ious = np.linspace(0, 1, 41)
    assert losses.minimum("mal", ious, gamma=gamma) == pytest.approx(ious**gamma, abs=1e-9)
    vfl = losses.minimum("vfl", ious)
    assert np.isnan(vfl[0])  # flat: a match of IoU 0 has no weight at all
    assert vfl[1:] == pytest.approx(ious[1:], abs=1e-9)
    assert (losses.minimum("focal", ious) == 1).all()
    assert losses.minimum("mal", 0.5, gamma=gamma).shape == ()


def test_minimum_is_the_least_point_of_the_curve() -> None:
    for kind in ("vfl", "mal"):
        found = losses.curve(kind, iou=0.6)
        assert float(losses.minimum(kind, 0.6)) == pytest.approx(
            found["score"].iloc[found["loss"].argmin()], abs=0.005
        )


def test_ratio() -> None:
    found = losses.gradient_ratio(0.05, gamma=1.5, scores=(0.03, 0.1, 0.5))
    expected = [(p - 0.05**1.5) / (0.05 * (p - 0.05)) for p in (0.03, 0.1, 0.5)]
    assert found["ratio"].tolist() == pytest.approx(expected)
    assert found["ratio"][0] < 0  # between the two minima they point in opposite directions
    assert np.isinf(losses.gradient_ratio(0.0, scores=0.5)["ratio"][0])
    assert losses.gradient_ratio(1.0)["ratio"].to_numpy() == pytest.approx(1)


def test_numbers_at_a_glance() -> None:
    found = losses.at_a_glance(2.0, 0.3, alpha=0.5, kinds=("focal", "vfl", "mal"), score=0.1)
    assert found.loc["mal", "minimum"] == pytest.approx(0.09)
    assert found.loc["mal", "positive"] == pytest.approx(0.01)
    assert found.loc["mal", "negative"] == pytest.approx(0.5 * 0.1**3)
    assert found.loc["mal", "ratio"] == pytest.approx(0.01 / (0.3 * -0.2))
    assert found.loc["vfl", "ratio"] == 1
    assert losses.at_a_glance(1.5, 0.0).loc["mal", "ratio"] == np.inf
    assert losses.at_a_glance(1.5, 0.5, kinds=()).empty


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
        losses.loss_and_gradient(**given)


def test_overview_draws_positives_above_and_negatives_below() -> None:
    fig = losses.overview(0.5, 1.5, alpha=0.5)
    drawn = [
        {str(line.get_label()): ys(line) for line in ax.lines if len(xs(line)) == losses.POINTS}
        for ax in fig.axes
    ]
    assert [sorted(panel) for panel in drawn] == [["MAL", "VFL", "focal"]] * 4
    assert drawn[0]["MAL"] == pytest.approx(bce(P, 0.5**1.5))
    assert drawn[1]["VFL"] == pytest.approx(0.5 * (P - 0.5))
    assert drawn[3]["MAL"] == pytest.approx(0.5 * P**2.5)
    marks = sorted(
        float(xs(line)[0])
        for line in fig.axes[1].lines
        if len(xs(line)) == 1 and line.get_visible()
    )
    assert marks == pytest.approx([0.5**1.5, 0.5, 1.0])
    assert not [line for line in fig.axes[3].lines if len(xs(line)) == 1 and line.get_visible()]


def test_the_paper_panels_show_both_ends() -> None:
    fig = losses.paper_panels((0.05, 0.95), 1.5)
    for ax, iou in zip(fig.axes, (0.05, 0.95), strict=True):
        lines = {line.get_label(): ys(line) for line in ax.lines}
        assert lines["VFL"] == pytest.approx(iou * bce(P, iou))
        assert lines["MAL"] == pytest.approx(bce(P, iou**1.5))


def test_ratio_figure_dots_where_directions_differ() -> None:
    fig = losses.ratio((0.3,), 1.5)
    solid, dotted = fig.axes[0].lines[:2]
    score, opposite = (
        xs(dotted),
        np.isfinite(ys(dotted).astype(float)),
    )
    assert dotted.get_linestyle() == ":"
    assert score[opposite].min() == pytest.approx(0.3**1.5, abs=0.005)
    assert score[opposite].max() == pytest.approx(0.3, abs=0.006)
    assert not (opposite & np.isfinite(ys(solid).astype(float))).any()


def test_gamma_panel_has_a_line_for_each_gamma() -> None:
    fig = losses.gamma_panel()
    assert [line.get_label() for line in fig.axes[0].lines] == [
        f"γ = {gamma:g}" for gamma in (1.0, 1.3, 1.5, 1.8, 2.0, 2.5)
    ]
    for line, gamma in zip(fig.axes[0].lines, losses.GAMMAS, strict=True):
        assert ys(line) == pytest.approx(xs(line) ** gamma, abs=1e-9)
    assert ys(fig.axes[2].lines[-1]) == pytest.approx(P**3.5)


def test_minima_figure() -> None:
    lines = {line.get_label(): line for line in losses.minima((1.5, 2.0)).axes[0].lines}
    assert ys(lines["MAL, γ = 2"]) == pytest.approx(np.linspace(0, 1, 101) ** 2, abs=1e-9)
    assert ys(lines["VFL"])[1:] == pytest.approx(np.linspace(0, 1, 101)[1:], abs=1e-9)


# --- surfaces
# --------------------------------------------------------------------------------------------------


def test_surface_and_its_turning_twin_hold_the_same_function() -> None:
    scores, ious, values = surfaces.grid("mal", "gradient", gamma=2.0, points=11)
    assert values == pytest.approx(scores[None, :] - ious[:, None] ** 2, abs=1e-12)
    fig = surfaces.turning("gradient", kinds=("vfl", "mal"), gamma=2.0, points=11)
    assert (
        type(fig).__name__ == "Figure"
    )  # not a FigureWidget, which puts megabytes into an executed notebook
    assert np.asarray(fig.data[1].z) == pytest.approx(values, abs=6e-4)
    assert len(fig.to_json()) < 60_000
    table = figures.numbers(surfaces.contours("gradient", kinds=("vfl", "mal"), gamma=2.0)).query(
        "panel == 'mal'"
    )
    assert table["gradient"].to_numpy() == pytest.approx(
        (table["score"] - table["iou"] ** 2).to_numpy(), abs=1e-12
    )


def test_contours_draw_the_minimum() -> None:
    fig = surfaces.contours("loss", kinds=("mal",), gamma=1.5)
    line = fig.axes[0].lines[0]
    assert xs(line) == pytest.approx(ys(line) ** 1.5, abs=1e-9)
    with pytest.raises(ValueError, match="did you mean 'gradient'"):
        surfaces.contours("gradients")


# --- claims
# --------------------------------------------------------------------------------------------------


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


# --- one's own run
# --------------------------------------------------------------------------------------------------


def test_share_of_the_gradient_on_two_kinds_of_matches() -> None:
    """Half the pairs in the bin around IoU 0.2, half around 0.8: within a bin the gradients are
    linear in q (VFL's is not, but nearly).
    """
    histogram = np.zeros(200)
    histogram[[40, 160]] = 7  # bins 0.2–0.205 and 0.8–0.805
    low, high = 0.2025, 0.8025
    found = quality.share_of_gradient(histogram, gamma=2.0, scores=(0.1, 0.5)).set_index(
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
        quality.share_of_gradient(factor * histogram)["share"].to_numpy() for factor in (1, 1000)
    )
    assert shares == pytest.approx(more)
    assert quality.share_of_gradient(histogram, low_iou=1.0)["share"].to_numpy() == pytest.approx(1)
    assert (quality.share_of_gradient(histogram, low_iou=0.0)["share"] == 0).all()
    poor = quality.share_of_gradient([1.0] * 10 + [0.0] * 10)
    assert poor["share"].to_numpy() == pytest.approx(1)
    means = quality.share_over_all_scores(quality.share_of_gradient(np.ones(20)))
    assert 0 < means["vfl"] < means["mal"] < 1


def test_share_of_low_reads_within_a_bin() -> None:
    assert quality.share_of_low([2, 2], 0.25) == pytest.approx(0.25)
    assert quality.share_of_low([3, 1], 0.5) == pytest.approx(0.75)


@pytest.mark.parametrize("histogram", [[], [0, 0], [1, -1], [1, float("nan")], [[1, 2]]])
def test_a_histogram_that_is_none_is_refused(histogram: list[float]) -> None:
    with pytest.raises(ValueError, match="expected counts of pairs"):
        quality.share_of_gradient(histogram)


def test_matches_lie_under_the_curves() -> None:
    histogram = np.arange(20) + 1.0
    fig = quality.matches_under_curves(histogram, gamma=2.0)
    bars = fig.axes[0].containers[0]
    assert [bar.get_height() for bar in bars] == pytest.approx(
        (histogram / histogram.sum()).tolist()
    )
    sizes = {line.get_label(): line for line in fig.axes[2].lines}
    iou = xs(sizes["VFL, p = 0.5"])
    assert ys(sizes["VFL, p = 0.5"]) == pytest.approx(iou * abs(0.5 - iou))
    assert ys(sizes["MAL, p = 0.1"]) == pytest.approx(abs(0.1 - iou**2))
    shown = {line.get_label(): line for line in fig.axes[1].lines}
    expected = (
        quality.share_of_gradient(histogram, gamma=2.0).query("kind == 'mal'")["share"].to_numpy()
    )
    assert ys(shown["MAL"]) == pytest.approx(expected)


def curve_of(pairs: list[tuple[float, float]]) -> SimpleNamespace:
    thresholds, values = (np.array(part) for part in zip(*pairs, strict=True))
    best = int(values.argmax())
    return SimpleNamespace(
        thresholds=thresholds,
        f1_at=values,
        threshold=float(thresholds[best]),
        f1=float(values[best]),
    )


def test_f1_at_a_threshold_keeps_the_scores_at_or_above_it() -> None:
    curve = curve_of([(0.9, 0.2), (0.6, 0.5), (0.3, 0.7), (0.1, 0.4)])
    assert [quality.f1_at(curve, t) for t in (0.95, 0.9, 0.61, 0.6, 0.5, 0.0)] == [
        0.0,
        0.2,
        0.2,
        0.5,
        0.5,
        0.4,
    ]


def test_f1_of_two_runs_side_by_side(tmp_path: Path) -> None:
    curves = {
        "a": curve_of([(0.9, 0.2), (0.6, 0.5), (0.3, 0.7)]),
        "b": curve_of([(0.8, 0.65), (0.4, 0.6)]),
    }
    fig = quality.f1_over_thresholds(curves, methods={"a": "mal", "b": "vfl"})
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["a", "b"]
    marks = [
        {line.get_label(): (xs(line)[0], ys(line)[0]) for line in ax.lines if len(xs(line)) == 1}
        for ax in fig.axes
    ]
    assert marks[0] == {"0.500 at a fixed 0.5": (0.5, 0.5), "0.700 at its own 0.30": (0.3, 0.7)}
    assert marks[1] == {"0.650 at a fixed 0.5": (0.5, 0.65), "0.650 at its own 0.80": (0.8, 0.65)}
    assert quality.f1_table(curves)["f1_at_fixed"].tolist() == [0.5, 0.65]
    assert {path.suffix for path in figures.save(fig, tmp_path / "f1")} == {
        ".png",
        ".svg",
        ".pdf",
        ".csv",
    }
    with pytest.raises(ValueError, match="no run"):
        quality.f1_over_thresholds({})


def test_f1_steps_are_those_of_f1_at() -> None:
    curve = curve_of([(0.9, 0.2), (0.6, 0.5), (0.3, 0.7), (0.1, 0.4)])
    line = next(
        line
        for line in quality.f1_over_thresholds({"a": curve}).axes[0].lines
        if line.get_drawstyle() == "steps-pre"
    )
    x, y = xs(line), ys(line)
    for t in (0.05, 0.2, 0.45, 0.75):
        assert y[np.searchsorted(x, t)] == quality.f1_at(
            curve, t
        )  # "pre": a value holds up to its point
