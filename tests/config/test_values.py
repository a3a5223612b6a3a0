"""One value of a config from any door: text of numbers, numbers of numpy, pandas and torch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import deim_lab
from deim_lab import config as configs
from deim_lab.config.presets import preset
from deim_lab.config.values import coerce
from deim_lab.errors import ConfigError
from deim_lab.sweep import grid


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-3", 0.001),
        ("2E4", 20_000.0),
        ("1.5e+2", 150.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-0.25", -0.25),
        ("7", 7.0),
        (" 1e-3 ", 0.001),
    ],
)
def test_text_of_a_number_is_the_number(text: str, number: float) -> None:
    value = coerce("optim.lr", text, float)
    assert value == number
    assert type(value) is float


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "1e", "1_000", "0x10", "one", "1,5", "1e-3 s", "1e999", "٣"]
)
def test_other_text_is_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^optim\.lr: "):
        coerce("optim.lr", text, float)


def test_whole_numbers_stay_whole() -> None:
    assert coerce("train.epochs", "12", int) == 12
    for value in ("12.5", "1e3", 12.0, True, "true", np.float64(3.0), np.bool_(True), ""):
        with pytest.raises(ConfigError, match=r"train\.epochs: expected int"):
            coerce("train.epochs", value, int)
    with pytest.raises(ConfigError):
        coerce("model.share_box_head", "1", bool)


def test_text_stays_text_where_text_is_due() -> None:
    assert coerce("train.device", "1e-3", str) == "1e-3"
    assert coerce("model.backbone_weights", "7", str | None) == "7"


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (np.int64(3), int, 3),
        (np.uint8(3), int, 3),
        (np.arange(3, 5)[0], int, 3),
        (pd.Series([4]).iloc[0], int, 4),
        (np.array(5), int, 5),
        (torch.tensor(6), int, 6),
        (np.float64(0.1), float, 0.1),
        (np.float32(0.1), float, 0.1),
        (np.float32(1e-8), float, 1e-8),
        (np.float32(12345.678), float, 12345.678),
        (np.float16(0.1), float, 0.1),
        (np.float16(65504), float, 65504.0),
        (torch.tensor(0.3), float, 0.3),
        (np.int64(2), float, 2.0),
        (np.bool_(True), bool, True),
        (np.str_("simota"), str, "simota"),
        (np.array([1, 2]), tuple[int, ...], (1, 2)),
        (np.array([0.1, 0.2], np.float32), tuple[float, float], (0.1, 0.2)),
        ([np.int64(1), "1e-3"], tuple[float, float], (1.0, 0.001)),
        (torch.tensor([3, 4]), tuple[int, ...], (3, 4)),
    ],
)
def test_numbers_of_other_libraries_are_plain_numbers(value: Any, kind: Any, expected: Any) -> None:
    got = coerce("a.key", value, kind)
    assert got == expected
    assert type(got) is type(expected)
    json.dumps(got)


def test_a_short_float_stands_for_one_number_only() -> None:
    for value in np.random.default_rng(0).normal(size=200).astype(np.float32):
        assert np.float32(coerce("a.key", value, float)) == value


def test_short_floats_keep_the_fingerprint() -> None:
    written = configs.fingerprint(preset("smoke", {"loss.gamma": 1.7}))
    for value in (np.float32(1.7), np.float64(1.7), "1.7", torch.tensor(1.7)):
        assert configs.fingerprint(preset("smoke", {"loss.gamma": value})) == written
    tall = configs.fingerprint(preset("smoke", {"data.input_size": 64}))
    for size in (np.int64(64), "64", np.array([64, 64]), [64, "64"]):
        assert configs.fingerprint(preset("smoke", {"data.input_size": size})) == tall


@pytest.mark.parametrize("value", [np.float32("nan"), np.inf, torch.tensor(float("nan"))])
def test_numbers_that_are_not_finite_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="not finite"):
        coerce("a.key", value, float)


def test_a_grid_takes_the_same_values() -> None:
    read = grid.read(
        {
            "preset": "smoke",
            "base": {"train.epochs": np.int64(3)},
            "axes": {"optim.lr": list(np.array([0.001, 0.1], np.float32)), "loss.gamma": ["2"]},
            "seeds": [np.int64(0)],
        },
        seeds=list(np.arange(2)),
        overrides={"data.workers": np.int32(0)},
    )
    assert read.seeds == (0, 1)
    assert all(type(seed) is int for seed in read.seeds)
    assert list(read.arms) == ["lr=0.001, gamma=2", "lr=0.1, gamma=2"]
    config = read.config("lr=0.1, gamma=2")
    assert (config.optim.lr, config.loss.gamma, config.train.epochs) == (0.1, 2.0, 3)
    json.dumps(read.as_dict())


@pytest.mark.parametrize("seed", [1.5, "one", None, True])
def test_a_seed_that_is_no_whole_number_is_refused_before_anything_starts(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed: expected int"):
        deim_lab.train(preset("smoke"), "no such folder", seed=seed)
