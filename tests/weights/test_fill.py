"""weights/fill.py: what goes into a model, what is reported, and what is refused."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deim_lab.config.presets import preset
from deim_lab.detector.detector import build_detector
from deim_lab.errors import WeightsError
from deim_lab.weights import own
from deim_lab.weights.own import (
    LoadReport,
    load_official,
    load_weights,
    official_state_dict,
    save_weights,
)
from official import layouts
from small_detectors import CATEGORIES, TINIER, TINY, noise, outputs, small, smoke_config, tiny


def test_derived_entries_are_not_required_and_not_trusted() -> None:
    source, target = small(seed=1), small(seed=2)
    state = official_state_dict(source)
    for key in [
        key
        for key in state
        if key.startswith("decoder.decoder.")
        and key.endswith((".up", ".reg_scale", "num_points_scale"))
    ]:
        del state[key]
    state["decoder.anchors"] = torch.full((1, 7, 4), torch.nan)
    state["decoder.decoder.project"] = torch.zeros(33)
    assert load_official(target, state) == own.LoadReport()
    assert torch.equal(outputs(target), outputs(source))


@pytest.mark.parametrize("value", [torch.tensor([8]), torch.tensor([8.0]), torch.tensor(8.0)])
def test_int_and_float_reg_scale(value: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    model = small()
    load_official(model, official_state_dict(small()) | {"decoder.reg_scale": value})
    assert model.get_parameter("decoder.reg_scale").tolist() == [8.0]
    assert "reg_scale" in caplog.text


def test_frozen_and_trained_norms_go_into_each_other() -> None:
    frozen, trained = small(seed=1, freeze_backbone_norm=True), small(seed=2)
    assert load_official(trained, official_state_dict(frozen)) == own.LoadReport()
    assert torch.equal(outputs(trained), outputs(frozen))
    other = small(seed=3, freeze_backbone_norm=True)
    assert load_official(other, official_state_dict(trained)) == own.LoadReport()
    assert torch.equal(outputs(other), outputs(trained))


def test_other_classes_are_reinitialised_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    source, target = small(80, seed=1), small(3, seed=2)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.fill_(5.0)
    report = load_official(target, official_state_dict(source))
    heads = ("enc_score_head", "dec_score_head.0", "dec_score_head.1")
    assert set(report.reinitialised) == {
        "decoder.denoising_class_embed.weight",
        *(f"decoder.{head}.{part}" for head in heads for part in ("weight", "bias")),
    }
    assert not report.missing
    assert not report.unexpected
    assert "re-initialised" in caplog.text
    torch.testing.assert_close(
        target.decoder.enc_score_head.bias.data, torch.full((3,), -math.log(99))
    )
    assert float(target.get_parameter("decoder.dec_score_head.1.weight").detach().abs().max()) < 1
    assert target.decoder.denoising_class_embed.weight[3].abs().sum() == 0
    assert torch.equal(
        target.get_parameter("decoder.query_pos_head.layers.0.weight"),
        source.get_parameter("decoder.query_pos_head.layers.0.weight"),
    )


def test_a_tensor_more_or_less_is_reported() -> None:
    state = official_state_dict(small(seed=1))
    del state["decoder.pre_bbox_head.layers.0.bias"]
    state["decoder.surplus.weight"] = torch.zeros(2)
    report = load_official(small(), state)
    assert report.missing == ("decoder.pre_bbox_head.layers.0.bias",)
    assert report.unexpected == ("decoder.surplus.weight",)
    assert "pre_bbox_head" in str(report)


def test_frozen_norms_of_resnet_take_trained_ones() -> None:
    torch.manual_seed(1)
    frozen, trained = build_detector("rtdetrv2_r50m", 3), build_detector("deim_rtdetrv2_r50m", 3)
    assert layouts()["rtdetrv2_r50m"] != layouts()["deim_rtdetrv2_r50m"]
    same = build_detector(preset("rtdetrv2_r50m", {"model.freeze_backbone_norm": False}), 3)
    assert load_official(same, official_state_dict(frozen)) == own.LoadReport()
    assert load_official(frozen, official_state_dict(same)) == own.LoadReport()
    with pytest.raises(
        WeightsError, match=r"rtdetrv2_r50m of 3 classes, while this model is .*deim_rtdetrv2_r50m"
    ):
        load_official(trained, official_state_dict(frozen))


def test_a_deploy_form_is_refused_by_the_train_form_only() -> None:
    deployed = small(seed=1).deploy()
    with pytest.raises(WeightsError, match="deploy form"):
        load_official(small(), official_state_dict(deployed))
    other = small(seed=2).deploy()
    assert load_official(other, official_state_dict(deployed)) == own.LoadReport()
    assert torch.equal(outputs(other), outputs(deployed))


def test_values_that_are_not_finite_are_refused() -> None:
    state = official_state_dict(small())
    state["decoder.enc_output.proj.bias"][0] = torch.nan
    with pytest.raises(WeightsError, match=r"enc_output\.proj\.bias"):
        load_official(small(), state)


def test_another_activation_is_noted(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.pt", small(seed=4), config=smoke_config(), categories=CATEGORIES)
    assert load_official(small(), tmp_path / "own.pt", categories=CATEGORIES).notes == ()
    other = small(activation="relu")
    (note,) = load_official(other, tmp_path / "own.pt", categories=CATEGORIES).notes
    assert "--set model.activation=silu" in note


def test_a_load_says_once_what_became_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_weights(tmp_path / "own.pt", small(seed=4), config=smoke_config(), categories=CATEGORIES)
    renamed = [*CATEGORIES[:2], {"id": 7, "name": "violet"}]
    for categories, level in ((CATEGORIES, logging.INFO), (renamed, logging.WARNING)):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="deim_lab"):
            load_weights(small(), tmp_path / "own.pt", categories=categories)
        said = [record for record in caplog.records if "weights loaded" in record.message]
        assert [record.levelno for record in said] == [level]


def test_rows_kept_without_names_to_compare_are_noted(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.pt", small(seed=4), config=smoke_config(), categories=CATEGORIES)
    (note,) = load_official(small(), tmp_path / "own.pt").notes
    assert "red, green, blue" in note
    assert load_official(small(), tmp_path / "own.pt", categories=CATEGORIES).notes == ()


@pytest.mark.numeric
def test_weights_of_the_other_families_and_sizes_are_refused() -> None:
    model = tiny()
    with pytest.raises(WeightsError, match="looks like cpu_demo or smoke of 3 classes") as caught:
        load_official(model, official_state_dict(build_detector("smoke", 3)))
    assert "this model is an RT-DETRv2 of 3 classes with 3 decoder layers" in str(caught.value)
    with pytest.raises(WeightsError, match="deim_rtdetrv2_r18 of 3 classes"):
        load_official(
            build_detector("smoke", 3), official_state_dict(build_detector("deim_rtdetrv2_r18", 3))
        )
    with pytest.raises(
        WeightsError, match=r"RT-DETRv2 of 3 classes in deploy form with 3 decoder layers"
    ):
        load_official(model, official_state_dict(model.deploy()))


@pytest.mark.numeric
def test_other_classes_keep_all_but_the_heads() -> None:
    source, target = build_detector(preset("deim_rtdetrv2_r18", TINIER), 80), tiny(seed=3)
    report = load_official(target, official_state_dict(source, (64, 64)))
    heads = ("enc_score_head", "dec_score_head.0", "dec_score_head.1", "dec_score_head.2")
    assert set(report.reinitialised) == {
        "decoder.denoising_class_embed.weight",
        *(f"decoder.{head}.{part}" for head in heads for part in ("weight", "bias")),
    }
    assert (report.missing, report.unexpected) == ((), ())
    assert torch.equal(
        target.get_parameter("decoder.dec_bbox_head.1.layers.0.weight"),
        source.get_parameter("decoder.dec_bbox_head.1.layers.0.weight"),
    )


@pytest.mark.numeric
def test_frozen_norms_of_the_plain_recipe_take_trained_ones() -> None:
    plain, deim = (
        build_detector(preset(name, TINY), 3) for name in ("rtdetrv2_r50", "deim_rtdetrv2_r50")
    )
    with pytest.raises(WeightsError, match="query_pos_head"):
        load_official(plain, official_state_dict(deim))
    same = build_detector(
        preset("deim_rtdetrv2_r50", TINY | {"model.freeze_backbone_norm": True}), 3
    )
    assert load_official(same, official_state_dict(deim)) == LoadReport()
    with torch.no_grad():
        assert torch.equal(same.eval()(noise()).logits, deim.eval()(noise()).logits)
