"""A grid: arms, axes, base and paths are resolved, and a wrong grid is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deim_lab.errors import ConfigError
from deim_lab.sweep import grid
from sweeps import ARMS, NOTEBOOK, Json, a_grid


def test_arms_axes_base_and_what_goes_first() -> None:
    found = grid.read(
        a_grid(
            base={"train.epochs": 3, "loss.gamma": 1.0},
            axes={"augment.mosaic_prob": [0, 0.5], "train.epochs": [1, 2]},
        ),
        overrides={"data.batch_size": 2},
        seeds=[3, 1],
        name="mine",
    )
    assert list(found.arms) == [
        f"{arm}, mosaic_prob={mosaic}, epochs={epochs}"
        for arm in ARMS
        for mosaic in ("0", "0.5")
        for epochs in (1, 2)
    ]
    config = found.config("sharper, mosaic_prob=0.5, epochs=2")
    assert (
        config.loss.gamma,
        config.augment.mosaic_prob,
        config.train.epochs,
        config.data.batch_size,
    ) == (2.0, 0.5, 2, 2)
    assert found.config("baseline, mosaic_prob=0, epochs=1").loss.gamma == 1.0
    assert (found.seeds, found.baseline, found.name) == (
        (3, 1),
        "baseline, mosaic_prob=0, epochs=1",
        "mine",
    )
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_paths_are_made_absolute_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = grid.read({"preset": "smoke", "arms": ARMS, "data": "bccd"})
    assert (found.notebook, found.data) == (
        NOTEBOOK,
        str(tmp_path / "bccd"),
    )
    assert grid.read(a_grid(notebook="own/n.ipynb")).notebook == str(tmp_path / "own" / "n.ipynb")
    half = {"images": "i", "annotations": "a.json"}
    assert grid.read(a_grid(data={"train": half, "val": half, "name": "n"})).data == {
        **{
            split: {"images": str(tmp_path / "i"), "annotations": str(tmp_path / "a.json")}
            for split in ("train", "val")
        },
        "name": "n",
    }
    assert grid.read(a_grid()).data == "embedded"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arm": {}}, "unknown key 'arm' (did you mean 'arms'?)"),
        ({"arms": None}, "no arms and no axes"),
        ({"arms": {"a": 3}}, "arm 'a': 3 is not a mapping"),
        (
            {"arms": {"a": {"loss.gama": 2}}},
            "arm 'a': 'loss.gama' names no config field (did you mean 'loss.gamma'?)",
        ),
        (
            {"axes": {"loss.gama": [1, 2]}},
            "axis: 'loss.gama' names no config field (did you mean 'loss.gamma'?)",
        ),
        ({"base": {"train": {"epochs": 3}}}, "keys are dotted, e.g. train.epochs"),
        ({"axes": {"loss.alpha": 1}}, "expected a list of values"),
        ({"axes": {"loss.alpha": []}}, "expected a list of values"),
        (
            {"axes": {"loss.gamma": [1, 2]}},
            "'loss.gamma' is an axis, and arm 'sharper' sets it too",
        ),
        ({"axes": {"loss.alpha": [0.5, 0.5]}}, "resolve to the same config"),
        ({"arms": {"a": {"loss.gamma": -1}}}, "arm 'a': loss.gamma -1.0 is outside [0, 20]"),
        ({"arms": {"a": {"loss.gamma": "two"}}}, "arm 'a': loss.gamma: expected float, got 'two'"),
        (
            {"arms": {"a": {}, "b": {"loss.gamma": 1.5}}},
            "arms 'a' and 'b' resolve to the same config",
        ),
        ({"arms": {"a": {}, "b": {"train.log_every": 7}}}, "train.log_every makes no difference"),
        (
            {
                "arms": {
                    "a": {"model.backbone_weights": "timm"},
                    "b": {"model.backbone_weights": "timm"},
                }
            },
            "resolve to the same config",
        ),
        ({"parameters": {"weights": 3}}, "parameters.weights is 3 (int)"),
        (
            {
                "parameters": {"weights": "own.pt"},
                "arms": {"a": {}, "b": {"model.backbone_weights": "timm"}},
            },
            "arm 'b': model.backbone_weights='timm' and weights='own.pt' both fill the backbone",
        ),
        ({"baseline": "basline"}, "baseline 'basline' is not an arm (did you mean 'baseline'?)"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [0, 0]}, "seed 0 appears twice"),
        ({"seeds": [-1]}, "seed -1 is not a whole number"),
        ({"seeds": [True]}, "seed True is not a whole number"),
        ({"seeds": ["1"]}, "seed '1' is not a whole number"),
        ({"seeds": 3}, "expected a list"),
        ({"preset": "smok"}, "did you mean 'smoke'?"),
        ({"preset": None}, "no preset"),
        (
            {"parameters": {"seed": 3}},
            "parameters must not hold 'seed': its value comes from seeds",
        ),
        ({"parameters": {"device": "gpu"}}, "device 'gpu' is unknown"),
        ({"about": float("nan")}, "not finite"),
        ({"data": {1: 2}}, "key 1 is int"),
        ({"data": object()}, "is not a JSON value"),
    ],
)
def test_a_wrong_grid_is_refused(change: dict[str, Json], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid.read(a_grid(**change))
    assert said in str(caught.value)


def test_an_override_without_effect_and_a_name_that_is_none() -> None:
    with pytest.raises(
        ConfigError, match=r"override of loss\.gamma has no effect on arm 'sharper'"
    ):
        grid.read(a_grid(), overrides={"loss.gamma": 1.0})
    with pytest.raises(ConfigError, match="is not a folder name"):
        grid.read(a_grid(), name="../x")


def test_weights_that_a_notebook_takes_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert grid.read(a_grid(parameters={"weights": "own.pt"})).parameters["weights"] == str(
        tmp_path / "own.pt"
    )
    assert (
        grid.read(a_grid(parameters={"weights": "user/on-the-hub"})).parameters["weights"]
        == "user/on-the-hub"
    )
