"""Positives of each kind of matching on the same images, and the claims about them."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from deim_lab.data.coco import CocoDataset
from deim_lab.study import matching
from matching_views import CONFIG, model_of


def test_positives_of_each_kind_on_the_same_images(dataset: CocoDataset) -> None:
    counted = matching.positives(
        model_of(),
        dataset,
        CONFIG,
        samples=12,
        batch_size=5,
        kinds=("hungarian", "simota", "groups(5)"),
    )
    by_method = {name: rows.reset_index() for name, rows in counted.groupby("method", sort=False)}
    assert list(by_method) == [
        "one-to-one",
        "SimOTA",
        "5 query groups",
        "Dense O2O (Mosaic 0.5, MixUp 0.5)",
        "Dense O2O (Mosaic 1, MixUp 0)",
        "Dense O2O (Mosaic 1, MixUp 1)",
    ]
    plain = by_method["one-to-one"]
    assert sorted(plain["image"]) == list(range(12))
    assert (plain["positives"] == plain["targets"]).all()
    assert (
        plain["targets"].tolist()
        == dataset.counts[torch.tensor(plain["image"].to_numpy())].tolist()
    )
    for other in ("SimOTA", "5 query groups"):
        assert by_method[other]["targets"].tolist() == plain["targets"].tolist()
        assert by_method[other]["image"].tolist() == plain["image"].tolist()
    assert (by_method["5 query groups"]["positives"] == 5 * plain["positives"]).all()
    dense = by_method["Dense O2O (Mosaic 1, MixUp 1)"]
    assert dense["targets"].mean() > 3 * plain["targets"].mean()
    assert (dense["positives"] == dense["targets"].clip(upper=20)).all(), (
        "one-to-one, and no more than there are queries"
    )
    found = matching.summary(counted).set_index("method")
    assert found.loc["5 query groups", "times"] == pytest.approx(5)
    assert found.loc["one-to-one", "per_target"] == 1


def test_the_claims_are_read_from_the_numbers() -> None:
    counted = pd.DataFrame(
        {
            "method": ["one-to-one", "SimOTA", "Dense O2O (a)", "Dense O2O (b)"],
            "image": 0,
            "targets": [2, 2, 8, 5],
            "positives": [2, 19, 8, 5],
        }
    )
    said = matching.claims(counted)
    assert "9.5 positives per target here, about the claimed 10" in said
    lines = said.splitlines()
    assert "Dense O2O (a): 4.0 times the positives per image of plain images, about the" in lines[1]
    assert lines[2].startswith("Dense O2O (b): 2.5 times")
    assert lines[2].endswith("fewer than the claimed 4.")
