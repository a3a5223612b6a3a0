"""Test differences between two arms over seeds: paired or Welch's t, power, seeds needed.

Numbers in, numbers out. Runs of one seed share initialisation, image order and augmentation draws.
Shared luck cancels in their difference. Arms are therefore compared seed by seed where they share
seeds (Student 1908), else as two independent samples of unequal spread (Welch 1947).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from deim_lab.errors import ConfigError

CONFIDENCE = 0.95
POWER = 0.8
_MOST_SEEDS = 1000  # more seeds than anyone trains

Test = Literal["paired", "Welch", "none"]


@dataclass(frozen=True)
class Difference:
    """Mean of arm − baseline, with its confidence interval (level ``CONFIDENCE``).

    Attributes:
        mean: of the differences by seed, or (without shared seeds) the difference of the means; NaN
            without any score.
        low, high: the interval; None with too few seeds.
        p: two-sided, of no difference; None without an interval.
        test: ``paired`` (by seed), ``Welch`` (fewer than two seeds in common), ``none``.
        seeds: pairs that were compared; for Welch, the smaller number of seeds.
        sd: of the paired differences; None otherwise.
        unpaired: seeds that only one of the two arms has; a paired test leaves them out.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    test: Test
    seeds: int
    sd: float | None = None
    unpaired: tuple[int, ...] = ()

    @property
    def smallest(self) -> float | None:
        """Smallest mean difference that this spread and these seeds can show: half the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def significant(self) -> bool | None:
        """Whether the interval excludes 0; None without an interval."""
        return (
            None if self.low is None or self.high is None else bool(self.low > 0 or self.high < 0)
        )

    def survives(self, comparisons: int) -> bool:
        """Whether the difference stays significant after Bonferroni's correction."""
        return (
            self.p is not None
            and bool(self.significant)
            and self.p * comparisons <= 1 - CONFIDENCE + 1e-12
        )


def difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Compare scores by seed (``{seed: score}``).

    Paired if at least two seeds are shared, else by Welch's test, else the mean alone.
    """
    shared = sorted(set(arm) & set(baseline))
    alone = tuple(sorted(set(arm) ^ set(baseline)))
    if len(shared) >= 2 or (shared and min(len(arm), len(baseline)) < 2):
        gaps = np.array([arm[seed] - baseline[seed] for seed in shared], dtype=float)
        if len(gaps) == 1:
            return Difference(float(gaps[0]), None, None, None, "none", 1, unpaired=alone)
        sd = float(gaps.std(ddof=1))
        low, high, p = _interval(float(gaps.mean()), sd / math.sqrt(len(gaps)), len(gaps) - 1)
        return Difference(float(gaps.mean()), low, high, p, "paired", len(gaps), sd, alone)
    first, second = (np.array(list(scores.values()), dtype=float) for scores in (arm, baseline))
    gap = float(first.mean() - second.mean()) if len(first) and len(second) else math.nan
    fewest = min(len(first), len(second))
    if fewest < 2:
        return Difference(gap, None, None, None, "none", fewest, unpaired=alone)
    variances = [float(scores.var(ddof=1)) / len(scores) for scores in (first, second)]
    total = sum(variances)
    parts = sum(
        variance**2 / (len(scores) - 1)
        for variance, scores in zip(variances, (first, second), strict=True)
    )
    low, high, p = _interval(gap, math.sqrt(total), total**2 / parts if parts else fewest - 1)
    return Difference(gap, low, high, p, "Welch", fewest, unpaired=alone)


def spread(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1) of the finite scores.

    The mean is NaN without any score. The deviation is None with fewer than two.
    """
    finite = np.array([score for score in scores if math.isfinite(score)], dtype=float)
    return float(finite.mean()) if len(finite) else math.nan, float(finite.std(ddof=1)) if len(
        finite
    ) > 1 else None


def seeds_needed(sd: float, effect: float) -> int | None:
    """Number of paired seeds that shows a true difference of ``effect`` with power ``POWER``.

    The smallest n with ``(t(0.975) + t(0.8)) · sd / √n ≤ |effect|`` at n − 1 degrees of freedom;
    None above
    1000. A rough guide: ``sd`` is itself an estimate.
    """
    if sd < 0 or not math.isfinite(sd) or not math.isfinite(effect):
        raise ConfigError(f"sd {sd!r} and effect {effect!r}: expected finite numbers and sd ≥ 0")
    for count in range(2, _MOST_SEEDS + 1):
        quantiles = _quantile(1 - (1 - CONFIDENCE) / 2, count - 1) + _quantile(POWER, count - 1)
        if quantiles * sd / math.sqrt(count) <= abs(effect) and effect:
            return count
    return None


def first_reach(
    epochs_done: Sequence[int],
    scores: Sequence[float],
    target: float,
    *,
    higher: bool | None = True,
) -> int | None:
    """Completed epochs at the first evaluation that reaches ``target``; None if none does.

    Nothing is interpolated. ``higher``: True if a score reaches the target from below, False if
    from
    above. With None no score reaches it, because neither direction is better.
    """
    for epoch, score in sorted(zip(epochs_done, scores, strict=True)):
        if (higher is True and score >= target) or (higher is False and score <= target):
            return int(epoch)
    return None


def _interval(mean: float, error: float, degrees: float) -> tuple[float, float, float]:
    """Return ``mean ± t · error`` and the two-sided p of a mean of 0."""
    if error <= abs(mean) * 1e-12:  # all seeds agree: no spread to divide by
        return mean, mean, 1.0 if mean == 0 else 0.0
    half = _quantile(1 - (1 - CONFIDENCE) / 2, degrees) * error
    return mean - half, mean + half, float(2 * special.stdtr(degrees, -abs(mean) / error))


def _quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t."""
    return float(special.stdtrit(degrees, probability))
