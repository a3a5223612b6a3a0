"""detector/detector.py against the official numbers, its forms, and bad input."""

from __future__ import annotations

import copy
import gzip
import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.detector.edges import bin_distances, distances_to_boxes, expected_distances
from deim_lab.detector.layers import FrozenBatchNorm2d
from deim_lab.errors import ConfigError
from deim_lab.structures import DetectorOutput, Prediction, Targets
from numeric import assert_same_queries, depth_of, float32_tolerance
from official import NAMES, fill, layouts, picture, with_parts
from places import REFERENCE
from small_detectors import noise, some_targets, without_gradient

pytestmark = pytest.mark.numeric

FORWARD = [
    "deim_dfine_n_320",
    "deim_dfine_s_320",
    "deim_dfine_n_256x384",
    "dfine_n_320",
    "dfine_s_320",
    "deim_rtdetrv2_r18_320",
    "rtdetrv2_r18_320",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "deim_dfine_n_640",
            "deim_dfine_s_640",
            "deim_dfine_l_320",
            "deim_rtdetrv2_r50_320",
            "rtdetrv2_r50_320",
        )
    ),
]


@cache
def smoke() -> Detector:
    """One small untrained model for all tests that don't change it."""
    torch.manual_seed(0)
    return build_detector("smoke", 3)


# --- parity
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FORWARD)
def test_forward_equals_the_official_one(case: str) -> None:
    with np.load(REFERENCE / "forward" / f"{case}.npz") as arrays:
        want = dict(arrays)
    meta = json.loads(bytes(want["meta_json"]))
    model = build_detector(meta["model"], 80).eval()
    fill(model, salt=meta["salt"], conv_gain=meta["conv_gain"], lin_gain=meta["lin_gain"])
    images = picture(meta["batch"], *meta["input_size"])
    with torch.no_grad():
        single, single_deploy = model(images), model.deploy()(images)
        model.double()
        double_deploy = model.deploy()(images.double())
        double, features, maps = with_parts(model, images.double())
        chosen = model.decoder.select(*model.decoder.flatten(maps))

    for name, found in [
        *((f"backbone.{i}", x) for i, x in enumerate(features)),
        *((f"encoder.{i}", x) for i, x in enumerate(maps)),
    ]:
        stage = meta["stages_fp64"][name]
        assert list(found.shape) == stage["shape"]
        np.testing.assert_allclose(
            found.flatten()[:16],
            stage["first16"],
            rtol=0,
            atol=2e-6 * stage["absmax"],
            err_msg=name,
        )
    np.testing.assert_array_equal(chosen.index, want["topk_ind"])
    logits = want["pred_logits" if "pred_logits" in want else "pred_logits_subset"]
    for prediction in (double, double_deploy):
        np.testing.assert_allclose(prediction.boxes_cxcywh, want["pred_boxes"], rtol=0, atol=2e-6)
        np.testing.assert_allclose(
            logits_of(prediction, want),
            logits,
            rtol=0,
            atol=2e-5,
        )
    for prediction in (single, single_deploy):
        assert_same_queries(
            prediction.boxes_cxcywh,
            logits_of(prediction, want),
            want["pred_boxes"],
            logits,
            depth_of(model),
        )


def logits_of(prediction: Prediction, want: dict[str, np.ndarray]) -> np.ndarray:
    logits = prediction.logits.numpy()
    return logits if "pred_logits" in want else logits[..., want["class_subset"]]


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_the_official_ones(name: str) -> None:
    with torch.device("meta"):
        model = build_detector(name, 80)
    want = layouts()[name]
    assert sum(p.numel() for p in model.parameters()) == want["n_params_train_form"]
    assert (
        sum(p.numel() for p in model.parameters() if p.requires_grad) == want["n_params_trainable"]
    )
    assert {key for key, p in model.named_parameters() if not p.requires_grad} == set(
        want["frozen_params"]
    )
    for part in ("backbone", "encoder", "decoder"):
        assert (
            sum(p.numel() for p in model.get_submodule(part).parameters())
            == want[f"n_params_{part}"]
        )
    assert sum(p.numel() for p in model.deploy().parameters()) == want["n_params_deploy"]


@pytest.mark.parametrize("name", ["deim_dfine_n", "deim_dfine_s", "deim_rtdetrv2_r18"])
def test_initial_values_are_distributed_as_the_official_ones(name: str) -> None:
    want = json.loads(gzip.decompress((REFERENCE / "init_stats.json.gz").read_bytes()))[name]
    torch.manual_seed(0)
    state = build_detector(name, 80).state_dict()
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        stats = want[key]
        if "values" in stats:
            np.testing.assert_allclose(
                value.flatten(), stats["values"], rtol=0, atol=2e-6, err_msg=key
            )
        elif "const" in stats:
            np.testing.assert_allclose(value, stats["const"], rtol=0, atol=1e-6, err_msg=key)
        elif value.numel() >= 256:
            # 6 standard errors of a uniform sample's std; its bounds to 5 %
            tolerance = max(0.02, 6 * 0.45 / value.numel() ** 0.5)
            assert float(value.std()) == pytest.approx(stats["std"], rel=tolerance), key
            if value.numel() >= 2048 and "embed" not in key:
                assert float(value.abs().max()) == pytest.approx(
                    max(-stats["min"], stats["max"]), rel=0.05
                ), key


# --- shapes and modes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(96, 96), (96, 160), (128, 64)])
def test_any_multiple_of_32_works_in_both_modes(size: tuple[int, int]) -> None:
    model, images = smoke(), noise(2, *size)
    prediction = model.eval()(images)
    assert prediction.logits.shape == (2, 30, 3)
    assert prediction.boxes_cxcywh.shape == (2, 30, 4)
    assert (prediction.boxes_cxcywh[..., :2] > -1).all()
    output = model.train()(images, some_targets())
    assert output.matching.boxes_cxcywh.shape == (4, 2, 30, 4)


def test_train_output() -> None:
    model = smoke().train()
    torch.manual_seed(3)
    output = model(noise(2, 96, 96), some_targets())
    assert isinstance(output, DetectorOutput)
    matching, denoising = output.matching, output.denoising
    assert matching.levels == ("encoder", "pre", "layer_0", "layer_1")
    assert matching.logits.shape == (4, 2, 30, 3)
    assert matching.corners is not None
    assert matching.corners.shape == (2, 2, 30, 132)
    assert matching.reference_cxcywh is not None
    assert not matching.reference_cxcywh.requires_grad
    assert denoising is not None
    assert denoising.levels == ("pre", "layer_0", "layer_1")
    groups = output.dn_groups
    assert groups == 20 // 3
    assert denoising.logits.shape == (3, 2, groups * 2 * 3, 3)
    assert output.dn_matches is not None
    assert len(output.dn_matches) == groups * 3
    torch.testing.assert_close(output.prediction.logits, matching.logits[-1])
    torch.testing.assert_close(matching.reference_cxcywh, matching.boxes_cxcywh[1])


def test_matching_queries_do_not_see_denoising_queries() -> None:
    model = copy.deepcopy(smoke()).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = noise(2, 96, 96).double()
    with torch.no_grad():
        without, having = model(images), model(images, some_targets())
    assert without.denoising is None
    torch.testing.assert_close(without.matching.logits, having.matching.logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        without.matching.boxes_cxcywh, having.matching.boxes_cxcywh, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    "targets",
    [None, some_targets(), Targets.from_lists([torch.zeros(0, 4)] * 2, [torch.zeros(0)] * 2)],
)
def test_every_trainable_parameter_gets_a_gradient(targets: Targets | None) -> None:
    """With and without targets: data-parallel training hangs on a parameter that is left out."""
    model = smoke().train()
    model.zero_grad()
    assert without_gradient(model, targets) == []


def test_without_denoising_there_is_no_class_embedding() -> None:
    model = build_detector(preset("smoke", {"model.num_denoising": 0}), 3).train()
    assert not any("denoising" in key for key in model.state_dict())
    assert model(noise(2, 96, 96), some_targets()).denoising is None


def test_each_image_is_detected_alone() -> None:
    model, images = copy.deepcopy(smoke()).double().eval(), noise(3, 96, 128).double()
    with torch.no_grad():
        together, alone = model(images), model(images[1:2])
    torch.testing.assert_close(together.boxes_cxcywh[1:2], alone.boxes_cxcywh, rtol=0, atol=1e-9)


def test_inference_mode_leaves_no_trace_for_training() -> None:
    model, images = build_detector("smoke", 3), noise(1, 96, 96)
    with torch.inference_mode():
        model.eval()(images)
    transformer: Any = model.get_submodule("encoder.encoder.0")
    cached = [
        *transformer._positions.values(),
        *(x for pair in model.decoder._anchors.values() for x in pair),
    ]
    assert len(cached) == 3
    assert not any(x.is_inference() for x in cached)
    model.train()(images, some_targets(1)).matching.logits.sum().backward()


def test_autocast_keeps_boxes_in_float32() -> None:
    model, images = build_detector("smoke", 3), noise(2, 96, 96)
    fill(
        model, salt="", conv_gain=1.2, lin_gain=1.2
    )  # an untrained box head says 0, which is exact in any precision
    for mode in (False, True):
        model.train(mode)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(images, some_targets())
        output = output if isinstance(output, Prediction) else output.matching
        assert output.logits.dtype == output.boxes_cxcywh.dtype == torch.float32
        assert output.boxes_cxcywh.isfinite().all()
    assert output.corners is not None
    assert output.reference_cxcywh is not None
    bins = bin_distances(32, 0.5, 4.0)
    exact = distances_to_boxes(
        output.reference_cxcywh, expected_distances(output.corners, bins), 4.0
    )
    torch.testing.assert_close(
        output.boxes_cxcywh[2:], exact, rtol=0, atol=float32_tolerance(3)
    )  # softmax, mean, box


# --- deploy and frozen forms
# --------------------------------------------------------------------------------------------------


def test_deploy_is_a_copy_that_can_not_be_trained() -> None:
    model = smoke().train()
    deployed = model.deploy()
    assert model.training
    assert not deployed.training
    assert not any(
        isinstance(m, nn.BatchNorm2d)
        for m in deployed.get_submodule("encoder.fpn_blocks").modules()
    )
    assert any(
        isinstance(m, nn.BatchNorm2d) for m in model.get_submodule("encoder.fpn_blocks").modules()
    )
    with pytest.raises(ValueError, match="deploy"):
        deployed.train()


def test_frozen_norms_and_stem() -> None:
    config = override(
        preset("smoke"), {"model.freeze_backbone_norm": True, "model.freeze_stem": True}
    )
    model = build_detector(config, 3).train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.backbone.modules())
    norms = [m for m in model.backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    model(noise(2, 96, 96)).matching.logits.sum().backward()
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, norms, strict=True))
    assert all(p.grad is None for p in model.get_submodule("backbone.stem").parameters())
    assert all(p.grad is not None for p in model.get_submodule("backbone.stages").parameters())


# --- bad input
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(1, 3, 96, 100), "96 × 100"),
        (torch.rand(1, 1, 96, 96), r"\[1, 1, 96, 96\]"),
        (torch.zeros(1, 3, 96, 96, dtype=torch.uint8), "uint8"),
        (torch.rand(1, 3, 32, 32), "20 anchors can't give 30 queries"),
    ],
)
def test_images_that_do_not_fit(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smoke().eval()(images)


def test_targets_of_another_batch() -> None:
    with pytest.raises(ValueError, match="targets are of 2 images, but the batch has 3"):
        smoke().train()(noise(3, 96, 96), some_targets())


@pytest.mark.parametrize(
    ("overrides", "classes", "message"),
    [
        ({"model.backbone": "hgnetv2_b9"}, 3, "hgnetv2_b"),
        ({"model.backbone_stages": [1, 3]}, 3, "0 to 2"),
        ({"model.backbone_stages": [0, 2]}, 3, "must be consecutive"),
        ({}, 0, "num_classes 0"),
    ],
)
def test_configs_that_can_not_be_built(
    overrides: dict[str, Any], classes: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_detector(preset("smoke", overrides), classes)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="deim_dfine_n"):
        build_detector("deim_dfin_n", 80)
