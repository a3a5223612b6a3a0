"""weights/classes.py: names that are the same, and the head rows that move by class name."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from deim_lab.config.presets import preset
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.errors import WeightsError
from deim_lab.weights.classes import match_classes, normalised
from deim_lab.weights.coco80 import COCO80
from deim_lab.weights.own import (
    LoadReport,
    load_official,
    load_weights,
    official_state_dict,
    save_weights,
)

COCO_NAMES = [name for _, name in COCO80]


def small(classes: int, seed: int = 0, **overrides: Any) -> Detector:
    torch.manual_seed(seed)
    model = build_detector(
        preset("smoke", {f"model.{key}": value for key, value in overrides.items()}), classes
    )
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # so that no row is at its initial value, nor equal to another
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return model


def rows(model: Detector) -> list[torch.Tensor]:
    """Of each class: all its weights, [classes, values]."""
    decoder = model.decoder
    heads = [decoder.enc_score_head, *decoder.dec_score_head]
    parts = [head.weight.detach() for head in heads] + [
        head.bias.detach()[:, None] for head in heads
    ]
    return list(torch.cat([*parts, decoder.denoising_class_embed.weight.detach()[:-1]], dim=1))


# --- names
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("Traffic_Light", "traffic light"),
        ("traffic-light", "traffic light"),
        ("pottedplant", "potted plant"),
        ("diningtable", "dining table"),
        ("aeroplane", "airplane"),
        ("motorbike", "motorcycle"),
        ("TVmonitor", "tv"),
        ("sofa", "couch"),
        ("cellphone", "cell phone"),
        ("STRASSE", "straße"),
    ],
)
def test_names_that_are_the_same(mine: str, theirs: str) -> None:
    assert match_classes([mine], ["other", theirs]).rows == (1,)
    assert normalised(mine) == normalised(theirs)


@pytest.mark.parametrize(
    ("mine", "theirs"), [("cat", "cattle"), ("orange", "orange juice"), ("cats", "cat")]
)
def test_names_that_are_not_the_same(mine: str, theirs: str) -> None:
    assert match_classes([mine], [theirs]).rows == (None,)


def test_an_exact_name_comes_before_a_close_one() -> None:
    assert match_classes(["Cat", "cat"], ["cat", "Cat"]).rows == (1, 0)
    assert match_classes(["CAT"], ["cat", "Cat"]).rows == (
        None,
    )  # nobody's: two rows could be meant
    assert match_classes(["cat", "CAT"], ["Cat"]).rows == (None, None)


def test_what_a_mapping_says() -> None:
    mapping = match_classes(
        [{"id": 4, "name": "dog"}, {"id": 9, "name": "platelet"}], ["person", "Dog", "cat"]
    )
    assert mapping.rows == (1, None)
    assert (mapping.kept, mapping.reinitialised, mapping.dropped) == (
        ("dog",),
        ("platelet",),
        ("person", "cat"),
    )
    assert not mapping.identical
    assert [
        (item["class"], item["status"], item["source"], item["row"]) for item in mapping.records()
    ] == [
        ("dog", "kept", "Dog", 1),
        ("platelet", "re-initialised", None, None),
        (None, "dropped", "person", 0),
        (None, "dropped", "cat", 2),
    ]
    lines = mapping.table().splitlines()
    assert lines[1].split() == ["dog", "kept", "Dog", "(1)"]
    assert len(lines) == 5
    assert (
        str(mapping)
        == "classes: 1 kept (dog), 1 re-initialised (platelet), 2 dropped (person, cat)"
    )


# --- rows
# --------------------------------------------------------------------------------------------------


def test_rows_go_by_name_and_the_rest_starts_anew() -> None:
    source, target = small(80, seed=1), small(3, seed=2)
    report = load_official(
        target, official_state_dict(source), categories=["red blood cell", "Stop_Sign", "person"]
    )
    mine, theirs = rows(target), rows(source)
    torch.testing.assert_close(mine[1], theirs[COCO_NAMES.index("stop sign")])
    torch.testing.assert_close(mine[2], theirs[0])
    assert not any(torch.equal(mine[0], row) for row in theirs)
    for head in (target.decoder.enc_score_head, *target.decoder.dec_score_head):
        assert float(head.bias.detach()[0]) == pytest.approx(-math.log(99))
    assert target.decoder.denoising_class_embed.weight[3].abs().sum() == 0
    assert report.classes is not None
    assert report.classes.kept == ("Stop_Sign", "person")
    assert report.classes.reinitialised == ("red blood cell",)
    assert len(report.classes.dropped) == 78
    assert "decoder.dec_score_head.1.bias" in report.reinitialised
    assert "COCO" in str(report)
    assert "red blood cell" in report.table()


def test_a_subset_keeps_every_row_it_needs() -> None:
    source, target = small(80, seed=1), small(2, seed=2)
    report = load_official(target, official_state_dict(source), categories=["zebra", "cat"])
    assert report == LoadReport()
    assert all(
        torch.equal(a, rows(source)[COCO_NAMES.index(name)])
        for a, name in zip(rows(target), ["zebra", "cat"], strict=True)
    )
    assert report.classes is not None
    assert len(report.classes.dropped) == 78


def test_equal_counts_with_other_names_are_never_reused(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    source = small(3, seed=1)
    theirs = [{"id": 1, "name": "rbc"}, {"id": 2, "name": "wbc"}, {"id": 3, "name": "platelets"}]
    save_weights(tmp_path / "own.pt", source, config=preset("smoke"), categories=theirs)
    for names in (["apple", "nut", "date"], ["apple", "rbc", "nut"], ["wbc", "rbc", "platelets"]):
        target = small(3, seed=2)
        report = load_weights(target, tmp_path / "own.pt", categories=names)
        for name, mine in zip(names, rows(target), strict=True):
            equal = [torch.equal(mine, row) for row in rows(source)]
            assert equal == [item["name"] == name for item in theirs]
        assert report.classes is not None
        assert set(report.classes.reinitialised) == {
            name for name in names if name not in ("rbc", "wbc", "platelets")
        }
    target = small(3, seed=2)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load_weights(target, tmp_path / "own.pt", categories=["apple", "nut", "date"])
    assert (
        "none of the model's classes (apple, nut, date) is among the 3 classes of the file "
        "(rbc, wbc, platelets)" in caplog.text
    )
    assert "class of the file" in caplog.text  # the table


def test_own_files_bring_their_names(tmp_path: Path) -> None:
    source = small(2, seed=1)
    save_weights(
        tmp_path / "own.pt",
        source,
        config=preset("smoke"),
        categories=[{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    )
    target = small(3, seed=2)
    report = load_weights(
        target,
        tmp_path / "own.pt",
        categories=[{"id": 1, "name": name} for name in ("Dog", "cow", "cat")],
    )
    assert torch.equal(rows(target)[0], rows(source)[1])
    assert torch.equal(rows(target)[2], rows(source)[0])
    assert report.classes is not None
    assert report.classes.rows == (1, None, 0)


def test_names_that_nobody_knows(caplog: pytest.LogCaptureFixture) -> None:
    source = small(3, seed=1)
    unknown = small(3, seed=2)
    report = load_official(unknown, official_state_dict(source), categories=["a", "b", "c"])
    assert report.reinitialised
    assert "doesn't name its 3 classes" in caplog.text
    assert not any(torch.equal(mine, row) for mine in rows(unknown) for row in rows(source))
    told = small(3, seed=2)
    assert load_official(
        told,
        official_state_dict(source),
        categories=["a", "b", "c"],
        source_categories=["c", "x", "a"],
    ).reinitialised
    assert torch.equal(rows(told)[0], rows(source)[2])
    assert torch.equal(rows(told)[2], rows(source)[0])
    silent = small(3, seed=2)
    assert load_official(silent, official_state_dict(source)) == LoadReport()
    assert torch.equal(torch.stack(rows(silent)), torch.stack(rows(source)))


def test_close_names_are_proposed(caplog: pytest.LogCaptureFixture) -> None:
    load_official(small(1), official_state_dict(small(80)), categories=["persons"])
    assert "did you mean 'person'?" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"categories": ["a", "b"]}, "2 categories for a model of 3"),
        (
            {"categories": ["a", "b", "c"], "source_categories": ["a"]},
            r"the heads have 4 classes, but 1 names \(a\) are given",
        ),
    ],
)
def test_wrong_numbers_of_names(arguments: dict[str, Any], says: str) -> None:
    target = small(3)
    before = [row.clone() for row in rows(target)]
    with pytest.raises(WeightsError, match=says):
        load_official(target, official_state_dict(small(4)), **arguments)
    assert all(torch.equal(a, b) for a, b in zip(rows(target), before, strict=True))


def test_an_exported_file_is_no_weights(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(
        WeightsError, match=r"model\.onnx is an ONNX file, which only `deim-lab predict` accepts"
    ):
        load_official(small(3), tmp_path / "model.onnx")


def test_heads_that_contradict_each_other() -> None:
    state = official_state_dict(small(4))
    state["decoder.dec_score_head.0.bias"] = torch.zeros(9)
    with pytest.raises(WeightsError, match=r"dec_score_head\.0\.bias has 9 rows"):
        load_official(small(3), state, categories=["a", "b", "c"])


@pytest.mark.parametrize("name", ["rtdetrv2_r18", "deimv2_hgnetv2_atto"])
def test_rows_of_the_other_families(name: str) -> None:
    torch.manual_seed(0)
    source, target = build_detector(name, 80), build_detector(name, 2)
    report = load_official(target, official_state_dict(source), categories=["zebra", "platelet"])
    assert torch.equal(
        target.decoder.enc_score_head.weight[0],
        source.decoder.enc_score_head.weight[COCO_NAMES.index("zebra")],
    )
    assert report.classes is not None
    assert report.classes.reinitialised == ("platelet",)
    assert not report.missing
    assert not report.unexpected
