"""Whether the factor of an arm was active: proof from the log, and doubts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deim_lab.study import ablation
from trained_runs import PLAIN, grid, trained


def doubts_of(folder: Path, name: str) -> str:
    return str(ablation.proof(ablation.read(folder)).set_index("arm").loc[name, "doubts"])


def test_an_active_arm_has_its_proof_and_no_doubt(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.45], "DEIM": [0.5, 0.56]})
    row = ablation.proof(ablation.read(tmp_path)).set_index("arm").loc["DEIM"]
    assert (
        row["doubts"],
        row["loss"],
        row["matching"],
        row["lr_reached"],
        row["dense_epochs"],
    ) == ("", "MAL γ=1.5", "hungarian", 1.0, 1.0)
    assert row["targets_dense"] == pytest.approx(3 * 2.5 * 1.5)
    assert (
        row["mosaic_share"] == row["mixup_share"] == pytest.approx(0.125)
    )  # one epoch of four at a half


def test_an_arm_whose_dense_o2o_never_came_is_left_out(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.45], "MAL": [0.42, 0.44]})
    grid(tmp_path, {"DEIM": [0.6, 0.66]}, active=False)
    found = ablation.read(tmp_path)
    assert "Mosaic was requested (augment.mosaic_prob 0.5) but never happened" in doubts_of(
        tmp_path, "DEIM"
    )
    assert ablation.summary(found).set_index("arm")["standing"].to_dict() == {
        "plain": "baseline",
        "MAL": "counts",
        "DEIM": "not active",
    }
    said = [sentence for sentence in ablation.verdicts(found) if sentence.startswith("DEIM")]
    assert len(said) == 1  # neither a difference nor epochs saved
    assert "left out because its factor was not active" in said[0]


def test_one_run_without_its_factor_is_enough_to_doubt_the_arm(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.45], "DEIM": [0.5]})
    trained(tmp_path, {}, 1, 0.5, active=False)
    assert "never happened" in doubts_of(tmp_path, "DEIM")


def test_a_learning_rate_that_never_came_is_found(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4, 0.45]})
    trained(tmp_path, {}, 0, 0.5, lr=1e-5)
    assert "left its warm-up: the highest was" in doubts_of(tmp_path, "DEIM")
    for seed in (0, 1):
        trained(
            tmp_path, PLAIN, seed, 0.4, lr=1e-5
        )  # now the baseline's too, and the latest run counts
    found = ablation.read(tmp_path)
    trained(tmp_path, {}, 0, 0.5)
    assert ablation.summary(ablation.read(tmp_path))["standing"].tolist() == [
        "baseline",
        "unsound baseline",
    ]
    assert any(
        "no arm can be compared with this baseline" in sentence
        for sentence in ablation.verdicts(found)
    )
    trained(tmp_path, {"train.epochs": 2}, 0, [0.4, 0.6])
    trained(tmp_path, {"train.epochs": 2}, 1, [0.4, 0.62])
    found = ablation.read(tmp_path, baseline="plain, epochs=4")
    assert ablation.halves(found)["standing"].tolist() == ["unsound baseline"]
    assert not any("Half the epochs" in sentence for sentence in ablation.verdicts(found))


@pytest.mark.parametrize(
    ("base", "changed", "said"),
    [
        ({}, {"loss.gamma": 1.5}, "loss.gamma only repeat the value in force"),
        (
            PLAIN,
            PLAIN | {"augment.mosaic_scale": [0.8, 1.6]},
            "augment.mosaic_scale changed nothing: Mosaic never happened",
        ),
        (
            {},
            {"schedule.dense_share": 0.49},
            "schedule.dense_share changed nothing: every epoch has the same phase",
        ),
        (
            {},
            {"schedule.warmup_epochs": 3},
            "schedule.warmup_epochs changed nothing: every epoch has the same phase",
        ),
        (
            {},
            {"match.kind": "groups(4)"},
            "match.kind groups(4) never gave a target more than one query",
        ),
        ({}, {"match.kind": "simota"}, "SimOTA never gave a target more than one query"),
    ],
)
def test_a_change_without_effect_is_found(
    tmp_path: Path, base: dict[str, Any], changed: dict[str, Any], said: str
) -> None:
    for seed, ap in enumerate((0.4, 0.5)):
        trained(tmp_path, base, seed, ap)
        trained(tmp_path, changed, seed, ap + 0.01 * (seed + 1))
    other = next(arm for arm in ablation.read(tmp_path).arms if arm.changes)
    proof = ablation.proof(
        ablation.read(tmp_path, baseline=ablation.read(tmp_path).baseline.name)
    ).set_index("arm")
    assert said in proof["doubts"].loc[other.name]


def test_lengths_of_phases_that_differ_are_no_doubt_unless_the_phase_is_empty(
    tmp_path: Path,
) -> None:
    for seed, ap in enumerate((0.4, 0.5)):
        trained(tmp_path / "dense", {}, seed, ap)
        trained(tmp_path / "dense", {"schedule.dense_share": 0.3}, seed, ap + 0.01, dense_epoch=2)
        trained(tmp_path / "plain", PLAIN, seed, ap)
        trained(
            tmp_path / "plain",
            PLAIN | {"schedule.dense_share": 0.3},
            seed,
            ap + 0.01,
            dense_epoch=2,
        )
    assert ablation.proof(ablation.read(tmp_path / "dense"))["doubts"].tolist() == ["", ""]
    assert (
        "changed no image, only the learning rate: neither Mosaic nor MixUp ever happened"
        in ablation.proof(ablation.read(tmp_path / "plain"))["doubts"].str.cat()
    )


def test_simota_with_more_positives_than_targets_is_active(tmp_path: Path) -> None:
    trained(tmp_path, {}, 0, 0.4)
    trained(tmp_path, {"match.kind": "simota"}, 0, 0.41, positives=2.5)
    assert ablation.proof(ablation.read(tmp_path))["doubts"].tolist() == ["", ""]


def test_equal_numbers_betray_a_factor_without_effect(tmp_path: Path) -> None:
    for seed, ap in enumerate((0.4, 0.5)):
        trained(tmp_path, {}, seed, ap)
        trained(tmp_path, {"augment.zoom_out_max": 3.0}, seed, ap)
    assert any(
        "to the last digit" in doubt for doubt in ablation.proof(ablation.read(tmp_path))["doubts"]
    )
