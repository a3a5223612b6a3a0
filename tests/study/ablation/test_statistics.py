"""The ablation's statistics at their edges: exact numbers of seeds, directions, bad numbers.

What they say on ordinary scores is in ``test_reading``.
"""

from __future__ import annotations

import math

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
