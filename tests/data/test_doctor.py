"""The data report: every number it gives is one that a small set makes obvious."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deim_lab.config import AugmentConfig
from deim_lab.data import doctor
from deim_lab.data.coco import CocoDataset
from deim_lab.data.doctor import Report

Box = list[float]
PLAIN = AugmentConfig(mosaic_prob=0.0, mixup_prob=0.0, zoom_out_prob=0.0, iou_crop_prob=0.0)


def make(
    folder: Path,
    boxes: list[list[tuple[int, Box]]],
    *,
    classes: int = 3,
    names: str = "{}.png",
    same_picture: bool = False,
    crowd: tuple[int, ...] = (),
    reference: CocoDataset | None = None,
    seed: int = 0,
) -> CocoDataset:
    """Images of 100×50 with the given (category, xywh) boxes."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for position, rows in enumerate(boxes):
        file_name = names.format(position)
        pixels = (
            np.zeros((50, 100, 3), np.uint8)
            if same_picture
            else generator.integers(0, 256, (50, 100, 3), dtype=np.uint8)
        )
        Image.fromarray(pixels).save(folder / file_name)
        images.append({"id": position, "file_name": file_name, "width": 100, "height": 50})
        for category, box in rows:
            key = len(annotations)
            annotations.append(
                {
                    "id": key,
                    "image_id": position,
                    "category_id": category,
                    "bbox": box,
                    "iscrowd": int(key in crowd),
                }
            )
    categories = [{"id": index, "name": f"c{index}"} for index in range(classes)]
    (folder / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}),
        encoding="utf-8",
    )
    return CocoDataset.load(
        folder, folder / "a.json", categories=reference.categories if reference else None
    )


def examine(dataset: CocoDataset, **options: Any) -> Report:
    return doctor.examine(
        dataset,
        **{"num_queries": 50, "input_size": (64, 64), "augment": PLAIN, "samples": 64, **options},
    )


def named(report: Report, name: str) -> str:
    return next((notice for notice in report.notices if notice.startswith(f"{name}:")), "")


def grid(count: int) -> list[tuple[int, Box]]:
    return [(0, [float(k % 10 * 9), float(k // 10 * 4), 8.0, 3.0]) for k in range(count)]


def test_counts(tmp_path: Path) -> None:
    boxes: list[list[tuple[int, Box]]] = [
        [(0, [0, 0, 50, 25]), (0, [10, 10, 50, 25]), (1, [5, 5, 50, 25])],
        [],
        [(0, [20, 20, 9, 9])],
    ]
    report = examine(make(tmp_path / "d", boxes, crowd=(3,)))
    assert (report.images, report.boxes, report.negatives, report.crowds) == (3, 3, 2, 1)
    assert report.per_class == (("c0", 2, 1), ("c1", 1, 1), ("c2", 0, 0))
    assert report.size_px.median == pytest.approx(32)  # half of each side, squashed to 64×64
    assert report.targets.largest == 3
    assert "c2" in named(report, "class-without-boxes")
    assert "c0 (2), c1 (1)" in named(report, "class-rare")
    assert not named(report, "tiny-boxes")


def test_composing_raises_the_density_and_lowers_the_size(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d", [grid(10)] * 8)
    plain = examine(dataset, samples=160)
    assert plain.targets_dense.mean == pytest.approx(10)
    mixed = examine(dataset, augment=replace(PLAIN, mixup_prob=1.0), samples=160)
    assert mixed.targets_dense.mean == pytest.approx(20)
    still = replace(
        PLAIN,
        mosaic_prob=1.0,
        mosaic_rotation_deg=0.0,
        mosaic_translate=0.0,
        mosaic_scale=(1.0, 1.0),
    )
    mosaic = examine(dataset, augment=still, samples=160, input_size=(320, 320))
    assert mosaic.targets_dense.mean == pytest.approx(40)
    assert mosaic.size_dense_px.median == pytest.approx(mosaic.size_px.median / 2, rel=0.02)


def test_too_few_queries(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d", [grid(60), grid(10)])
    report = examine(dataset, num_queries=40)
    assert report.unmatched_share == pytest.approx(20 / 70)
    assert report.proposed_queries == 100
    message = (
        "1 images have more targets (up to 60) than the 40 queries. 28.57% of the targets can "
        "never be matched"
    )
    assert message in named(report, "queries-too-few")
    dense = examine(dataset, num_queries=60, augment=replace(PLAIN, mixup_prob=1.0))
    assert dense.unmatched_share == 0
    assert dense.proposed_queries == 150
    assert "Set model.num_queries=150" in named(dense, "queries-too-few-dense")
    assert examine(dataset, num_queries=60).proposed_queries == 60


def test_more_targets_than_the_evaluator_looks_at(tmp_path: Path) -> None:
    report = examine(make(tmp_path / "d", [grid(101), grid(3)]), num_queries=300)
    assert "1 images have more than 100 targets" in named(report, "over-100-targets")


def test_tiny_boxes(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d", [[(0, [0, 0, 5, 2.5]), (0, [0, 0, 50, 25])]])
    report = examine(dataset, input_size=(96, 96))  # 4.8 px
    assert report.tiny_share == pytest.approx(0.5)
    assert "50% of the boxes are below 8 px at 96×96" in named(report, "tiny-boxes")
    assert not named(examine(dataset, input_size=(320, 320)), "tiny-boxes")
    dense = examine(
        dataset, input_size=(192, 192), augment=replace(PLAIN, mosaic_prob=1.0)
    )  # 9.6 px, halved by the mosaic
    assert dense.tiny_share == 0
    assert dense.tiny_dense_share > 0.1
    assert named(dense, "tiny-boxes-dense")


def test_repeated_boxes(tmp_path: Path) -> None:
    rows: list[tuple[int, Box]] = [
        (0, [1, 1, 20, 20]),
        (0, [1.2, 1, 20, 20]),
        (1, [1, 1, 20, 20]),
        (0, [40, 1, 20, 20]),
    ]
    report = examine(make(tmp_path / "d", [rows, [(0, [1, 1, 20, 20]), (0, [1, 1, 20, 20])]]))
    assert (report.duplicates, report.conflicts) == (2, 1)
    assert named(report, "box-repeated")
    assert named(report, "box-two-classes")


def test_equal_files(tmp_path: Path) -> None:
    boxes: list[list[tuple[int, Box]]] = [[(0, [0, 0, 50, 25])]] * 2
    train = make(tmp_path / "train", boxes, names="t{}.png")
    clean = make(tmp_path / "clean", boxes, seed=1, reference=train)
    leaky = make(tmp_path / "leaky", boxes, names="v{}.png", reference=train)
    assert examine(train).leaked is None
    assert examine(train, val=clean).leaked == ()
    report = examine(train, val=leaky)
    assert report.leaked == (("t0.png", "v0.png"), ("t1.png", "v1.png"))
    assert "2 images of val are also in train: t0.png = v0.png, t1.png = v1.png" in named(
        report, "leak"
    )
    assert report.copies == ()
    same = examine(make(tmp_path / "same", boxes, same_picture=True))
    assert same.copies == (("0.png", "1.png"),)
    assert named(same, "image-repeated")


def test_the_readers_notices_come_first(tmp_path: Path) -> None:
    train = make(tmp_path / "train", [[(0, [0, 0, 50, 25]), (0, [200, 0, 5, 5])]])
    val = make(tmp_path / "val", [[(0, [0, 0, 0, 25])]], reference=train)
    report = examine(train, val=val)
    assert report.notices[0].startswith("box-outside: 1 annotations")
    assert report.notices[1].startswith("val: box-no-area: 1 annotations")


def test_text_shows_every_row_and_notice(tmp_path: Path) -> None:
    report = examine(make(tmp_path / "d", [grid(60), []]), num_queries=40)
    text = str(report)
    assert all(name in text and value in text for name, value in report.table())
    assert all(f"! {notice}" in text for notice in report.notices)
    assert "2, 1 of them without targets (50.0%)" in text


def test_same_seed_same_report_and_no_picture_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(tmp_path / "d", [grid(5), grid(9), []])
    monkeypatch.setattr(CocoDataset, "decode", lambda *_: pytest.fail("a picture was decoded"))
    assert examine(dataset, augment=AugmentConfig()) == examine(dataset, augment=AugmentConfig())
