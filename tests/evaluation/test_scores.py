"""The 12 numbers equal pycocotools' own on both backends, also where pycocotools needs help;
malformed detections are named.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from deim_lab.boxes import paired_iou
from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.data.coco import CocoDataset
from deim_lab.errors import ConfigError, DataError, NonFiniteError
from deim_lab.evaluation import (
    BACKENDS as ALL_BACKENDS,
    METRICS,
    best_f1,
    coco_metrics,
    evaluate,
    per_class,
    resolve_backend,
    score,
    thresholds,
)
from deim_lab.evaluation.scores import read_truth
from deim_lab.structures import Prediction
from places import REFERENCE

FOLDER = REFERENCE / "evaluator"
GT = FOLDER / "instances_val2014_100_bbox.json"
DETECTIONS = FOLDER / "instances_val2014_fakebbox100_results.json"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
BACKENDS = [
    name for name in ALL_BACKENDS if name == "pycocotools" or resolve_backend() == "hotcoco"
]


def bare_pycocotools(gt: dict, rows: list[dict]) -> dict[str, float]:
    """The reference without anything of this package in between."""
    coco = COCO()
    coco.dataset = copy.deepcopy(gt)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(rows)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(METRICS, evaluator.stats.tolist(), strict=True))


def generated(seed: int, *, images: int = 24, classes: int = 5) -> tuple[dict, list[dict]]:
    """Gapped ids, crowds, images without boxes, a class without boxes, noisy detections with tied
    scores, more than 100 in one image.
    """
    random = np.random.default_rng(seed)
    image_ids = sorted(random.choice(10**6, images, replace=False).tolist())
    category_ids = sorted(random.choice(90, classes, replace=False).tolist())
    gt: dict[str, Any] = {
        "images": [{"id": i, "width": 640, "height": 480} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
        "annotations": [],
    }
    rows: list[dict] = []
    for index, image_id in enumerate(image_ids):
        for _ in range(0 if index % 5 == 0 else int(random.integers(1, 12))):
            draw = random.random()
            if draw < 0.7 or not gt["annotations"] or gt["annotations"][-1]["image_id"] != image_id:
                size = np.exp(random.uniform(np.log(8), np.log(300), 2))
                box = [*(random.uniform(0, 1, 2) * (640 - size[0], 480 - size[1])), *size]
                category = int(
                    random.choice(category_ids[:-1])
                )  # the last class has no ground truth
            else:  # a neighbour over the last box, in part or wholly: several candidates, and ties
                size = size * random.uniform(0.8, 1.2, 2) if draw < 0.9 else size
                box = [*box[:2], *size]
            crowd = int(random.random() < 0.12)
            gt["annotations"].append(
                {
                    "id": 7 + 3 * len(gt["annotations"]),
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [float(v) for v in box],
                    "area": float(size.prod() * random.uniform(0.5, 1)),
                    "iscrowd": crowd,
                }
            )
            for _ in range(int(random.integers(0, 4))):
                shaken = np.asarray(box) + random.normal(0, 0.06, 4) * np.tile(size, 2)
                rows.append(
                    {
                        "image_id": image_id,
                        "category_id": category
                        if random.random() < 0.8
                        else int(random.choice(category_ids)),
                        "bbox": [float(v) for v in shaken],
                        "score": round(float(random.random()), 2),
                    }
                )
    full = image_ids[1]
    rows += [
        {
            "image_id": full,
            "category_id": category_ids[0],
            "score": float(random.random()),
            "bbox": [float(v) for v in (*random.uniform(0, 400, 2), *random.uniform(5, 90, 2))],
        }
        for _ in range(150)
    ]
    return gt, rows


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


def naive_best_f1(gt: dict, rows: list[dict]) -> tuple[float, float]:
    """F1 with the list really cut at each score, matched anew each time; no crowds."""
    best = (0.0, 1.0)
    for threshold in sorted({row["score"] for row in rows}, reverse=True):
        kept = sorted(
            (row for row in rows if row["score"] >= threshold), key=lambda row: -row["score"]
        )
        free, hits = {id(item): item for item in gt["annotations"]}, 0
        for row in kept:
            same = [
                item
                for item in free.values()
                if (item["image_id"], item["category_id"]) == (row["image_id"], row["category_id"])
            ]
            ious = [
                float(
                    paired_iou(
                        *(
                            torch.tensor(
                                [b[0], b[1], b[0] + b[2], b[1] + b[3]], dtype=torch.float64
                            )
                            for b in (item["bbox"], row["bbox"])
                        )
                    )
                )
                for item in same
            ]
            if ious and max(ious) >= 0.5:
                hits += 1
                del free[id(same[int(np.argmax(ious))])]
        f1 = 2 * hits / (len(kept) + len(gt["annotations"]))
        best = max(best, (f1, threshold), key=lambda pair: pair[0])
    return best


def test_best_f1_equals_cutting_the_list_at_every_score() -> None:
    gt, rows = generated(4, images=8)
    gt["annotations"] = [item for item in gt["annotations"] if not item["iscrowd"]]
    rows = rows[:-150]
    for number, row in enumerate(rows):
        row["score"] = round(0.1 + 0.8 * row["score"], 1) if number % 3 else 0.05 * (number % 20)
    curve = best_f1(gt, rows)
    f1, threshold = naive_best_f1(gt, rows)
    assert f1 > 0.2
    assert curve.f1 == pytest.approx(f1, abs=1e-12)
    assert curve.threshold == pytest.approx(threshold)
    assert (np.diff(curve.thresholds) < 0).all()
    assert (np.diff(curve.recall) >= 0).all()
    harmonic = (
        2 * curve.precision * curve.recall / np.maximum(curve.precision + curve.recall, 1e-12)
    )
    assert curve.f1_at == pytest.approx(harmonic)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["published", *range(6)])
def test_the_matching_behind_f1_is_that_of_pycocotools(case: str | int, backend: str) -> None:
    published = (json.loads(path.read_text(encoding="utf-8")) for path in (GT, DETECTIONS))
    gt, rows = published if case == "published" else generated(int(case))
    coco = COCO()
    coco.dataset = copy.deepcopy(gt)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(rows)), "bbox")
        evaluator.evaluate()
    counted: list[tuple[float, bool]] = []
    for item in evaluator.evalImgs:
        if item is not None and item["aRng"] == [0, 1e10]:
            ignored = item["dtIgnore"][0].astype(bool)
            pairs = zip(item["dtScores"], item["dtMatches"][0] > 0, ignored, strict=True)
            counted += [(score, bool(match)) for score, match, outside in pairs if not outside]
    scores, hits = thresholds._hits_at_iou50(read_truth(gt, None), rows, backend)
    assert case == "published" or len(counted) < len(rows)  # some lie in crowds or are beyond 100
    assert sorted(zip(scores.tolist(), hits.tolist(), strict=True)) == sorted(counted)


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


def test_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'pycocotools'"):
        resolve_backend("pycocotool")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve_backend("auto") == "pycocotools"
    with pytest.raises(ConfigError, match="not installed"):
        resolve_backend("hotcoco")


class Oracle(nn.Module):
    """Answers with the boxes of each image, which it knows by the image's grey value."""

    def __init__(self, answers: Sequence[tuple[Tensor, Tensor]], num_classes: int) -> None:
        super().__init__()
        self.answers, self.num_classes = answers, num_classes
        self.scale = nn.Parameter(torch.ones(1))
        self.frozen_norm = nn.BatchNorm2d(3)
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Prediction:
        self.modes.append(self.training or torch.is_grad_enabled())
        logits, boxes_cxcywh = (
            torch.full((len(images), 6, self.num_classes), -9.0),
            torch.full((len(images), 6, 4), 0.5),
        )
        for row, image in enumerate(images):
            boxes, labels = self.answers[round(float(image.mean()) * 255) // 20]
            boxes_cxcywh[row, : len(boxes)] = boxes
            logits[row, torch.arange(len(labels)), labels] = 3.0
        return Prediction(logits * self.scale, boxes_cxcywh)


@pytest.fixture
def toy(tmp_path: Path) -> tuple[CocoDataset, Oracle]:
    """Five grey images of different sizes, the last one empty, category ids 3, 17, 90; and a
    detector that knows them.
    """
    (tmp_path / "images").mkdir()
    random, ids = np.random.default_rng(0), (3, 17, 90)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    answers: list[tuple[Tensor, Tensor]] = []
    for index in range(5):
        width, height = 64 + 32 * index, 96
        Image.new("RGB", (width, height), (20 * index,) * 3).save(
            tmp_path / "images" / f"{index}.png"
        )
        images.append(
            {"id": 10 + index, "file_name": f"{index}.png", "width": width, "height": height}
        )
        count = 0 if index == 4 else 3
        boxes, labels = np.zeros((count, 4)), random.integers(0, 3, count)
        for row in range(count):
            xywh = [4.0 + 20 * row, 6.0, 18.0, 30.0 + row]
            boxes[row] = [
                (xywh[0] + 9) / width,
                (6 + xywh[3] / 2) / height,
                18 / width,
                xywh[3] / height,
            ]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + index,
                    "category_id": ids[labels[row]],
                    "bbox": xywh,
                    "area": xywh[2] * xywh[3],
                    "iscrowd": 0,
                }
            )
        answers.append((torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)))
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in ids],
    }
    (tmp_path / "gt.json").write_text(json.dumps(content), encoding="utf-8")
    return CocoDataset.load(tmp_path / "images", tmp_path / "gt.json"), Oracle(answers, 3)


CONFIG = override(preset("smoke"), {"data.eval_batch_size": 2, "data.workers": 0})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_detector_that_knows_scores_one(toy: tuple[CocoDataset, Oracle], backend: str) -> None:
    dataset, model = toy
    result = evaluate(model, dataset, override(CONFIG, {"eval.backend": backend}))
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.f1.f1 == pytest.approx(1.0)
    assert (result.backend, result.images) == (backend, 5)
    assert 0 < result.inference_seconds <= result.seconds
    assert {row["category_id"] for row in result.detections} == {3, 17, 90}
    assert (
        coco_metrics(dataset.annotations_path, result.detections, backend=backend) == result.metrics
    )
    assert len(result.scores.per_class()) == 3


def test_evaluation_takes_no_gradient_and_restores_each_mode(
    toy: tuple[CocoDataset, Oracle],
) -> None:
    dataset, model = toy
    model.train()
    model.frozen_norm.eval()
    evaluate(model, dataset, CONFIG, device="cpu", limit=3)
    assert model.modes == [False, False]
    assert model.training
    assert not model.frozen_norm.training
    model.answers = []  # also where it fails on the way
    with pytest.raises(IndexError):
        evaluate(model, dataset, CONFIG)
    assert model.training
    assert not model.frozen_norm.training


def test_a_limit_scores_only_the_images_seen(toy: tuple[CocoDataset, Oracle]) -> None:
    dataset, model = toy
    result = evaluate(model, dataset, CONFIG, limit=3)
    assert result.images == 3
    assert {row["image_id"] for row in result.detections} == {10, 11, 12}
    assert result.metrics["AP"] == pytest.approx(
        1.0
    )  # the boxes of the others are not counted as missed


def test_classes_that_the_validation_file_does_not_list(
    toy: tuple[CocoDataset, Oracle], tmp_path: Path
) -> None:
    dataset, model = toy
    content = json.loads((tmp_path / "gt.json").read_text(encoding="utf-8"))
    content["categories"] = [item for item in content["categories"] if item["id"] != 90]
    content["annotations"] = [item for item in content["annotations"] if item["category_id"] != 90]
    (tmp_path / "val.json").write_text(json.dumps(content), encoding="utf-8")
    val = CocoDataset.load(
        tmp_path / "images", tmp_path / "val.json", categories=dataset.categories
    )
    result = evaluate(model, val, CONFIG)
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert 90 in {row["category_id"] for row in result.detections}


def test_what_is_not_finite_is_named(toy: tuple[CocoDataset, Oracle]) -> None:
    dataset, model = toy
    model.answers[2][0][0, 0] = math.nan
    with pytest.raises(
        NonFiniteError, match="boxes_cxcywh are inf or NaN for images \\[12\\]"
    ) as caught:
        evaluate(model, dataset, CONFIG)
    assert caught.value.image_ids == (12,)
    nn.init.constant_(model.scale, math.inf)
    with pytest.raises(NonFiniteError, match="logits"):
        evaluate(model, dataset, CONFIG)
