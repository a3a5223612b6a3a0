"""The config tree: strict overrides, lossless JSON, a fingerprint."""

from __future__ import annotations

import json

import pytest

from deim_lab import config as configs
from deim_lab.config.presets import PRESETS, preset
from deim_lab.errors import ConfigError


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_json(name: str) -> None:
    config = PRESETS[name]
    assert config.preset == name
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config


def test_overrides_keep_types_and_leave_the_base_alone() -> None:
    base = preset("smoke")
    changed = configs.override(
        base,
        {
            "loss.gamma": 2,
            "data.input_size": [64, 96],
            "augment.multiscale_repeat": 3,
            "train.threads": None,
        },
    )
    assert changed.loss.gamma == 2.0
    assert isinstance(changed.loss.gamma, float)
    assert changed.data.input_size == (64, 96)
    assert changed.train.threads is None
    assert base == preset("smoke")
    assert configs.override(base, configs.diff(base, changed)) == changed
    assert configs.diff(base, changed).keys() == {
        "loss.gamma",
        "data.input_size",
        "augment.multiscale_repeat",
        "train.threads",
    }


@pytest.mark.parametrize(
    "key",
    [
        "train.epochs",
        "train.device",
        "data.batch_size",
        "data.input_size",
        "loss.classification",
        "loss.gamma",
        "loss.alpha",
        "augment.mosaic_prob",
        "augment.mixup_prob",
        "schedule.warmup_epochs",
        "schedule.dense_share",
        "schedule.clean_epochs",
        "match.kind",
        "model.num_queries",
        "optim.lr",
        "optim.backbone_lr",
        "ema.decay",
    ],
)
def test_the_keys_that_others_rely_on_exist(key: str) -> None:
    assert key in set(configs.keys())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"schedule.epoches": 3}, ["schedule.epoches", "train.epochs"]),
        ({"loss.gama": 3}, ["loss.gama", "loss.gamma"]),
        ({"gamma": 3}, ["'gamma'", "loss.gamma"]),
        ({"loss.gamma": "high"}, ["loss.gamma", "'high'", "float"]),
        ({"loss.gamma": -1}, ["loss.gamma", "-1"]),
        ({"loss.gamma": float("nan")}, ["loss.gamma", "nan"]),
        ({"train.epochs": True}, ["train.epochs", "bool"]),
        ({"train.epochs": 1.5}, ["train.epochs", "1.5"]),
        ({"data.input_size": 650}, ["650", "640", "672"]),
        ({"data.input_size": [640]}, ["2 values"]),
        ({"loss.classification": "mall"}, ["'mall'", "'mal'"]),
        ({"augment.mosaic_prob": 1.5}, ["augment.mosaic_prob", "1.5", "[0, 1]"]),
        ({"match.kind": "hungarien"}, ["hungarien", "hungarian"]),
        ({"train.device": "gpu"}, ["gpu", "cuda"]),
        ({"model.num_queries": 0}, ["model.num_queries"]),
        ({"model.num_queries": 181}, ["181", "180 anchors", "96×96"]),
    ],
)
def test_bad_overrides_name_the_key_the_value_and_the_right_name(
    overrides: dict, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        preset("smoke", overrides)
    for part in said:
        assert part in str(error.value)


def test_assignments_of_the_command_line() -> None:
    parsed = configs.parse_assignments(
        [
            "loss.gamma=2.0",
            "data.input_size=[384, 640]",
            "loss.alpha=None",
            "loss.classification=vfl",
            "a.b=1e-3",
        ]
    )
    assert parsed == {
        "loss.gamma": 2.0,
        "data.input_size": [384, 640],
        "loss.alpha": None,
        "loss.classification": "vfl",
        "a.b": 1e-3,
    }
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        configs.parse_assignments(["loss.gamma"])


def test_fingerprint_is_of_what_is_computed() -> None:
    base = preset("smoke")
    assert configs.fingerprint(base) == configs.fingerprint(
        preset("smoke", {"train.device": "cuda", "data.workers": 2})
    )
    assert configs.fingerprint(base) != configs.fingerprint(preset("smoke", {"loss.gamma": 2.0}))
