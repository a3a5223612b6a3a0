"""State the statistics in words: one sentence per arm, never stronger than its numbers."""

from __future__ import annotations

import math

from deim_lab.study.ablation import standings, views
from deim_lab.study.ablation.activity import doubts
from deim_lab.study.ablation.arms import Arm, Comparison
from deim_lab.study.ablation.statistics import CONFIDENCE, POWER, Difference, seeds_needed, spread
from deim_lab.study.ablation.words import signed, with_sd


def verdicts(comparison: Comparison, metric: str = "AP") -> list[str]:
    """Write sentences about a comparison: the baseline, each arm, epochs saved, caveats."""
    standings.check_metric(metric, comparison)
    baseline = comparison.baseline
    mean, sd = spread(list(baseline.final(metric).values()))
    if math.isnan(mean):
        return [
            f"{metric} is undefined in every run of {baseline.name} (the validation set has no "
            f"such object, or it was not scored): nothing can "
            f"be compared by this metric.",
            *cautions(comparison, 0),
        ]
    sentences = [
        f"{baseline.name} (the baseline): {metric} {with_sd(mean, sd)} over "
        f"{_seeds(len(baseline.trials))}."
    ]
    sentences += [
        f"{doubt[0].upper()}{doubt[1:]}: no arm can be compared with this baseline."
        for doubt in doubts(baseline, baseline)
    ]
    gaps = {
        arm.name: standings.against_baseline(arm, comparison, metric)
        for arm in comparison.arms
        if standings.standing(arm, comparison) == "counts"
    }
    tested = sum(gap.low is not None for gap in gaps.values())
    for arm in comparison.arms[1:]:
        sentences.append(
            of_gap(arm, gaps[arm.name], comparison, metric, tested)
            if arm.name in gaps
            else left_out(arm, comparison)
        )
    sentences += (
        epochs_saved(comparison, metric)
        + half_the_epochs(comparison, metric)
        + cautions(comparison, tested)
    )
    return sentences


def of_gap(arm: Arm, gap: Difference, comparison: Comparison, metric: str, tested: int) -> str:
    """Describe one arm against the baseline; ``tested``: total number of such comparisons."""
    mean, sd = spread(list(arm.final(metric).values()))
    start = (
        f"{arm.name}: {metric} {with_sd(mean, sd)}, {signed(gap.mean)} against "
        f"{comparison.baseline.name}"
    )
    if gap.low is None or gap.high is None:
        return (
            f"{start} with {_seeds(gap.seeds)}: a direction at most. There is no interval; "
            "train more seeds before believing it."
        )
    how = (
        f"{_seeds(gap.seeds)}, paired"
        if gap.test == "paired"
        else "no two seeds in common: unpaired, Welch's test, which needs more of them"
    )
    if gap.test == "paired" and gap.unpaired:
        how += f"; seed {', '.join(map(str, gap.unpaired))} without a partner left out"
    start += f" [{signed(gap.low)}, {signed(gap.high)}] ({how})"
    if gap.significant:
        direction = "higher" if gap.mean > 0 else "lower"
        return f"{start}: significantly {direction}{_correction(gap, tested)}."
    return f"{start}: not significant, the interval holds 0. {_what_it_takes(gap)}"


def _correction(gap: Difference, tested: int) -> str:
    """Say whether a significant difference survives the correction for several comparisons."""
    if tested < 2:
        return ""
    survives = "also" if gap.survives(tested) else "though not"
    return f", {survives} when corrected for {tested} comparisons (Bonferroni)"


def _what_it_takes(gap: Difference) -> str:
    """Say which difference the seeds could have shown, and how many seeds this one needs."""
    detectable = (
        f"With this spread, {_seeds(gap.seeds)} could show a mean difference of "
        f"{gap.smallest:.3f} or more"
    )
    needed = seeds_needed(gap.sd, gap.mean) if gap.sd is not None else None
    if gap.sd is None:
        return f"{detectable}."
    size = f"one of {abs(gap.mean):.3f}"
    if needed is None:
        return f"{detectable}; {size} is beyond any number of seeds worth training."
    return (
        f"{detectable}; {size}, if it is real, takes about {max(needed, gap.seeds + 1)} seeds "
        f"({POWER:.0%} power)."
    )


def left_out(arm: Arm, comparison: Comparison) -> str:
    """Explain why an arm is in no conclusion."""
    standing = standings.standing(arm, comparison)
    if standing == "no runs":
        failures = "; ".join(
            f"seed {item.seed} {item.status}" + (f" ({item.error})" if item.error else "")
            for item in arm.unfinished
        )
        return f"{arm.name} is left out: no finished run. {failures}".rstrip()
    if standing == "unsound baseline":
        return f"{arm.name} is left out: the baseline is unsound."
    if standing == "not active":
        return (
            f"{arm.name} is left out because its factor was not active: "
            f"{'; '.join(doubts(arm, comparison.baseline))}."
        )
    budget = ", ".join(
        f"{key} {value} instead of {other}"
        for key, (value, other) in comparison.budget(arm).items()
    )
    return (
        f"{arm.name} had another budget than {comparison.baseline.name} ({budget}). A "
        "difference between them is never the effect of a method alone."
    )


def epochs_saved(comparison: Comparison, metric: str) -> list[str]:
    """Sentences on the epochs that each counted arm takes to the baseline's final score."""
    better = standings.higher_is_better(metric)
    if better is None:
        return []
    table = views.reached(comparison, metric)
    epochs = comparison.baseline.flat["train.epochs"]
    name, sentences = comparison.baseline.name, []
    for row in table[table["standing"] == "counts"].to_dict("records"):
        who = f"{row['arm']} reaches {name}'s final {metric}"
        if row["reached"] == 0:
            sentences.append(
                f"{row['arm']} never reaches {name}'s final {metric} ({_seeds(row['seeds'])})."
            )
        elif row["reached"] < row["seeds"]:
            sentences.append(
                f"{who} with only {row['reached']} of {row['seeds']} seeds, after "
                f"{row['mean']:.1f} of {epochs} epochs on average."
            )
        else:
            sentences.append(
                f"{who} after {row['mean']:.1f} of {epochs} epochs on average "
                f"({_seeds(row['seeds'])})."
            )
    if sentences:
        baseline_row = table.iloc[0]
        every = int(views.reaching(comparison, metric)["every"].max())
        early = (
            f"; {name} itself first scores its own final {metric} after {baseline_row['mean']:.1f}"
            if baseline_row["mean"] < epochs
            else ""
        )
        often = "at every epoch" if every == 1 else f"one every {every} epochs"
        good = "high" if better else "low"
        sentences[-1] += (
            f" (The first evaluation that is at least as {good} counts, {often}{early}.)"
        )
    return sentences


def half_the_epochs(comparison: Comparison, metric: str) -> list[str]:
    """Sentences on arms at E / 2 epochs against the baseline at E."""
    sentences = []
    for row in views.halves(comparison, metric).to_dict("records"):
        if row["standing"] != "counts":
            continue
        start = (
            f"Half the epochs: {row['arm']} at {row['epochs']:.0f} against "
            f"{comparison.baseline.name} at {row['baseline_epochs']:.0f}: "
            f"{metric} {signed(row['difference'])}"
        )
        if math.isnan(row["low"]):
            sentences.append(f"{start}; too few seeds for an interval.")
            continue
        meaning = _meaning_of_half(row["low"], row["high"], standings.higher_is_better(metric))
        sentences.append(f"{start} [{signed(row['low'])}, {signed(row['high'])}]: {meaning}.")
    return sentences


def _meaning_of_half(low: float, high: float, better: bool | None) -> str:
    """State what the interval of half the epochs against all epochs means.

    ``better``: whether higher is better; None if neither direction is.
    """
    if low <= 0 <= high:
        return "not significant; these seeds do not show whether half the epochs are enough"
    word = "higher" if low > 0 else "lower"
    if better is None:
        return f"significantly {word}"
    if (low > 0) == better:
        return f"significantly {word}, with half the epochs"
    return f"significantly {word}, half the epochs were not enough"


def cautions(comparison: Comparison, tested: int) -> list[str]:
    """State how far to trust the sentences before."""
    sentences = []
    if tested > 1:
        luck = 1 - CONFIDENCE**tested
        sentences.append(
            f"Each interval is separate: of {tested} comparisons at {CONFIDENCE:.0%}, at least one "
            f"misleads in up to {luck:.0%} of all repetitions."
        )
    pairs = [len(arm.trials) for arm in comparison.arms if arm.trials]
    if pairs and 2 <= min(pairs) <= 4:
        sentences.append(
            f"With {min(pairs)} seeds the spread itself is a rough guess; five or more make the "
            f"intervals much narrower."
        )
    gone = [item for arm in comparison.arms for item in arm.unfinished]
    if gone:
        counted = ", ".join(
            f"{sum(item.status == status for item in gone)} {status}"
            for status in dict.fromkeys(item.status for item in gone)
        )
        sentences.append(f"Not in any number above: {counted} (of {len(gone) + sum(pairs)} runs).")
    return sentences + [f"Note: {note}." for note in comparison.notes]


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"
