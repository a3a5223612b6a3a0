"""What was measured: runs averaged over seeds, evaluations, and nothing but COCO val2017 beside
published numbers.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deim_lab.cli.evaluate import beside_reported
from deim_lab.config import Config, override
from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError
from deim_lab.evaluation import Evaluation, F1Curve, Scores
from deim_lab.runs import Run
from deim_lab.study.paper import measured
from deim_lab.weights.coco80 import COCO80

CLASSES = [{"category_id": number, "name": name, "boxes": 3} for number, name in COCO80]
NAMES = tuple(name for _, name in COCO80)


@pytest.mark.parametrize(
    ("images", "classes", "is_coco"),
    [
        (5000, CLASSES, True),
        (
            5000,
            [*CLASSES, {"category_id": 91, "name": "a class of the detector's", "boxes": 0}],
            True,
        ),
        (4952, CLASSES, False),
        (5000, CLASSES[:-1], False),
        (5000, [*CLASSES[:-1], {**CLASSES[-1], "boxes": 0}], False),
        (5000, [{**item, "category_id": index} for index, item in enumerate(CLASSES)], False),
        (5000, [{**CLASSES[0], "name": "cell"}, *CLASSES[1:]], False),
        (5000, [*CLASSES, {"category_id": 91, "name": "bus", "boxes": 1}], False),
        (5000, [], False),
    ],
)
def test_coco_val2017_is_known_by_its_images_and_classes(
    images: int, classes: list[dict[str, Any]], is_coco: bool
) -> None:
    assert measured.is_coco_val2017(images, classes) is is_coco


def evaluation(images: int = 5000, names: tuple[str, ...] = NAMES) -> Evaluation:
    """As if scored: AP 0.541 whatever."""
    count = len(names)
    scores = Scores(
        np.full((10, 101, count, 4, 3), 0.541),
        np.full((10, count, 4, 3), 0.6),
        tuple(number for number, _ in COCO80)[:count],
        names,
        (2,) * count,
        "pycocotools",
    )
    nothing = np.zeros(0)
    return Evaluation(
        scores.metrics(),
        [],
        scores,
        F1Curve(nothing, nothing, nothing, nothing, 1.0, 0.0),
        "pycocotools",
        images,
        1.0,
        1.0,
    )


def test_on_coco_measured_stands_beside_reported() -> None:
    lines = beside_reported(preset("deim_dfine_l"), evaluation())
    assert (
        lines[0]
        == "AP on COCO val2017: 54.1 measured, 54.7 reported for DEIM-D-FINE-L (DEIM README): -0.6"
    )
    assert (
        "5000 images squashed to 640 × 640, the 300 best of queries × classes per image, "
        "EMA weights" in lines[1]
    )
    assert lines[1].endswith("pycocotools")
    assert lines[2].startswith("reported by: COCO val2017")
    assert len(lines) == 3
    other = beside_reported(
        override(preset("deim_dfine_l"), {"data.input_size": 512, "train.device": "cpu"}),
        evaluation(),
    )
    assert other[3] == "not the preset's own configuration: data.input_size=[512, 512]"


@pytest.mark.parametrize(
    ("config", "result"),
    [
        (preset("deim_dfine_l"), evaluation(images=4999)),
        (preset("deim_dfine_l"), evaluation(names=("red", "white"))),
        (preset("cpu_demo"), evaluation()),
        (dataclasses.replace(preset("deim_dfine_l"), preset="my own"), evaluation()),
    ],
)
def test_on_other_data_or_without_a_reported_ap_nothing_stands_beside(
    config: Config, result: Evaluation
) -> None:
    assert beside_reported(config, result) == []


def a_run(
    folder: Path,
    ap: float,
    *,
    seed: int = 0,
    epochs: int = 2,
    name: str = "toy",
    device: str = "cpu",
    done: bool = True,
) -> Run:
    config = override(preset("smoke"), {"train.epochs": epochs})
    run = Run.start(
        folder,
        config,
        seed=seed,
        data={"name": name, "fingerprint": name},
        overrides={"train.epochs": epochs, "data.batch_size": 8},
        device=device,
    )
    run.log("val", epoch=0, step=1, AP=0.01, AP50=0.02, images=4)
    run.log("val", epoch=epochs - 1, step=2, AP=ap, AP50=2 * ap if ap > 0 else -1, images=4)
    if done:
        run.finish()
    return run


def test_runs_are_a_row_a_recipe_and_seeds_are_averaged(tmp_path: Path) -> None:
    for seed, ap in enumerate((0.2, 0.3, 0.4)):
        a_run(tmp_path, ap, seed=seed)
    a_run(tmp_path, 0.4, seed=2)  # again: counts once
    a_run(tmp_path, 0.5, epochs=3)
    a_run(tmp_path, -1.0, name="empty")
    a_run(tmp_path, 0.9, seed=7, done=False)
    table = measured.finished_runs(tmp_path).set_index(["data", "epochs"])
    row: Any = table.loc[("toy", 2)]
    assert row["seeds"] == 3
    assert row[["ap_percent", "ap_sd_percent", "ap50_percent"]].tolist() == pytest.approx(
        [30, 10, 60]
    )
    assert (row["differs"], row["device"], row["kind"], row["images"]) == (
        "data.batch_size=8",
        "cpu",
        "measured",
        4,
    )
    assert math.isnan(table["ap_sd_percent"].loc[("toy", 3)])
    assert math.isnan(table["ap_percent"].loc[("empty", 2)])
    assert len(table) == 3


def test_runs_by_what_they_are(tmp_path: Path) -> None:
    a_run(tmp_path, 0.2, seed=1)
    a_run(tmp_path, 0.3, seed=0, device="cuda:0")
    a_run(tmp_path, 0.4, seed=0, name="other", epochs=3)
    find = measured.finished_runs
    assert find(tmp_path, seed=1)["ap_percent"].tolist() == pytest.approx([20])
    assert find(tmp_path, device="cuda")["ap_percent"].tolist() == pytest.approx([30])
    assert find(tmp_path, data="other")["ap_percent"].tolist() == pytest.approx([40])
    assert find(tmp_path, overrides={"train.epochs": 3, "data.input_size": 96})[
        "ap_percent"
    ].tolist() == pytest.approx([40])
    assert find(tmp_path, preset="cpu_demo").empty
    with pytest.raises(ConfigError, match=r"did you mean 'train.epochs'"):
        find(tmp_path, overrides={"train.epoch": 3})


def test_no_folder_and_no_runs_are_empty_tables_with_their_columns(tmp_path: Path) -> None:
    for table, columns in (
        (measured.finished_runs(tmp_path / "absent"), measured.RUN_COLUMNS),
        (measured.evaluations(tmp_path / "absent"), measured.EVALUATION_COLUMNS),
    ):
        assert table.empty
        assert tuple(table.columns) == columns


def test_evaluations_say_whether_they_are_of_coco(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = {
        "metrics": {"AP": 0.54, "AP50": -1.0},
        "images": 5000,
        "per_class": CLASSES,
        "weights": "a/deim_l.pth",
        "preset": "deim_dfine_l",
        "data": {"name": "coco"},
    }
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "deim_l_on_coco.json").write_text(
        json.dumps(summary), encoding="utf-8"
    )
    (tmp_path / "evaluations" / "torn.json").write_text("{", encoding="utf-8")
    (tmp_path / "evaluations" / "other.json").write_text("[1]", encoding="utf-8")
    run = a_run(tmp_path, 0.2)
    run.save_evaluation("toy", {**summary, "images": 4, "per_class": CLASSES[:2]})
    with caplog.at_level(logging.WARNING, logger="deim_lab"):
        table = measured.evaluations(tmp_path)
    assert sum("is left out" in record.message for record in caplog.records) == 2
    found = {row["model"]: row for row in table.to_dict("records")}
    assert set(found) == {"deim_l", run.folder.name}
    assert (
        found["deim_l"]["on_coco"],
        found["deim_l"]["ap_percent"],
        found["deim_l"]["preset"],
    ) == (True, pytest.approx(54), "deim_dfine_l")
    assert math.isnan(found["deim_l"]["ap50_percent"])
    assert (
        found[run.folder.name]["on_coco"],
        found[run.folder.name]["epochs"],
        found[run.folder.name]["preset"],
    ) == (False, 2, "smoke")
