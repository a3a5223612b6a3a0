"""The verdict in words says no more than the numbers support."""

from __future__ import annotations

from pathlib import Path

from deim_lab.study import ablation
from deim_lab.study.ablation.arms import BUDGET
from trained_runs import grid, trained

MAL = {"loss.classification": "mal"}


def test_a_verdict_on_plain_runs_says_nothing_of_deim(tmp_path: Path) -> None:
    for seed, ap in enumerate((0.50, 0.52, 0.51)):
        trained(tmp_path, {}, seed, ap, recipe="dfine_n")
        trained(tmp_path, MAL, seed, ap + 0.05 + 0.001 * seed, recipe="dfine_n")
    found = ablation.read(tmp_path)
    assert found.baseline.name == "plain"
    said = ablation.verdicts(found)
    assert any(
        sentence.startswith("MAL: AP") and "significantly higher" in sentence for sentence in said
    )
    assert not any("DEIM" in sentence or "Dense O2O" in sentence for sentence in said)


def test_nothing_is_said_of_a_metric_that_is_undefined(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.5], "DEIM": [0.5, 0.6]})
    found = ablation.read(tmp_path)
    assert ablation.per_run(found, "APs")["APs"].isna().all()
    said = " ".join(ablation.verdicts(found, "APs"))
    assert "APs is undefined in every run of plain" in said
    assert "nan" not in said
    assert "reaches" not in said


def test_words_say_significant_only_where_the_numbers_do(tmp_path: Path) -> None:
    grid(
        tmp_path,
        {"plain": [0.50, 0.52, 0.51], "DEIM": [0.55, 0.572, 0.561], "MAL": [0.49, 0.54, 0.51]},
    )
    said = ablation.verdicts(ablation.read(tmp_path))
    deim, mal = (
        next(sentence for sentence in said if sentence.startswith(f"{arm}: AP"))
        for arm in ("DEIM", "MAL")
    )
    assert "significantly higher, also when corrected for 2 comparisons" in deim
    assert "not significant, the interval holds 0" in mal
    assert "3 seeds could show a mean difference of" in mal
    assert any(f"misleads in up to {1 - 0.95**2:.0%}" in sentence for sentence in said)
    assert any("3 seeds the spread itself is a rough guess" in sentence for sentence in said)
    assert not any(
        "significantly" in sentence for sentence in said if not sentence.startswith("DEIM")
    )


def test_one_seed_is_a_direction(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.50], "DEIM": [0.60]})
    said = ablation.verdicts(ablation.read(tmp_path))
    assert any(
        "DEIM: AP 0.600, +0.100 against plain with 1 seed: a direction at most" in sentence
        for sentence in said
    )
    assert not any("significant" in sentence for sentence in said)
    assert ablation.readable(ablation.summary(ablation.read(tmp_path)))["in words"].tolist() == [
        "baseline",
        "too few seeds for an interval",
    ]


def test_another_budget_is_flagged_and_goes_to_the_half_epochs_view(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.50, 0.52, 0.51]})
    for seed, ap in enumerate((0.55, 0.572, 0.561)):
        trained(tmp_path, {"train.epochs": 2}, seed, [ap - 0.1, ap])
        trained(tmp_path, {"data.batch_size": 2, "train.epochs": 2}, seed, [ap - 0.1, ap])
    found = ablation.read(tmp_path, baseline="plain, epochs=4")
    assert set(ablation.summary(found)["standing"]) == {"baseline", "other budget"}
    table = ablation.halves(found)
    assert table[["arm", "epochs", "baseline_epochs"]].to_numpy().tolist() == [
        ["DEIM", 2.0, 4.0]
    ]  # the other differs in its batch as well
    assert table["low"][0] > 0
    said = ablation.verdicts(found)
    half = next(sentence for sentence in said if sentence.startswith("Half the epochs"))
    assert half.startswith("Half the epochs: DEIM at 2 against plain, epochs=4 at 4: AP +0.051")
    assert "significantly higher" in half
    assert sum("another budget than" in sentence for sentence in said) == 2
    assert not any("reaches" in sentence for sentence in said)
    assert "train.epochs" in BUDGET
