"""The zoo: a row a preset, counted parameters beside published ones, times of this machine."""

from __future__ import annotations

import pandas as pd
import pytest

from deim_lab.config.presets import PRESETS
from deim_lab.errors import ConfigError
from deim_lab.study import models
from deim_lab.study.paper import reported

NAMES = ("deim_dfine_n", "deimv2_hgnetv2_femto", "rtdetrv2_r18", "smoke")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return models.table(NAMES).set_index("preset")


def test_counts_are_those_of_the_models_and_stand_beside_published_ones(
    table: pd.DataFrame,
) -> None:
    row = table.loc["deim_dfine_n"]
    assert (row["params_train_millions"], row["params_deploy_millions"]) == (
        pytest.approx(3.782693),
        pytest.approx(3.753799),
    )
    assert row["gflops"] == pytest.approx(7.165, rel=0.01)
    assert (
        row["reported_ap_percent"],
        row["reported_latency_ms"],
        row["reported_gflops"],
        row["source"],
    ) == (43.0, 2.12, 7, "DEIM README")
    assert (row["model"], row["family"], row["epochs"], row["input_px"]) == (
        "DEIM-D-FINE-N",
        "dfine",
        160,
        "640 × 640",
    )
    assert table.loc["deimv2_hgnetv2_femto", "input_px"] == "416 × 416"
    assert table.loc["rtdetrv2_r18", "gflops"] == pytest.approx(60.2, rel=0.01)
    for name in (
        "deim_dfine_n",
        "rtdetrv2_r18",
    ):  # counted and published agree to the published digits
        assert (
            round(table["params_deploy_millions"].loc[name])
            == table.loc[name, "reported_params_millions"]
        )


def test_what_nobody_reports_stays_empty(table: pd.DataFrame) -> None:
    assert (
        table.loc["smoke", [name for name in models.COLUMNS if name.startswith("reported")]]
        .isna()
        .all()
    )
    assert table.loc["smoke", "model"] == "smoke"
    assert pd.isna(table["reported_latency_ms"].loc["deimv2_hgnetv2_femto"])
    assert table.loc["deimv2_hgnetv2_femto", "reported_ap_percent"] == 31.0


# Slow: a second for each preset, though its model is built on the meta device.
@pytest.mark.slow
def test_all_presets_are_in_it_with_the_published_parameters() -> None:
    whole = models.table()
    assert whole["preset"].tolist() == list(PRESETS)
    named = whole.dropna(subset=["reported_params_millions"])
    assert len(named) == 20
    gaps = [
        (named[f"params_{form}_millions"] - named["reported_params_millions"]).abs()
        for form in ("train", "deploy")
    ]
    odd = named[gaps[0].combine(gaps[1], min) >= 1]  # published in whole millions, of either form
    assert odd["preset"].tolist() == [
        "rtdetrv2_r50m"
    ]  # it owns six decoder layers and uses three, which are what is published


def test_times_have_an_order_and_say_where_they_are_from() -> None:
    found = models.times(["smoke"], overrides={"data.input_size": 64}, repeats=3)
    row = found.iloc[0]
    assert tuple(found.columns) == models.TIMES
    assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
    assert row["images_per_second"] == pytest.approx(1000 / row["median_ms"])
    assert (row["input_px"], row["form"], row["precision"], row["kind"]) == (
        "64 × 64",
        "deploy",
        "fp32",
        "measured",
    )
    assert row["device"]
    with pytest.raises(ConfigError, match="did you mean 'smoke'"):
        models.times(["smoke", "smok"])
    with pytest.raises(ConfigError, match="fp16"):
        models.times(["smoke"], precision="fp16")


def test_each_reported_preset_has_its_row() -> None:
    assert {row.preset for row in reported.rows("zoo")} - {None} <= set(PRESETS)
