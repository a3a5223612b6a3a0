"""RT-DETRv2: its recipes, what its decoder promises, and one from training to prediction.

Parity with the official numbers stands where all families are compared: forward passes and initial
values in test_detector, layouts in test_layout, groups in test_optimizer, schedules in
test_schedule, losses in test_criterion.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deim_lab
import short_runs
from deim_lab import schedule
from deim_lab.config import Config, MatchConfig
from deim_lab.config.presets import preset
from deim_lab.data import coco, synthetic
from deim_lab.errors import ConfigError
from deim_lab.inference.predict import Predictor
from deim_lab.losses import criterion
from deim_lab.matching import assign
from deim_lab.schedule import Phase
from deim_lab.structures import DetectorOutput, Targets
from deim_lab.study import matching as microscope
from deim_lab.weights.own import load_detector
from places import REFERENCE
from short_runs import CutError, cut_at
from small_detectors import TINIER, TINY, frozen, noise, some_targets, tiny

pytestmark = pytest.mark.numeric

RECIPES = json.loads((REFERENCE / "recipes_rtdetr.json").read_text(encoding="utf-8"))

# --- the recipes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipe(name: str) -> None:
    config, want = preset(name), RECIPES[name]
    model, decoder = config.model, want["decoder"]
    assert (model.backbone, list(model.backbone_stages)) == (
        f"resnet{want['depth']}_vd",
        want["return_idx"],
    )
    assert (model.freeze_backbone_norm, model.freeze_stem) == (
        want["freeze_norm"],
        want["freeze_at"] == 0,
    )
    assert {
        "hidden_dim": model.hidden_dim,
        "dim_feedforward": model.encoder_ffn_dim,
        "nhead": model.num_heads,
        "expansion": model.expansion,
        "depth_mult": model.depth_mult,
    } == want["encoder"]
    eval_layers = decoder["num_layers"] if decoder["eval_idx"] == -1 else decoder["eval_idx"] + 1
    assert (model.decoder_layers, model.eval_layers or model.decoder_layers) == (
        decoder["num_layers"],
        eval_layers,
    )
    assert (model.decoder_dim, list(model.decoder_points)) == (
        decoder["hidden_dim"],
        decoder["num_points"],
    )
    assert [
        model.num_queries,
        model.num_denoising,
        model.label_noise_ratio,
        model.box_noise_scale,
    ] == [
        decoder[key]
        for key in ("num_queries", "num_denoising", "label_noise_ratio", "box_noise_scale")
    ]
    assert model.query_position == ("deep" if decoder["query_pos_method"] == "as_reg" else "wide")
    assert model.activation == (decoder["activation"] or "relu")
    loss = config.loss
    assert (loss.classification, loss.effective_gamma, loss.go_union) == (
        want["loss"],
        want["gamma"],
        want["use_uni_set"],
    )
    assert loss.effective_alpha == (want["alpha"] if loss.classification == "vfl" else None)
    assert [loss.weight_class, loss.weight_l1, loss.weight_giou] == [
        want["weights"][f"loss_{key}"] for key in (loss.classification, "bbox", "giou")
    ]
    assert (config.optim.lr, config.optim.backbone_lr, config.optim.weight_decay) == (
        want["lr"],
        want["backbone_lr"],
        want["weight_decay"],
    )
    assert (list(config.optim.betas), config.optim.clip_norm) == (want["betas"], want["clip"])
    assert (config.ema.decay, config.ema.warmup_updates) == (
        want["ema"]["decay"],
        want["ema"]["warmups"],
    )
    assert (
        config.data.batch_size,
        config.optim.recipe_batch,
        config.augment.multiscale_repeat,
    ) == (want["batch"], want["batch"], want["repeat"])
    assert (config.augment.mosaic_prob, config.augment.mixup_prob) == (
        want["mosaic_prob"] or 0,
        want["mixup_prob"] or 0,
    )


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipe_in_time(name: str) -> None:
    built, want = schedule.build(preset(name), 7000), RECIPES[name]
    policy, rates = want["policy"], want["schedule"]
    assert built.epochs == want["epochs"]
    assert (built.lr_warmup_steps, built.lr_final_ratio) == (
        rates["warmup_iter"],
        rates["lr_gamma"],
    )
    assert built.notices == ()
    if isinstance(policy, list):
        assert [built.dense_start, built.dense_end, built.clean_start] == policy
        assert (rates["flat_epoch"], rates["no_aug_epoch"]) == (
            built.dense_end,
            built.epochs - built.clean_start,
        )
    else:  # strong augmentation from the start to this epoch, at a constant rate
        assert built.clean_start == policy
        assert Phase.DENSE not in {built.phase(epoch) for epoch in range(built.epochs)}
        assert built.lr_factor(built.steps - 1) == 1


# --- the decoder
# --------------------------------------------------------------------------------------------------


def test_train_output() -> None:
    output = tiny().train()(noise(), some_targets())
    assert isinstance(output, DetectorOutput)
    matching, denoising = output.matching, output.denoising
    assert matching.levels == ("encoder", "layer_0", "layer_1", "layer_2")
    assert matching.logits.shape == (4, 2, 20, 3)
    assert matching.boxes_cxcywh.shape == (4, 2, 20, 4)
    assert (matching.corners, matching.reference_cxcywh, output.up, output.reg_scale) == (
        None,
        None,
        None,
        None,
    )
    assert denoising is not None
    assert denoising.levels == ("layer_0", "layer_1", "layer_2")
    assert output.dn_groups == 8 // 3
    assert denoising.boxes_cxcywh.shape == (3, 2, output.dn_groups * 2 * 3, 4)


def test_a_layer_looks_forward_twice() -> None:
    """The box of a layer teaches its own head and the one before, and no earlier one."""
    model = frozen(tiny())
    output = model(noise())
    for layer in range(3):
        model.zero_grad()
        output.matching.boxes_cxcywh[1 + layer].sum().backward(retain_graph=True)
        taught = {
            head
            for head in range(3)
            if any(
                p.grad is not None and bool(p.grad.any())
                for p in model.get_submodule(f"decoder.dec_bbox_head.{head}").parameters()
            )
        }
        assert taught == {layer, layer - 1} - {-1}


def test_the_levels_are_those_of_inference() -> None:
    """Looking forward twice changes gradients, not values."""
    model, images = frozen(tiny()).double(), noise().double()
    with torch.no_grad():
        trained = model(images)
        model.eval()
        every, prediction = model.every_level(images), model(images)
    torch.testing.assert_close(
        trained.matching.boxes_cxcywh, every.matching.boxes_cxcywh, rtol=0, atol=1e-9
    )
    torch.testing.assert_close(trained.matching.logits, every.matching.logits, rtol=0, atol=1e-9)
    assert torch.equal(every.prediction.boxes_cxcywh, prediction.boxes_cxcywh)
    assert torch.equal(every.prediction.logits, prediction.logits)


@pytest.mark.parametrize("family", ["rtdetrv2", "dfine"])
def test_inference_may_stop_before_the_last_layer(family: str) -> None:
    model = frozen(
        tiny({"model.family": family, "model.decoder_layers": 4, "model.eval_layers": 2})
    )
    assert model(noise(), some_targets()).matching.levels[-1] == "layer_3", (
        "training goes on to the last"
    )
    shorter = tiny({"model.family": family, "model.decoder_layers": 2}).eval()
    shorter.load_state_dict(
        {key: value for key, value in model.state_dict().items() if key in shorter.state_dict()}
    )
    images = noise().double()
    model.double().eval()
    with torch.no_grad():
        prediction, every, alone = (
            model(images),
            model.every_level(images),
            shorter.double()(images),
        )
        deployed = model.deploy()(images)
    assert every.matching.levels == (
        "encoder",
        *(["pre"] if family == "dfine" else []),
        "layer_0",
        "layer_1",
    )
    for found in (prediction, every.prediction):
        assert torch.equal(found.logits, alone.logits)
        assert torch.equal(found.boxes_cxcywh, alone.boxes_cxcywh)
    torch.testing.assert_close(deployed.boxes_cxcywh, alone.boxes_cxcywh, rtol=0, atol=1e-9)


@pytest.mark.parametrize("targets", [None, some_targets()], ids=["without targets", "with targets"])
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"match.kind": "groups(2)"},
        {"model.decoder_layers": 3, "model.eval_layers": 1},
        {"model.gateway": True},
    ],
)
def test_every_trainable_parameter_gets_a_gradient(
    overrides: dict[str, Any], targets: Targets | None
) -> None:
    model = tiny(overrides).train()
    output = model(noise(), targets)
    levels = [output.matching] if output.denoising is None else [output.matching, output.denoising]
    sum(
        (level.logits.sum() + level.boxes_cxcywh.sum() for level in levels), torch.zeros(())
    ).backward()
    assert [
        name for name, p in model.named_parameters() if p.requires_grad and p.grad is None
    ] == []


def test_matching_queries_do_not_see_denoising_queries() -> None:
    model, images = frozen(tiny()).double(), noise().double()
    with torch.no_grad():
        without, having = model(images), model(images, some_targets())
    torch.testing.assert_close(without.matching.logits, having.matching.logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        without.matching.boxes_cxcywh, having.matching.boxes_cxcywh, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_rectangles(size: tuple[int, int]) -> None:
    model, images = tiny().double().eval(), noise(2, *size).double()
    with torch.no_grad():
        prediction, deployed = model(images), model.deploy()(images)
    assert prediction.boxes_cxcywh.shape == (2, 20, 4)
    torch.testing.assert_close(deployed.logits, prediction.logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(deployed.boxes_cxcywh, prediction.boxes_cxcywh, rtol=0, atol=1e-9)


def test_deploy_folds_the_encoder_and_can_not_be_trained() -> None:
    model = tiny({"match.kind": "groups(2)"}).train()
    deployed = model.deploy()
    for part in ("lateral_convs", "fpn_blocks", "downsample_convs", "pan_blocks"):
        assert any(
            isinstance(m, nn.BatchNorm2d) for m in model.encoder.get_submodule(part).modules()
        ), part
        assert not any(
            isinstance(m, nn.BatchNorm2d) for m in deployed.encoder.get_submodule(part).modules()
        ), part
    assert not any("group_embed" in key for key in deployed.state_dict())
    with pytest.raises(ValueError, match="deploy"):
        deployed.train()


def test_autocast_keeps_boxes_in_float32() -> None:
    model = tiny()
    for mode in (False, True):
        model.train(mode)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(noise(), some_targets())
        output = output.matching if isinstance(output, DetectorOutput) else output
        assert output.logits.dtype == output.boxes_cxcywh.dtype == torch.float32
        assert output.boxes_cxcywh.isfinite().all()


@pytest.mark.parametrize("kind", ["hungarian", "simota", "groups(3)"])
def test_every_kind_of_matching_scores_it(kind: str) -> None:
    config = preset("deim_rtdetrv2_r18", TINIER | {"match.kind": kind})
    output = tiny({"match.kind": kind}).train()(noise(), some_targets())
    targets = some_targets()
    matches = assign(output, targets, config.match)
    table = criterion.compute(output, targets, matches, loss=config.loss, match=config.match)
    assert set(table.terms) == {
        f"{prefix}{term}" for prefix in ("", "dn_") for term in ("class", "l1", "giou")
    }
    assert table.levels["class"] == ("encoder", "layer_0", "layer_1", "layer_2")
    assert table.total.isfinite()
    assert table.positives_per_image == {"hungarian": 1.5, "groups(3)": 4.5}.get(
        kind, table.positives_per_image
    )
    table.total.backward()


def test_one_box_head_for_all_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.share_box_head"):
        preset("deim_rtdetrv2_r18", {"model.share_box_head": True})
    for key, value in {
        "model.reg_max": 64,
        "model.up": 0.25,
        "loss.weight_fgl": 0.0,
        "loss.ddf_temperature": 4.0,
    }.items():
        with pytest.raises(
            ConfigError, match=f"^{key} {value} would have no effect.*no edge distributions"
        ):
            preset("deim_rtdetrv2_r18", {key: value})


# --- from training to prediction
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("data") / "set",
        train_images=8,
        val_images=4,
        size_px=(64, 64),
        seed=3,
    )


def test_train_resume_and_look_back(small_set: Path, tmp_path: Path) -> None:
    config = preset(
        "deim_rtdetrv2_r18",
        TINIER | {"train.epochs": 2, "train.keep_checkpoints": "all", "train.checkpoint_steps": 1},
    )
    whole = deim_lab.train(config, small_set, seed=1, runs_dir=tmp_path / "whole", device="cpu")
    with pytest.raises(CutError):
        deim_lab.train(
            config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu", on_event=cut_at(3)
        )
    resumed = deim_lab.train(config, small_set, seed=1, runs_dir=tmp_path / "cut", device="cpu")
    assert whole.status == resumed.status == "done"
    last = {event["step"]: event["loss"] for event in whole.events() if event["kind"] == "step"}
    assert {
        event["step"]: event["loss"] for event in resumed.events() if event["kind"] == "step"
    } == last
    names = next(event["losses"] for event in whole.events() if event["kind"] == "step")
    assert {name.partition("/")[0].removeprefix("dn_") for name in names} >= {"class", "l1", "giou"}
    assert not any(term in name for name in names for term in ("fgl", "ddf"))

    loaded = load_detector(whole.folder)
    assert loaded.config == config
    source, _ = coco.open_source(coco.resolve(small_set, cache_dir=tmp_path))
    views = microscope.look_back(whole.folder, *microscope.fixed_batch(source, range(4), config))
    assert next(iter(views.values())).levels == ("encoder", "layer_0", "layer_1", "layer_2")
    assert set(microscope.stability_over(views)["level"]) == {
        "encoder",
        "layer_0",
        "layer_1",
        "layer_2",
    }
    counted = microscope.summary(
        microscope.positives(loaded.model, source, config, samples=4, batch_size=4)
    )
    assert (counted["positives"] > 0).all()


def test_train_and_predict_with_the_recipe_s_own_backbone(small_set: Path, tmp_path: Path) -> None:
    config = preset("rtdetrv2_r18", TINY | {"train.epochs": 1})
    run = deim_lab.train(config, small_set, runs_dir=tmp_path, device="cpu")
    loaded = load_detector(run.folder)
    pictures = sorted((small_set / "images" / "val").iterdir())
    found = list(Predictor(loaded, threshold=0.0, device="cpu").predict(pictures))
    assert len(found) == len(pictures)
    assert all(len(item) for item in found)


@pytest.mark.slow  # 150 epochs
@pytest.mark.parametrize("kind", ["hungarian", "groups(2)"])
def test_a_handful_of_images_is_learnt_by_heart(tmp_path: Path, kind: str) -> None:
    train = short_runs.few_images(tmp_path / "set")
    smoke = preset(
        "smoke",
        short_runs.BY_HEART
        | {
            "loss.go_union": False,
        },
    )
    model = replace(smoke.model, family="rtdetrv2", gateway=False, query_position="deep")
    config: Config = replace(smoke, model=model, match=MatchConfig(kind=kind))
    run = deim_lab.train(
        config, {"train": train, "val": train}, runs_dir=tmp_path / "runs", device="cpu"
    )
    (val,) = [event for event in run.events() if event["kind"] == "val"]
    assert val["AP"] > 0.9
