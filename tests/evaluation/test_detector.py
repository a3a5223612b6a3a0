"""evaluation/detector.py: a detector that knows the answers, limits, modes, bad output."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from coco_sets import BACKENDS
from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.data.coco import CocoDataset
from deim_lab.errors import NonFiniteError
from deim_lab.evaluation import (
    coco_metrics,
    evaluate,
)
from deim_lab.structures import Prediction


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
