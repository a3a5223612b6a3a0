"""The statistics of an ablation against scipy and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from deim_lab.errors import ConfigError
from deim_lab.study.ablation.statistics import (
    Difference,
    difference,
    first_reach,
    seeds_needed,
    spread,
)


def test_a_paired_difference_is_students() -> None:
    arm, base = {0: 0.583, 1: 0.589, 2: 0.571}, {0: 0.549, 1: 0.553, 2: 0.560}
    found = difference(arm, base)
    gaps = np.array([arm[seed] - base[seed] for seed in arm])
    expected = stats.ttest_1samp(gaps, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert (found.test, found.seeds, found.unpaired) == ("paired", 3, ())
    assert (found.mean, found.low, found.high, found.p) == pytest.approx(
        (gaps.mean(), low, high, expected.pvalue)
    )
    assert found.smallest == pytest.approx((high - low) / 2)
    assert found.significant == (low > 0)


def test_seeds_in_another_order_are_still_paired() -> None:
    arm, base = {0: 0.5, 1: 0.6, 2: 0.7}, {2: 0.68, 0: 0.48, 1: 0.585}
    assert difference(arm, base).mean == pytest.approx((0.02 + 0.02 + 0.015) / 3)
    assert (
        difference(arm, base).significant is True
    )  # the scores spread by 0.1, the differences by 0.003
    assert (
        difference(arm, {3: 0.48, 4: 0.585, 5: 0.68}).significant is False
    )  # what pairing was worth


def test_seeds_that_do_not_match_are_compared_by_welch() -> None:
    arm, base = {0: 0.52, 1: 0.55, 2: 0.53}, {7: 0.50, 8: 0.505}
    found = difference(arm, base)
    expected = stats.ttest_ind(list(arm.values()), list(base.values()), equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (found.test, found.seeds, found.sd) == ("Welch", 2, None)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue))


def test_partly_matching_seeds_are_paired_and_the_others_named() -> None:
    found = difference({0: 0.5, 1: 0.6, 3: 0.9}, {0: 0.4, 1: 0.45, 2: 0.1})
    assert (found.test, found.seeds, found.unpaired) == ("paired", 2, (2, 3))
    assert found.mean == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("arm", "base"),
    [({0: 0.6}, {0: 0.5}), ({0: 0.6}, {1: 0.5}), ({0: 0.6}, {0: 0.5, 1: 0.4}), ({}, {0: 0.5})],
)
def test_too_few_seeds_give_no_interval(arm: dict[int, float], base: dict[int, float]) -> None:
    found = difference(arm, base)
    assert (found.low, found.high, found.p, found.significant, found.smallest, found.test) == (
        None,
        None,
        None,
        None,
        None,
        "none",
    )
    assert math.isnan(found.mean) == (not arm)


def test_equal_differences_need_no_division_by_zero() -> None:
    assert difference({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6}).significant is False
    assert difference({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25}).significant is True


def test_bonferroni_asks_for_more() -> None:
    found = difference({0: 0.52, 1: 0.53, 2: 0.51}, {0: 0.5, 1: 0.5, 2: 0.5})
    assert found.p == pytest.approx(0.0742, abs=1e-4)
    sure = difference({0: 0.52, 1: 0.525, 2: 0.518}, {0: 0.5, 1: 0.5, 2: 0.5})
    assert sure.survives(1)
    assert sure.p is not None
    assert 5 * sure.p < 0.05 < 6 * sure.p
    assert sure.survives(5)
    assert not sure.survives(6)


def test_seeds_needed_gives_the_power_that_it_says() -> None:
    count = seeds_needed(0.01, 0.008)
    assert count is not None
    gaps = np.random.default_rng(0).normal(0.008, 0.01, (4000, count))
    found = (stats.ttest_1samp(gaps, 0.0, axis=1).pvalue < 0.05).mean()
    assert 0.78 < found < 0.86
    assert seeds_needed(0.01, 0.0) is None
    assert seeds_needed(0.1, 1e-4) is None


def test_spread_leaves_out_what_is_no_number() -> None:
    assert spread([0.5, math.nan, 0.7]) == pytest.approx((0.6, math.sqrt(0.02)))
    assert spread([0.5])[1] is None
    assert math.isnan(spread([])[0])


def test_first_reach_takes_the_first_evaluation_as_high() -> None:
    assert first_reach([6, 12, 18], [0.3, 0.5, 0.4], 0.4) == 12
    assert first_reach([6, 12], [0.3, 0.4], 0.4) == 12
    assert first_reach([6, 12], [0.3, 0.39], 0.4) is None


def smallest_effect(count: int, sd: float) -> float:
    """The effect at which ``count`` paired seeds are just enough."""
    quantiles = stats.t.ppf(0.975, count - 1) + stats.t.ppf(0.8, count - 1)
    return float(quantiles * sd / math.sqrt(count))


@pytest.mark.parametrize("count", [2, 3, 14, 999, 1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_seeds_needed_is_the_least_number_of_its_formula(count: int, sign: int) -> None:
    effect = sign * smallest_effect(count, 0.01)
    assert seeds_needed(0.01, effect * (1 + 1e-6)) == count
    more = seeds_needed(0.01, effect * (1 - 1e-6))
    assert more == (count + 1 if count < 1000 else None)


def test_seeds_needed_without_spread_or_effect() -> None:
    assert seeds_needed(0.0, 0.01) == 2
    assert seeds_needed(0.0, 0.0) is None


@pytest.mark.parametrize(("sd", "effect"), [(-0.1, 0.1), (math.nan, 0.1), (0.1, math.inf)])
def test_numbers_that_no_count_answers_are_refused(sd: float, effect: float) -> None:
    with pytest.raises(ConfigError, match="expected finite numbers"):
        seeds_needed(sd, effect)


def test_a_score_that_should_fall_reaches_from_above() -> None:
    epochs, scores = [12, 6, 18], [0.4, 0.6, 0.3]
    assert first_reach(epochs, scores, 0.5, higher=False) == 12
    assert first_reach(epochs, scores, 0.4, higher=False) == 12
    assert first_reach(epochs, scores, 0.2, higher=False) is None
    assert first_reach(epochs, scores, 0.5, higher=None) is None
    with pytest.raises(ValueError):
        first_reach(epochs, scores[:2], 0.5)


def test_an_interval_that_ends_at_0_is_not_significant() -> None:
    for low, high in ((0.0, 0.2), (-0.2, 0.0), (-0.1, 0.1)):
        assert Difference(0.0, low, high, 0.05, "paired", 3).significant is False
    assert Difference(0.1, 1e-9, 0.2, 0.04, "paired", 3).significant is True
    assert Difference(-0.1, -0.2, -1e-9, 0.04, "paired", 3).significant is True


def test_a_constant_difference_has_no_spread_and_a_sure_p() -> None:
    apart = difference({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25})
    assert (apart.mean, apart.low, apart.high, apart.p, apart.sd) == (0.25, 0.25, 0.25, 0.0, 0.0)
    equal = difference({0: 0.5, 1: 0.75}, {0: 0.5, 1: 0.75})
    assert (equal.mean, equal.low, equal.high, equal.p) == (0.0, 0.0, 0.0, 1.0)
    assert not equal.survives(1)
    welch = difference({0: 0.5, 1: 0.5}, {2: 0.25, 3: 0.25})
    assert (welch.low, welch.high, welch.p, welch.test) == (0.25, 0.25, 0.0, "Welch")


def test_without_an_interval_the_mean_stands_alone() -> None:
    one = difference({0: 0.75}, {0: 0.5, 1: 0.25})
    assert (one.mean, one.test, one.seeds, one.unpaired) == (0.25, "none", 1, (1,))
    apart = difference({0: 0.75}, {1: 0.5, 2: 0.25})
    assert (apart.mean, apart.test, apart.seeds, apart.unpaired) == (0.375, "none", 1, (0, 1, 2))
    shared = difference({0: 0.75, 1: 0.5, 2: 0.5}, {0: 0.5, 3: 0.25})
    assert (shared.test, shared.seeds, shared.unpaired) == ("Welch", 2, (1, 2, 3))
    mean, sd = spread([0.25, 0.75])
    assert mean == 0.5
    assert sd == pytest.approx(math.sqrt(0.125))
