"""weights/layout.py: the official layout of every preset, and names of foreign files."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deim_lab.config.presets import PRESETS
from deim_lab.detector.detector import build_detector
from deim_lab.errors import WeightsError
from deim_lab.weights import own
from deim_lab.weights.layout import is_derived
from deim_lab.weights.own import (
    load_official,
    official_state_dict,
)
from official import NAMES, layout_of, layouts, zeros_like_layout
from small_detectors import small


def random_like_layout(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: (
            value + 1
            if not value.is_floating_point()
            else torch.rand(value.shape, generator=generator, dtype=value.dtype)
        )
        for key, value in zeros_like_layout(name).items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_official_layout(name: str) -> None:
    model = build_detector(name, 80)
    assert layout_of(official_state_dict(model)) == layouts()[name]["state_dict"]
    assert layout_of(official_state_dict(model.deploy())) == layouts()[name]["state_dict_deploy"]
    given = random_like_layout(name)
    assert load_official(model, given) == own.LoadReport()
    written = official_state_dict(model)  # each tensor where it was, not another one of its shape
    assert [
        key
        for key, value in given.items()
        if not is_derived(key) and not torch.equal(written[key], value)
    ] == []


def test_official_derived_entries() -> None:
    state = official_state_dict(build_detector("deim_dfine_x", 80), eval_size=(320, 640))
    assert state["decoder.anchors"].shape == (1, 4200, 4)
    assert state["decoder.reg_scale"].tolist() == [8]
    assert state["decoder.decoder.up"].tolist() == [0.5]
    scale = state["decoder.decoder.layers.0.cross_attn.num_points_scale"]
    torch.testing.assert_close(scale, torch.tensor([1 / 3] * 3 + [1 / 6] * 6 + [1 / 3] * 3))


@pytest.mark.parametrize("name", [name for name in layouts() if name in PRESETS])
def test_every_preset_writes_the_official_layout(name: str) -> None:
    with torch.device("meta"):
        model = build_detector(name, 80)
    state = {
        key: value
        for key, value in model.state_dict().items()
        if not key.endswith(("up", "reg_scale"))
    }
    official = {key: shape for key, shape, _ in layouts()[name]["state_dict"]}
    assert {key: list(value.shape) for key, value in state.items()}.items() <= official.items()
    left = {key for key in official if key not in state}
    assert all(
        key.endswith((".anchors", ".valid_mask", ".num_points_scale", ".up", ".reg_scale"))
        for key in left
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("deim_dfine_s", "deim_dfine_s or dfine_s of 80 classes"),
        ("dfine_l", "dfine_l of 80"),
        ("deim_rtdetrv2_r18", "like deim_rtdetrv2_r18 of 80"),
        ("rtdetrv2_r50m", "like rtdetrv2_r50m of 80"),
        ("deimv2_hgnetv2_n", "like deimv2_hgnetv2_n of 80"),
    ],
)
def test_another_model_is_refused_and_named(name: str, says: str) -> None:
    model = build_detector("deim_dfine_n", 80)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=says) as caught:
        load_official(model, zeros_like_layout(name))
    assert "this model is deim_dfine_n or dfine_n of 80 classes" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_backbone_alone_is_refused() -> None:
    with pytest.raises(WeightsError, match="backbone alone"):
        load_official(small(), small().backbone.state_dict())
