"""Result files of any detector: their numbers, and the usual mistakes named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deim_lab.errors import ConfigError, DataError
from deim_lab.evaluation import best_f1, coco_metrics
from deim_lab.study import scores
from deim_lab.study.scores import names_of, score_files, suspicions, table
from deim_lab.weights.coco80 import COCO80
from result_files import HEIGHT, WIDTH, found, truth, write_files

Json = Any


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write_files(tmp_path)


def test_numbers_are_those_of_the_evaluator(files: dict[str, Path]) -> None:
    good, rough = score_files(files["gt"], {"A": files["good"], "B": files["rough"]})
    for item, name in ((good, "good"), (rough, "rough")):
        assert item.metrics == coco_metrics(files["gt"], files[name])
        assert (item.f1.f1, item.f1.threshold) == (
            best_f1(files["gt"], files[name]).f1,
            best_f1(files["gt"], files[name]).threshold,
        )
        assert item.per_class["AP"].mean() == pytest.approx(item.metrics["AP"])
        assert item.warnings == ()
        assert (item.detections, item.images, item.images_with_detections) == (48, 12, 12)
    frame = table([good, rough])
    assert frame["model"].tolist() == ["A", "B"]
    assert frame["AP"].tolist() == pytest.approx(
        [100 * good.metrics["AP"], 100 * rough.metrics["AP"]]
    )
    assert frame["AP"][0] > frame["AP"][1]
    assert "AP reported" not in frame  # no COCO val2017


def test_a_published_model_stands_beside_its_reported_ap_on_coco_val2017_only(
    files: dict[str, Path],
) -> None:
    (item,) = score_files(files["gt"], {"YOLOv10-X": files["good"]})
    assert scores.reported_ap_percent(item) is None
    classes = pd.DataFrame(
        [{"category_id": number, "name": name, "boxes": 2} for number, name in COCO80]
    )
    on_coco = scores.Scored(**{**vars(item), "images": 5000, "per_class": classes})
    assert scores.reported_ap_percent(on_coco) == 54.4
    assert table([on_coco])["AP reported"].tolist() == [54.4]
    assert (
        scores.reported_ap_percent(scores.Scored(**{**vars(on_coco), "name": "deim_dfine_n"}))
        == 43.0
    )
    assert scores.reported_ap_percent(scores.Scored(**{**vars(on_coco), "name": "my own"})) is None


ROW = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}


def without(key: str) -> dict[str, Json]:
    return {name: value for name, value in ROW.items() if name != key}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [ROW, {**without("score"), "scores": 0.5}],
            r"row 1 has no 'score' \(did you mean 'scores'\?\); it has 'image_id'",
        ),
        ([without("bbox")], "row 0 has no 'bbox'"),
        ([ROW, 3], "row 1 is '3', not an object"),
        (
            [{**ROW, "image_id": 99}],
            "1 of 1 rows are of images that .*gt.json does not list, the first is row 0 with "
            "image_id 99 .*1 … 12, 12 in all",
        ),
        ([{**ROW, "image_id": "1"}], "The ids there are numbers, '1' is a string"),
        (
            [ROW, {**ROW, "category_id": 0}],
            "are of categories that .*category_id 0 .*not class indices from 0",
        ),
        ([{**ROW, "bbox": [1, 2, 3]}], r"row 0: bbox \[1, 2, 3\] is not \[x, y, width, height\]"),
        ([{**ROW, "score": None}], "row 0: score None is not a finite number"),
        ({"annotations": [ROW]}, "an object with 'annotations': a result file is a list"),
        ({"images": [], "annotations": []}, "a COCO ground truth, not a result"),
        (3, "is a int: a result file is a list"),
    ],
)
def test_bad_rows_are_refused_by_name(
    files: dict[str, Path], tmp_path: Path, rows: Json, message: str
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        score_files(files["gt"], {"bad": bad})
    assert "bad.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is a list, like a result file. Give the ground truth first"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no annotation"),
        ("{", "is no readable JSON"),
        ("\x00\xff", "is no readable JSON|not"),
    ],
)
def test_a_wrong_ground_truth_is_refused_by_name(
    files: dict[str, Path], tmp_path: Path, content: str, message: str
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        score_files(wrong, {"good": files["good"]})


def test_an_absent_file_is_named_with_the_nearest(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"goood.json does not exist.*did you mean 'good.json'"):
        score_files(files["gt"], {"x": tmp_path / "goood.json"})


def changed(content: dict[str, Json], box: Any) -> list[dict[str, Json]]:
    return [
        {**row, "bbox": [float(value) for value in box(*row["bbox"])]} for row in found(content, 0)
    ]


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (lambda x, y, w, h: (x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT), "normalised"),
        (lambda x, y, w, h: (x, y, x + w, y + h), "look like corners"),
        (lambda x, y, w, h: (x + w / 2, y + h / 2, w, h), "look like centre and size"),
        (lambda x, y, w, h: (3 * x, 3 * y, 3 * w, 3 * h), "not of a resized one"),
        (lambda x, y, w, h: (x, y, -w, h), "no width or height"),
    ],
)
def test_boxes_of_another_format_are_scored_and_warned_of(box: Any, said: str) -> None:
    content = truth()
    assert any(said in warning for warning in suspicions(content, changed(content, box)))


def test_good_boxes_and_images_of_unknown_size_raise_no_suspicion() -> None:
    content = truth()
    assert suspicions(content, changed(content, lambda *box: box)) == ()
    assert (
        suspicions(content, changed(content, lambda x, y, w, h: (x - 3, y, w + 5, h))) == ()
    )  # not clipped
    bare = {**content, "images": [{"id": item["id"]} for item in content["images"]]}
    assert suspicions(bare, changed(content, lambda x, y, w, h: (x, y, x + w, y + h))) == ()


def test_scores_coverage_and_counts_are_looked_at() -> None:
    content = truth()
    rows = found(content, 1)
    assert suspicions(content, rows) == ()
    assert (
        "not in [0, 1]"
        in suspicions(content, [{**row, "score": 100 * row["score"]} for row in rows])[0]
    )
    assert "no order" in suspicions(content, [{**row, "score": 1.0} for row in rows])[0]
    assert "only 2 of the 12 images" in suspicions(content, rows[:8])[0]
    assert suspicions(content, []) == ("it has no detections",)


def test_more_than_a_hundred_of_a_class_in_an_image_is_said() -> None:
    content = truth()
    rows = [
        *found(content, 1),
        *({**ROW, "image_id": 3, "score": 0.1 + 0.001 * number} for number in range(120)),
    ]
    (warning,) = suspicions(content, rows)
    assert "COCO counts the 100 best" in warning


def test_names_of_files(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.json"
    odd.write_text("[]", encoding="utf-8")
    assert names_of(["x/one.json", "Two=x/two.json", str(odd)]) == {
        "one": Path("x/one.json"),
        "Two": Path("x/two.json"),
        "a=b": odd,
    }
    assert list(names_of(["x/best.json", "y/best.json"])) == ["x/best", "y/best"]
    for twice in (
        ["A=one.json", "A=two.json"],
        ["x/best.json", "x/best.json"],
        ["one=x.json", "one.json"],
    ):
        with pytest.raises(ConfigError, match="Name them with NAME=FILE"):
            names_of(twice)
