"""detector/weights.py: the official layout out and in, own files, and files that must be
refused.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deim_lab.config import Config
from deim_lab.config.presets import PRESETS, preset
from deim_lab.data import synthetic
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.errors import ConfigError, WeightsError
from deim_lab.training.loop import train
from deim_lab.weights import own
from deim_lab.weights.coco80 import COCO80
from deim_lab.weights.layout import is_derived
from deim_lab.weights.own import (
    export_official,
    load_detector,
    load_official,
    load_weights,
    official_state_dict,
    save_weights,
)
from places import REFERENCE

LAYOUTS = json.loads(gzip.decompress((REFERENCE / "state_dicts.json.gz").read_bytes()))
OFFICIAL = [
    f"{flavour}{model}"
    for flavour in ("deim_", "")
    for model in (
        *(f"dfine_{size}" for size in "nsmlx"),
        *(f"rtdetrv2_{size}" for size in ("r18", "r34", "r50m", "r50", "r101")),
    )
]
CATEGORIES = [{"id": 1, "name": "red"}, {"id": 5, "name": "green"}, {"id": 7, "name": "blue"}]


def small(classes: int = 3, seed: int = 0, **overrides: Any) -> Detector:
    torch.manual_seed(seed)
    return build_detector(smoke_config(**overrides), classes)


def smoke_config(**overrides: Any) -> Config:
    return preset("smoke", {f"model.{key}": value for key, value in overrides.items()})


def outputs(model: Detector) -> Tensor:
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prediction = model.eval()(images)
    return torch.cat([prediction.logits, prediction.boxes_cxcywh], dim=-1)


def layout_of(state: dict[str, Tensor]) -> list[list[Any]]:
    return [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in state.items()
    ]


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


def zeros_like_layout(name: str) -> dict[str, Tensor]:
    return {
        key: torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, shape, dtype in LAYOUTS[name]["state_dict"]
    }


# --- official layout
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_layout(name: str) -> None:
    model = build_detector(name, 80)
    assert layout_of(official_state_dict(model)) == LAYOUTS[name]["state_dict"]
    assert layout_of(official_state_dict(model.deploy())) == LAYOUTS[name]["state_dict_deploy"]
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


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"ema": {"module": state, "updates": 3}, "model": {"wrong": torch.zeros(1)}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {
            "date": "today",
            "last_epoch": 3,
            "model": state,
            "optimizer": {"state": {}},
        },
    ],
)
def test_official_checkpoints_go_in(wrap: Any, tmp_path: Path) -> None:
    source, target = small(seed=1), small(seed=2)
    torch.save(wrap(official_state_dict(source, eval_size=(64, 32))), tmp_path / "official.pth")
    report = load_official(target, tmp_path / "official.pth")
    assert report == own.LoadReport()
    assert torch.equal(outputs(target), outputs(source))


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


@pytest.mark.parametrize(
    "name",
    ["dfine_n", "deim_rtdetrv2_r18", "rtdetrv2_r18", "deimv2_hgnetv2_atto", "deimv2_hgnetv2_n"],
)
def test_export_reads_back_equal_and_has_the_official_layout(name: str, tmp_path: Path) -> None:
    size = (
        (320, 320) if name.endswith("atto") else (640, 640)
    )  # the size that official code evaluates it at
    torch.manual_seed(1)
    source = build_detector(name, 80)
    with torch.no_grad():
        for parameter in source.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    assert (
        export_official(source, tmp_path / "official.pth", eval_size=size)
        == tmp_path / "official.pth"
    )
    content = torch.load(tmp_path / "official.pth", weights_only=True)
    assert list(content) == ["model"]
    assert layout_of(content["model"]) == LAYOUTS[name]["state_dict"]
    target = build_detector(name, 80)
    assert (
        load_official(target, tmp_path / "official.pth", categories=[name for _, name in COCO80])
        == own.LoadReport()
    )
    assert all(
        torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["official.pth"]


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name in PRESETS])
def test_every_preset_writes_the_official_layout(name: str) -> None:
    with torch.device("meta"):
        model = build_detector(name, 80)
    state = {
        key: value
        for key, value in model.state_dict().items()
        if not key.endswith(("up", "reg_scale"))
    }
    official = {key: shape for key, shape, _ in LAYOUTS[name]["state_dict"]}
    assert {key: list(value.shape) for key, value in state.items()}.items() <= official.items()
    left = {key for key in official if key not in state}
    assert all(
        key.endswith((".anchors", ".valid_mask", ".num_points_scale", ".up", ".reg_scale"))
        for key in left
    )


def test_the_deploy_form_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="deploy form"):
        export_official(small().deploy(), tmp_path / "official.pth")


@pytest.mark.parametrize(
    ("name", "eval_size"), [("rtdetrv2_r18", (320, 640)), ("deimv2_hgnetv2_atto", (320, 320))]
)
@pytest.mark.parametrize(
    "wrap",
    [lambda state: state, lambda state: {"model": state}, lambda state: {"ema": {"module": state}}],
)
def test_checkpoints_of_the_other_families(
    name: str, eval_size: tuple[int, int], wrap: Any
) -> None:
    torch.manual_seed(1)
    source, target = build_detector(name, 3), build_detector(name, 3)
    assert load_official(target, wrap(official_state_dict(source, eval_size))) == own.LoadReport()
    assert all(
        torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items()
    )


def test_frozen_norms_of_resnet_take_trained_ones() -> None:
    torch.manual_seed(1)
    frozen, trained = build_detector("rtdetrv2_r50m", 3), build_detector("deim_rtdetrv2_r50m", 3)
    assert LAYOUTS["rtdetrv2_r50m"] != LAYOUTS["deim_rtdetrv2_r50m"]
    same = build_detector(preset("rtdetrv2_r50m", {"model.freeze_backbone_norm": False}), 3)
    assert load_official(same, official_state_dict(frozen)) == own.LoadReport()
    assert load_official(frozen, official_state_dict(same)) == own.LoadReport()
    with pytest.raises(
        WeightsError, match=r"rtdetrv2_r50m of 3 classes, while this model is .*deim_rtdetrv2_r50m"
    ):
        load_official(trained, official_state_dict(frozen))


# --- fine-tuning
# --------------------------------------------------------------------------------------------------


def test_fine_tuning_with_other_classes(tmp_path: Path) -> None:
    data = synthetic.make(tmp_path / "set", train_images=9, val_images=3, size_px=(64, 64), seed=3)
    names = [
        item["name"]
        for item in json.loads(
            (data / "annotations" / "instances_train.json").read_text(encoding="utf-8")
        )["categories"]
    ]
    config = preset(
        "smoke",
        {
            "train.epochs": 1,
            "data.input_size": 64,
            "model.num_queries": 20,
            "data.batch_size": 4,
            "optim.lr": 1e-12,
            "optim.backbone_lr": 0.0,
            "optim.weight_decay": 0.0,
            "schedule.restart_from_best": False,
        },
    )
    torch.manual_seed(1)
    source = build_detector(config, 4)
    with torch.no_grad():
        for head in (source.decoder.enc_score_head, *source.decoder.dec_score_head):
            head.weight.normal_()
            head.bias.normal_()
    theirs = [
        {"id": number, "name": name}
        for number, name in enumerate(["platelet", names[-1].upper(), "nut", names[0]])
    ]
    save_weights(tmp_path / "own.pt", source, config=config, categories=theirs)
    run = train(config, data, runs_dir=tmp_path / "runs", weights=tmp_path / "own.pt")
    tuned = torch.load(run.folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    for key in ("decoder.enc_score_head", "decoder.dec_score_head.1"):
        before = source.get_parameter(f"{key}.weight").data
        torch.testing.assert_close(tuned[f"{key}.weight"][0], before[3], rtol=0, atol=1e-6)
        torch.testing.assert_close(tuned[f"{key}.weight"][-1], before[1], rtol=0, atol=1e-6)
        for index in range(1, len(names) - 1):
            assert float(tuned[f"{key}.bias"][index]) == pytest.approx(-math.log(99), abs=1e-4)
    assert json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["weights"][
        "sha256"
    ] == own.fingerprint_of(tmp_path / "own.pt")
    assert run.status == "done"


# --- refused
# --------------------------------------------------------------------------------------------------


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


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_files_that_can_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"model": official_state_dict(small())}, whole)
    (tmp_path / "truncated.pth").write_bytes(whole.read_bytes()[:-1000])
    (tmp_path / "text.pth").write_text("not weights", encoding="utf-8")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "hollow.pth")
    for name, says in {
        "truncated": "truncated",
        "text": "can't be read",
        "empty": "truncated",
        "evil": "executed",
        "list": "list",
        "hollow": "holds no weights",
        "absent": "does not exist",
    }.items():
        with pytest.raises(WeightsError, match=says) as caught:
            load_official(small(), tmp_path / f"{name}.pth")
        assert f"{name}.pth" in str(caught.value)
    assert capsys.readouterr().out == ""


# --- own files
# --------------------------------------------------------------------------------------------------


def test_own_files_come_back_equal(tmp_path: Path) -> None:
    model, config = small(seed=4), smoke_config()
    save_weights(
        tmp_path / "own.pt",
        model,
        config=config,
        categories=CATEGORIES,
        extra={"epoch": 3, "notes": ["a", None]},
    )
    loaded = load_detector(tmp_path / "own.pt")
    assert loaded.config == config
    assert loaded.categories == CATEGORIES
    assert not loaded.model.training
    assert torch.equal(outputs(loaded.model), outputs(model))
    assert [path.name for path in tmp_path.iterdir()] == ["own.pt"]


def test_own_files_of_the_deploy_form(tmp_path: Path) -> None:
    deployed = small(seed=4).deploy()
    save_weights(tmp_path / "own.pt", deployed, config=smoke_config(), categories=CATEGORIES)
    loaded = load_detector(tmp_path / "own.pt")
    assert loaded.model.deployed
    assert torch.equal(outputs(loaded.model), outputs(deployed))


@pytest.mark.parametrize(
    "shape", [lambda state: state, lambda state: {"module": state, "updates": 3}]
)
def test_ema_weights_are_preferred(shape: Any, tmp_path: Path) -> None:
    model, ema = small(seed=4), small(seed=5)
    save_weights(
        tmp_path / "own.pt",
        model,
        config=smoke_config(),
        categories=CATEGORIES,
        extra={"ema": shape(ema.state_dict())},
    )
    assert torch.equal(outputs(load_detector(tmp_path / "own.pt").model), outputs(ema))


def test_a_run_folder_gives_its_best_else_its_last(tmp_path: Path) -> None:
    last, best = small(seed=6), small(seed=7)
    with pytest.raises(WeightsError, match="without"):
        load_detector(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    save_weights(
        tmp_path / "checkpoints" / "last.pt", last, config=smoke_config(), categories=CATEGORIES
    )
    assert torch.equal(outputs(load_detector(tmp_path).model), outputs(last))
    save_weights(
        tmp_path / "checkpoints" / "best.pt", best, config=smoke_config(), categories=CATEGORIES
    )
    assert torch.equal(outputs(load_detector(str(tmp_path)).model), outputs(best))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(seed=4)
    save_weights(tmp_path / "own.pt", model, config=smoke_config(), categories=CATEGORIES)

    def full_disk(content: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_weights(
            tmp_path / "own.pt", small(seed=5), config=smoke_config(), categories=CATEGORIES
        )
    assert [path.name for path in tmp_path.iterdir()] == ["own.pt"]
    assert torch.equal(outputs(load_detector(tmp_path / "own.pt").model), outputs(model))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"categories": CATEGORIES[:2]}, "2 categories for a model of 3"),
        ({"extra": {"path": Path("x")}}, "extra entry path"),
        ({"extra": {"config": {}}}, "reserved"),
    ],
)
def test_what_can_not_be_saved(arguments: dict[str, Any], says: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"config": smoke_config(), "categories": CATEGORIES} | arguments
    with pytest.raises(WeightsError, match=says):
        save_weights(tmp_path / "own.pt", small(), **given)
    assert list(tmp_path.iterdir()) == []


def test_an_official_file_is_no_own_file(tmp_path: Path) -> None:
    torch.save({"model": official_state_dict(small())}, tmp_path / "official.pth")
    with pytest.raises(WeightsError, match="load_official"):
        load_detector(tmp_path / "official.pth")


def test_load_weights_of_other_categories(tmp_path: Path) -> None:
    source = small(seed=4)
    save_weights(tmp_path / "own.pt", source, config=smoke_config(), categories=CATEGORIES)
    same, other = small(seed=5), small(seed=5)
    assert load_weights(same, tmp_path / "own.pt", categories=CATEGORIES) == own.LoadReport()
    assert torch.equal(outputs(same), outputs(source))
    renamed = [*CATEGORIES[:2], {"id": 7, "name": "violet"}]
    report = load_weights(other, tmp_path / "own.pt", categories=renamed)
    assert "decoder.enc_score_head.weight" in report.reinitialised
    assert not torch.equal(
        other.decoder.enc_score_head.weight, source.decoder.enc_score_head.weight
    )


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


def test_weights_and_backbone_weights_exclude_each_other(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.pt", small(seed=4), config=smoke_config(), categories=CATEGORIES)
    with pytest.raises(ConfigError, match=r"model\.backbone_weights='timm' and weights="):
        train(
            smoke_config(backbone_weights="timm"),
            runs_dir=tmp_path / "runs",
            weights=tmp_path / "own.pt",
            device="cpu",
        )
    assert not (tmp_path / "runs").exists()
