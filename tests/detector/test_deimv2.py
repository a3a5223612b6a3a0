"""DEIMv2's HGNetV2 sizes: official numbers, recipes, its own parts, and a small one in a run."""

from __future__ import annotations

import copy
import json
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import deim_lab
from deim_lab import schedule
from deim_lab.config import Config
from deim_lab.config.presets import preset
from deim_lab.data import synthetic
from deim_lab.data.coco import open_source, resolve
from deim_lab.detector.deimv2 import Deimv2Decoder, RmsNorm, SwiGlu
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.errors import ConfigError, WeightsError
from deim_lab.inference.predict import Predictor
from deim_lab.losses import criterion
from deim_lab.matching import assign, assignment
from deim_lab.schedule import Phase
from deim_lab.structures import DetectorOutput, Matches, Prediction, Targets
from deim_lab.study import matching
from deim_lab.training.ema import Ema
from deim_lab.weights.own import LoadReport, load_detector, load_official, official_state_dict
from numeric import assert_same_queries, depth_of
from official import fill, layout_of, layouts, picture, with_parts
from places import REFERENCE
from short_runs import CutError, cut_at
from small_detectors import some_targets

pytestmark = pytest.mark.numeric

SIZES = {"atto": 320, "femto": 416, "pico": 640, "n": 640}
SMALL = {
    "data.input_size": 64,
    "data.batch_size": 4,
    "data.workers": 0,
    "model.num_queries": 15,
    "model.num_denoising": 8,
    "train.epochs": 2,
    "train.threads": 1,
    "train.log_every": 1,
    "augment.min_box_px": 1.0,
}


@cache
def layout(size: str) -> dict[str, Any]:
    return layouts()[f"deimv2_hgnetv2_{size}"]


def built(size: str, classes: int = 80, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return build_detector(f"deimv2_hgnetv2_{size}", classes).eval()


def small(**overrides: Any) -> Config:
    return preset(
        "deimv2_hgnetv2_atto",
        SMALL | {key.replace("__", "."): value for key, value in overrides.items()},
    )


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("data") / "set",
        train_images=12,
        val_images=4,
        size_px=(64, 64),
        seed=3,
    )


# --- official numbers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["atto", "n"])
def test_forward_equals_the_official_one(size: str) -> None:
    with np.load(REFERENCE / "forward" / f"deimv2_hgnetv2_{size}_320.npz") as arrays:
        want = dict(arrays)
    meta = json.loads(bytes(want["meta_json"]))
    assert meta["salt"] == ""
    model, images = built(size), picture(meta["batch"], *meta["input_size"])
    fill(model, conv_gain=meta["conv_gain"], lin_gain=meta["lin_gain"])
    layers: list[Tensor] = []
    with torch.no_grad():
        single, single_deploy = model(images), model.deploy()(images)
        model.double()
        double_deploy = model.deploy()(images.double())
        for layer in model.get_submodule("decoder.decoder.layers").children():
            layer.register_forward_hook(lambda _module, _inputs, output: layers.append(output))
        double, features, maps = with_parts(model, images.double())
        chosen = model.decoder.select(*model.decoder.flatten(maps))

    stages = [
        ("backbone", features, 2e-6),
        ("encoder", maps, 2e-6),
        ("decoder.layer", layers, 5e-6),
    ]
    for name, found, tolerance in (
        (f"{part}.{i}", x, tolerance)
        for part, items, tolerance in stages
        for i, x in enumerate(items)
    ):
        stage = meta["stages_fp64"][name]
        assert list(found.shape) == stage["shape"]
        np.testing.assert_allclose(
            found.flatten()[:16],
            stage["first16"],
            rtol=0,
            atol=tolerance * stage["absmax"],
            err_msg=name,
        )
        assert float(found.std(correction=0)) == pytest.approx(stage["std"], rel=1e-6), name
    np.testing.assert_array_equal(chosen.index, want["topk_ind"])
    # The official norms compute in float32 even in its float64 run.
    for prediction in (double, double_deploy):
        np.testing.assert_allclose(prediction.boxes_cxcywh, want["pred_boxes"], rtol=0, atol=2e-6)
        np.testing.assert_allclose(
            prediction.logits[..., want["class_subset"]],
            want["pred_logits_subset"],
            rtol=0,
            atol=2e-5,
        )
    for prediction in (single, single_deploy):
        assert_same_queries(
            prediction.boxes_cxcywh,
            prediction.logits[..., want["class_subset"]],
            want["pred_boxes"],
            want["pred_logits_subset"],
            depth_of(model),
        )


@pytest.mark.parametrize("size", SIZES)
def test_layout_counts_and_round_trip_are_the_official_ones(size: str, tmp_path: Path) -> None:
    want, model = layout(size), built(size)
    eval_size = (SIZES[size], SIZES[size])
    state = official_state_dict(model, eval_size)
    assert layout_of(state) == want["state_dict"]
    deployed = model.deploy()
    assert layout_of(official_state_dict(deployed, eval_size)) == want["state_dict_deploy"]
    assert sum(p.numel() for p in model.parameters()) == want["n_params_train_form"]
    assert {key for key, p in model.named_parameters() if not p.requires_grad} == set(
        want["frozen_params"]
    )
    for part in ("backbone", "encoder", "decoder"):
        assert (
            sum(p.numel() for p in model.get_submodule(part).parameters())
            == want[f"n_params_{part}"]
        )
    assert sum(p.numel() for p in deployed.parameters()) == want["n_params_deploy"]

    torch.save({"ema": {"module": state}}, tmp_path / "official.pth")
    other = built(size, seed=1)
    assert load_official(other, tmp_path / "official.pth") == LoadReport()
    again = official_state_dict(other, eval_size)
    assert [key for key in state if not torch.equal(state[key], again[key])] == []


@pytest.mark.parametrize(
    ("size", "epochs", "firsts"),
    [
        ("atto", 500, [4, 250, 400]),
        ("femto", 500, [4, 250, 400]),
        ("pico", 500, [4, 250, 400]),
        ("n", 160, [4, 78, 148]),
    ],
)
def test_phases_change_at_the_official_epochs(size: str, epochs: int, firsts: list[int]) -> None:
    plan = schedule.build(preset(f"deimv2_hgnetv2_{size}"), 900)
    assert plan.notices == ()
    runs = [(next(items), phase) for phase, items in groupby(range(epochs), plan.phase)]
    assert runs == list(zip([0, *firsts], Phase, strict=True))


def test_recipes_are_the_official_ones() -> None:
    for size, side in SIZES.items():
        config = preset(f"deimv2_hgnetv2_{size}")
        assert config.preset == f"deimv2_hgnetv2_{size}"
        assert config.data.input_size == (side, side)
        assert config.data.batch_size == config.optim.recipe_batch == (32 if size == "n" else 128)
        assert config.loss.go_union is (size == "n")
        assert (
            (config.loss.weight_fgl > 0)
            is (config.loss.weight_ddf > 0)
            is (config.augment.mixup_prob > 0)
            is (size == "n")
        )
    probabilities = [preset(f"deimv2_hgnetv2_{size}").augment.mosaic_prob for size in SIZES]
    assert probabilities == [0.3, 0.5, 0.5, 0.5]


def test_another_size_is_refused_and_named() -> None:
    with pytest.raises(
        WeightsError,
        match=r"looks like deimv2_hgnetv2_atto of 80 classes, while this model is "
        r"deimv2_hgnetv2_femto",
    ):
        load_official(built("femto"), official_state_dict(built("atto")))


# --- the parts
# --------------------------------------------------------------------------------------------------


def test_rms_norm_is_its_formula_in_any_precision() -> None:
    norm = RmsNorm(6)
    with torch.no_grad():
        norm.scale.copy_(torch.arange(6) + 0.5)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = x / (x**2).mean(-1, keepdim=True).add(1e-6).sqrt() * (torch.arange(6) + 0.5)
    torch.testing.assert_close(norm.double()(x), exact, rtol=1e-12, atol=0)
    large = torch.full(
        (1, 6), 300.0, dtype=torch.float16
    )  # its square is above float16's largest number
    torch.testing.assert_close(norm.half()(large), (torch.arange(6) + 0.5)[None].half())


def test_gated_feed_forward_is_its_formula() -> None:
    ffn = SwiGlu(4, 3)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    mixed = x @ ffn.w12.weight.T
    gate, value = mixed[:, :3], mixed[:, 3:]
    torch.testing.assert_close(ffn(x), (gate * torch.sigmoid(gate) * value) @ ffn.w3.weight.T)


def test_lite_levels_need_one_entry_each() -> None:
    assert preset("deimv2_hgnetv2_atto").model.strides == (16, 32)
    with pytest.raises(
        ConfigError, match=r"decoder_points \[4\].*with model\.encoder 'lite' makes 2"
    ):
        small(model__decoder_points=[4])
    with pytest.raises(ConfigError, match=r"names 2\. For several maps"):
        build_detector(small(model__backbone_stages=[1, 2], model__decoder_points=[4, 2, 2]), 3)


def test_position_is_made_once_from_the_first_boxes() -> None:
    model, calls = built("atto", 3), []
    model.decoder.query_pos_head.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.rand(1, 3, 320, 320))
    assert len(calls) == 1


def test_the_shared_box_head_is_one_everywhere() -> None:
    model = build_detector(small(), 3)
    assert isinstance(model.decoder, Deimv2Decoder)
    assert len(model.decoder.dec_bbox_head) == 3
    for form in (copy.deepcopy(model), model.deploy(), copy.deepcopy(model).double()):
        decoder = form.decoder
        assert isinstance(decoder, Deimv2Decoder)
        assert len({id(head) for head in decoder.dec_bbox_head}) == 1
        weights = [decoder.get_parameter(f"dec_bbox_head.{i}.layers.2.weight") for i in range(3)]
        assert len({weight.data_ptr() for weight in weights}) == 1
    names = [name for name, _ in model.named_parameters() if "dec_bbox_head" in name]
    assert {name.split(".")[2] for name in names} == {"0"}
    own = build_detector(small(model__share_box_head=False), 3)
    assert isinstance(own.decoder, Deimv2Decoder)
    assert len({id(head) for head in own.decoder.dec_bbox_head}) == 3


def test_the_average_moves_a_shared_head_once_a_step() -> None:
    model = build_detector(small(), 3)
    ema = Ema(model, decay=0.5, warmup_updates=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        for parameter in ema.module.parameters():
            parameter.fill_(0.0)
    ema.update(model)
    state = ema.module.state_dict()
    assert {
        float(state[f"decoder.dec_bbox_head.{i}.layers.0.weight"].mean()) for i in range(3)
    } == {0.5}
    assert float(state["decoder.query_pos_head.layers.0.weight"].mean()) == 0.5


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 32)])
def test_any_multiple_of_32_works_in_all_forms(size: tuple[int, int]) -> None:
    model = build_detector(small(model__num_queries=10), 3)
    fill(model, conv_gain=1.3, lin_gain=1.2)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    output = model.train()(images, some_targets())
    assert isinstance(output, DetectorOutput)
    assert output.matching.levels == ("encoder", "pre", "layer_0", "layer_1", "layer_2")
    model.double().eval()
    with torch.no_grad():
        prediction, deployed = model(images.double()), model.deploy()(images.double())
    assert isinstance(prediction, Prediction)
    torch.testing.assert_close(deployed.boxes_cxcywh, prediction.boxes_cxcywh, rtol=0, atol=1e-9)
    torch.testing.assert_close(deployed.logits, prediction.logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("targets", [None, some_targets()])
@pytest.mark.parametrize("size", ["atto", "n"])
def test_every_trainable_parameter_gets_a_gradient(size: str, targets: Targets | None) -> None:
    config = preset(
        f"deimv2_hgnetv2_{size}",
        {key: value for key, value in SMALL.items() if key.startswith(("model.", "data.input"))}
        | {"model.num_queries": 5},
    )
    model = build_detector(config, 3).train()
    output = model(torch.rand(2, 3, 64, 64), targets)
    levels = [output.matching] if output.denoising is None else [output.matching, output.denoising]
    sum(
        (level.logits.sum() + level.boxes_cxcywh.sum() for level in levels), torch.zeros(())
    ).backward()
    assert [
        name for name, p in model.named_parameters() if p.requires_grad and p.grad is None
    ] == []


# --- through the lab
# --------------------------------------------------------------------------------------------------


def test_trains_resumes_evaluates_predicts_and_deploys(small_set: Path, tmp_path: Path) -> None:
    config = small()
    whole = deim_lab.train(config, small_set, seed=1, runs_dir=tmp_path / "whole", device="cpu")
    with pytest.raises(CutError):
        deim_lab.train(
            config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu", on_event=cut_at(4)
        )
    resumed = deim_lab.train(config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu")
    losses = [
        {event["step"]: event["loss"] for event in run.events() if event["kind"] == "step"}
        for run in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert [event["AP"] for event in whole.events() if event["kind"] == "val"]

    loaded = load_detector(whole.folder)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = copy.deepcopy(loaded.model).double()
    with torch.no_grad():
        plain, deployed = exact(images.double()), exact.deploy()(images.double())
    torch.testing.assert_close(deployed.boxes_cxcywh, plain.boxes_cxcywh, rtol=0, atol=1e-9)
    torch.testing.assert_close(deployed.logits, plain.logits, rtol=0, atol=1e-9)
    assert len(Predictor(loaded).predict(list((images * 255).to(torch.uint8)))) == 2


@pytest.mark.parametrize("kind", ["hungarian", "simota", "groups(3)"])
def test_every_kind_of_matching_and_the_microscope_work(small_set: Path, kind: str) -> None:
    config = small(match__kind=kind)
    dataset = open_source(resolve(small_set, cache_dir=small_set.parent))[0]
    model = build_detector(config, 6)
    images, targets = matching.fixed_batch(dataset, range(3), config)
    output = model.train()(images, targets)
    matches = assign(output, targets, config.match)
    table = criterion.compute(output, targets, matches, loss=config.loss, match=config.match)
    table.total.backward()
    assert float(table.total.detach()) > 0
    edges = {
        term: float(values.detach().abs().sum())
        for term, values in table.terms.items()
        if "fgl" in term or "ddf" in term
    }
    assert edges.keys() >= {"fgl", "ddf"}
    assert not any(edges.values()), "the recipe weighs them 0"
    view = matching.inspect(model, images, targets, config.match)
    assert view.levels == ("encoder", "pre", "layer_0", "layer_1", "layer_2")
    assert len(view.pairs()) >= 5


# --- the late matching cost, and the learning rate's own tail
# --------------------------------------------------------------------------------------------------


def test_training_switches_to_the_late_cost(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []

    def listen(*args: Any, late: bool) -> Matches:
        seen.append((len(seen) // 3, late))
        return assignment.assign(*args, late=late)

    monkeypatch.setattr(deim_lab.matching, "assign", listen)
    deim_lab.train(
        small(schedule__late_match_share=0.5, data__batch_size=4),
        small_set,
        runs_dir=tmp_path,
        device="cpu",
    )
    assert seen == [(0, False)] * 3 + [(1, True)] * 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"match.iou_power": 0.0}, "match.iou_power"),
        ({"schedule.late_match_share": 1.5}, "late_match_share"),
        ({"schedule.lr_clean_epochs": -1}, "lr_clean_epochs"),
    ],
)
def test_late_numbers_out_of_range_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset("deimv2_hgnetv2_atto", overrides)
