"""weights/own.py: official and own files out and in, and files that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from deim_lab.config.presets import preset
from deim_lab.data import synthetic
from deim_lab.detector.detector import build_detector
from deim_lab.errors import WeightsError
from deim_lab.training.loop import train
from deim_lab.weights import own
from deim_lab.weights.coco80 import COCO80
from deim_lab.weights.own import (
    export_official,
    load_detector,
    load_official,
    load_weights,
    official_state_dict,
    save_weights,
)
from official import layout_of, layouts
from small_detectors import CATEGORIES, outputs, small, smoke_config

# --- official layout
# --------------------------------------------------------------------------------------------------


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
    assert layout_of(content["model"]) == layouts()[name]["state_dict"]
    target = build_detector(name, 80)
    assert (
        load_official(target, tmp_path / "official.pth", categories=[name for _, name in COCO80])
        == own.LoadReport()
    )
    assert all(
        torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["official.pth"]


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
