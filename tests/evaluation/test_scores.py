"""evaluation/scores.py: pycocotools' 12 numbers on both backends, and bad input."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest

from coco_sets import BACKENDS, DETECTIONS, EXPECTED, FOLDER, GT, bare_pycocotools, generated
from deim_lab.errors import DataError
from deim_lab.evaluation import (
    METRICS,
    best_f1,
    coco_metrics,
    per_class,
    score,
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_published_numbers_of_the_coco_toolbox(backend: str) -> None:
    got = coco_metrics(GT, DETECTIONS, backend=backend)
    assert tuple(got) == METRICS
    assert got == pytest.approx(EXPECTED["pycocotools"], abs=1e-9)
    assert {name: round(value, 3) for name, value in got.items()} == EXPECTED["published"]
    curve = best_f1(GT, DETECTIONS, backend=backend)
    assert curve.f1 == pytest.approx(0.8302370275464446, abs=1e-12)
    assert curve.threshold == 0.012


@pytest.mark.parametrize("backend", BACKENDS)
def test_per_class_equals_the_reference_and_averages_to_ap(backend: str) -> None:
    frame = per_class(GT, DETECTIONS, backend=backend)
    got = {
        row["name"]: None if math.isnan(row["AP"]) else row["AP"]
        for row in frame.to_dict("records")
    }
    assert got == {
        name: pytest.approx(value, abs=1e-9) if value is not None else None
        for name, value in EXPECTED["pycocotools_per_class"].items()
    }
    metrics = coco_metrics(GT, DETECTIONS, backend=backend)
    for name in METRICS:
        assert frame[name].mean() == pytest.approx(metrics[name], abs=1e-6)
    assert int(frame["boxes"].sum()) == 839 - 9  # of which 9 are crowds
    assert frame["category_id"].is_monotonic_increasing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(6))
def test_generated_sets_equal_bare_pycocotools(backend: str, seed: int) -> None:
    gt, rows = generated(seed)
    expected = bare_pycocotools(gt, rows)
    assert 0.05 < expected["AP"] < 0.95  # the case says something
    assert coco_metrics(gt, rows, backend=backend) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pascal_toy_set_without_areas_and_ids(backend: str) -> None:
    toy = json.loads((FOLDER / "voc_toy.json").read_text(encoding="utf-8"))
    images, categories = [{"id": i} for i in toy["images"]], [{"id": 1, "name": "object"}]
    bare = {"images": images, "categories": categories, "annotations": toy["gt"]}
    full = bare | {
        "annotations": [
            item | {"id": n, "iscrowd": 0, "area": item["bbox"][2] * item["bbox"][3]}
            for n, item in enumerate(toy["gt"], 1)
        ]
    }
    expected = bare_pycocotools(full, toy["dets"])
    assert expected["AP50"] > 0
    assert coco_metrics(bare, toy["dets"], backend=backend) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detection_at_all_scores_zero_and_undefined_stays_undefined(backend: str) -> None:
    gt, rows = generated(0)
    gt["annotations"] = [
        item for item in gt["annotations"] if item["area"] > 32**2 and not item["iscrowd"]
    ]
    got = coco_metrics(gt, [], backend=backend)
    assert got == {name: -1.0 if name in ("APs", "ARs") else 0.0 for name in METRICS}
    empty = gt | {"annotations": []}
    for found in (rows, []):  # without ground truth nothing is defined
        assert coco_metrics(empty, found, backend=backend) == dict.fromkeys(METRICS, -1.0)
        assert best_f1(empty, found).f1 == 0.0
    curve = best_f1(gt, [])
    assert (curve.f1, curve.threshold, len(curve.thresholds)) == (0.0, 1.0, 0)
    assert per_class(empty, rows, backend=backend)["AP"].isna().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_annotation_ids_do_not_matter(backend: str) -> None:
    gt, rows = generated(1)
    expected = coco_metrics(gt, rows, backend=backend)
    for ids in (
        range(len(gt["annotations"])),
        [5] * len(gt["annotations"]),
    ):  # from 0: bare pycocotools would lose one; all the same
        changed = gt | {
            "annotations": [
                item | {"id": number} for item, number in zip(gt["annotations"], ids, strict=True)
            ]
        }
        assert coco_metrics(changed, rows, backend=backend) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_some_images_count(backend: str) -> None:
    gt, rows = generated(2)
    chosen = [item["id"] for item in gt["images"][:10]]
    part = {
        "images": gt["images"][:10],
        "categories": gt["categories"],
        "annotations": [item for item in gt["annotations"] if item["image_id"] in chosen],
    }
    found = [row for row in rows if row["image_id"] in chosen]
    assert coco_metrics(gt, found, backend=backend, image_ids=chosen) == pytest.approx(
        bare_pycocotools(part, found), abs=1e-9
    )
    with pytest.raises(DataError, match="no image -5"):
        coco_metrics(gt, found, image_ids=[-5])
    with pytest.raises(DataError, match="is not in the ground truth"):
        coco_metrics(gt, rows, image_ids=chosen)


def test_input_is_left_as_it_was_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    gt, rows = generated(3)
    before = json.dumps([gt, rows])
    for backend in BACKENDS:
        score(gt, rows, backend=backend)
    assert json.dumps([gt, rows]) == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 123456789}, r"row 3: image_id 123456789 is not in the ground truth"),
        ({"image_id": "7"}, r"row 3: image_id '7' is not an integer"),
        ({"category_id": 999}, r"row 3: category_id 999 is not in the ground truth"),
        ({"category_id": None}, r"row 3: category_id None is not an integer"),
        ({"bbox": [1.0, 2.0, math.nan, 3.0]}, r"row 3: bbox \[1.0, 2.0, nan, 3.0\]"),
        ({"bbox": [1.0, 2.0, math.inf, 3.0]}, r"row 3: bbox \[1.0, 2.0, inf, 3.0\]"),
        ({"bbox": [1.0, 2.0, 3.0]}, r"row 3: bbox \[1.0, 2.0, 3.0\]"),
        ({"bbox": [1.0, 2.0, 3.0, 4.0, 5.0]}, r"row 3: bbox"),
        ({"bbox": "1234"}, r"row 3: bbox '1234'"),
        ({"bbox": None}, r"row 3: bbox None"),
        ({"score": math.nan}, r"row 3: score nan"),
        ({"score": None}, r"row 3: score None"),
    ],
)
def test_malformed_detections_are_named(change: dict, message: str) -> None:
    gt, rows = generated(0)
    rows[3] = rows[3] | change
    for backend in BACKENDS:
        with pytest.raises(DataError, match=message):
            coco_metrics(gt, rows, backend=backend)


def test_malformed_files_are_named(tmp_path: Path) -> None:
    gt, rows = generated(0)
    (tmp_path / "cut.json").write_text(json.dumps(rows)[:50], encoding="utf-8")
    with pytest.raises(DataError, match=r"cut\.json is no readable JSON"):
        coco_metrics(gt, tmp_path / "cut.json")
    with pytest.raises(DataError, match=r"absent\.json does not exist"):
        coco_metrics(tmp_path / "absent.json", rows)
    with pytest.raises(DataError, match="no list 'annotations'"):
        coco_metrics({"images": [], "categories": []}, rows)
    with pytest.raises(DataError, match="Expected a list"):
        coco_metrics(gt, {"a": 1})
    with pytest.raises(DataError, match="row 0 is 5, expected an object"):
        coco_metrics(gt, [5])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"ground truth: annotation 7: bbox"):
        coco_metrics(gt | {"annotations": [gt["annotations"][0] | {"bbox": [0, 0, 1]}]}, rows)


def test_orphans_in_the_ground_truth_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    gt, rows = generated(0)
    expected = coco_metrics(gt, rows)
    orphans = [gt["annotations"][0] | {"image_id": -1}, gt["annotations"][0] | {"category_id": 500}]
    with caplog.at_level(logging.WARNING):
        assert coco_metrics(gt | {"annotations": gt["annotations"] + orphans}, rows) == expected
    assert "2 annotations" in caplog.text
