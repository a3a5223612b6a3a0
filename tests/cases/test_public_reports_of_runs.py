"""Public bug reports of other tools, rebuilt: notebooks, evaluation, sweeps and prediction."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deim_lab import cli
from deim_lab.evaluation import coco_metrics
from deim_lab.host import shipped
from reports import ONE_EPOCH, TRAIN, Json, made


def execute(name: str, folder: Path, *parameters: str) -> None:
    """Execute a ready notebook with papermill; fails with the end of what it printed."""
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", str(shipped.files("notebooks")[name])),
            *("out.ipynb", "-p", "preset", "smoke", "-p", "runs_dir", str(folder / "runs")),
            *parameters,
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.slow  # executes notebook 01
@pytest.mark.parametrize("pictures", [1, 3])
def test_17_notebook_01_with_few_pictures(pictures: int, tmp_path: Path) -> None:
    """Notebook 01 took four pictures from a training half of three."""
    folder = made(tmp_path / "set", counts=(pictures, 4))
    execute("01_dense_o2o", tmp_path, "-p", "data", str(folder), "-p", "samples", "8")


@pytest.mark.slow  # executes notebook 04, which trains
def test_18_notebook_04_with_a_val_half_without_boxes(tmp_path: Path) -> None:
    """Notebook 04 trained and then failed in a figure, because no picture had a box."""

    def edit(content: Json, half: str, folder: Path) -> None:
        if half == "val":
            content["annotations"] = []

    folder = made(tmp_path / "set", edit=edit)
    try:
        execute("04_matching", tmp_path, "-p", "data", str(folder))
    except AssertionError as error:
        if "DataError" not in str(error) and "ConfigError" not in str(error):
            raise


def drawn_scores(seed: int, pictures: int = 20, many: int = 0) -> tuple[Json, list[Json]]:
    """Random ground truth of two classes, and detections near it with tied scores."""
    draw = np.random.default_rng(seed)
    truth: Json = {
        "images": [
            {"id": i + 1, "width": 640, "height": 480, "file_name": str(i)} for i in range(pictures)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [],
    }
    found: list[Json] = []
    for image in truth["images"]:
        for _ in range(many or int(draw.integers(0, 8))):
            width, height = np.exp(draw.uniform(1.5, 5, 2))
            x, y = draw.uniform(0, 600), draw.uniform(0, 440)
            place = {"image_id": image["id"], "category_id": int(draw.integers(1, 3))}
            size = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, **place, **size})
            for _ in range(int(draw.integers(0, 3))):
                move = draw.normal(0, 0.12, 4) * [width, height, width, height]
                box = [x + move[0], y + move[1], max(1, width + move[2]), max(1, height + move[3])]
                score = float(np.round(draw.random(), 1))
                found.append({**place, "bbox": box, "score": score})
    return truth, found


def no_area(truth: Json, found: list[Json]) -> None:
    for row in truth["annotations"][:9]:
        row["bbox"][2] = row["area"] = 0.0
    for row in found[:9]:
        row["bbox"][3] = 0.0


def edges(truth: Json, found: list[Json]) -> None:
    for index, row in enumerate(truth["annotations"]):
        side = (32, 96)[index % 2]
        row["bbox"][2:] = [side, side]
        row["area"] = float(side * side)


def half_overlap(truth: Json, found: list[Json]) -> None:
    found.clear()
    draw = np.random.default_rng(4)
    for row in truth["annotations"]:
        x, y, width, height = (float(int(value)) for value in row["bbox"])
        height = max(2.0, height // 2 * 2)
        row["bbox"], row["area"] = [x, y, width, height], width * height
        place = {key: row[key] for key in ("image_id", "category_id")}
        found.append({**place, "bbox": [x, y, width, height / 2], "score": float(draw.random())})


def wide_ids(truth: Json, found: list[Json]) -> None:
    for image in truth["images"]:
        image["id"] += 2**40
    for row in [*truth["annotations"], *found]:
        row["image_id"] += 2**40


def below_zero(truth: Json, found: list[Json]) -> None:
    for row in found:
        row["score"] *= -50


def crowds(truth: Json, found: list[Json]) -> None:
    for row in truth["annotations"][::3]:
        row["iscrowd"] = 1


def unchanged(truth: Json, found: list[Json]) -> None:
    pass


@pytest.mark.parametrize(
    ("seed", "edit", "options"),
    [
        (0, unchanged, {}),
        (1, unchanged, {"pictures": 3, "many": 160}),
        (2, no_area, {}),
        (3, edges, {}),
        (4, half_overlap, {}),
        (5, wide_ids, {}),
        (6, below_zero, {}),
        (7, crowds, {"pictures": 4, "many": 40}),
    ],
)
def test_19_numbers_equal_those_of_pycocotools(
    seed: int, edit: Callable[[Json, list[Json]], None], options: dict[str, int], tmp_path: Path
) -> None:
    """Evaluators differ at ties, edges of sizes, IoU 0.5, wide ids, scores below 0 and crowds."""
    truth, found = drawn_scores(seed, **options)
    edit(truth, found)
    truth_path, found_path = tmp_path / "truth.json", tmp_path / "found.json"
    truth_path.write_text(json.dumps(truth), encoding="utf-8")
    found_path.write_text(json.dumps(found), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(truth_path))
        expected = COCOeval(reference, reference.loadRes(str(found_path)), "bbox")
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    for backend in ("auto", "pycocotools"):
        scores = coco_metrics(truth_path, found_path, backend=backend)
        assert [scores[name] for name in names] == pytest.approx(expected.stats, abs=1e-9)


@pytest.mark.slow  # a sweep trains a run in a kernel
def test_20_a_sweep_without_a_home(tmp_path: Path) -> None:
    """A sweep needed a writable HOME, or failed at a folder or an arm with unusual signs."""
    grid = {
        "preset": "smoke",
        "data": str(made(tmp_path / "set")),
        "base": {"train.epochs": 1, "data.workers": 0},
        "arms": {"β $1 & $2_": {"loss.gamma": 2.0}},
        "seeds": [0],
    }
    (tmp_path / "g.yaml").write_text(json.dumps(grid), encoding="utf-8")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "deim_lab.cli", "sweep", str(tmp_path / "g.yaml")),
            *("--runs", str(tmp_path / "runs dir é"), "--workers", "1"),
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "HOME": "/proc/nobody", "PYTHONIOENCODING": "utf-8"},
        timeout=300,
        check=False,
    )
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 0, printed[-2000:]
    assert "1 done, 0 failed" in printed


def trained(folder: Path, runs_dir: Path) -> Path:
    """Train one epoch on a set; the run folder."""
    arguments = [*TRAIN, *ONE_EPOCH, "--data", str(folder), "--runs", str(runs_dir)]
    assert cli.main(arguments) == 0
    return next(runs_dir.glob("2*"))


def names_of(paths: Iterable[str | Path]) -> set[str]:
    return {Path(path).name for path in paths}


def test_21_predict_on_a_folder_with_rubbish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Mac's "._a.jpg" stopped predict, and a.b.jpg next to a.b.png was overwritten."""
    run, pictures = trained(made(tmp_path / "set"), tmp_path / "runs"), tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 150, 3)).astype("uint8")
    for name in ("a.b.png", "a.b.jpg"):
        Image.fromarray(noise).save(pictures / name)
    Image.new("RGB", (1, 1)).save(pictures / "one.png")
    (pictures / "._a.b.jpg").write_bytes(b"\0\5\x16\7" + bytes(4000))
    out = tmp_path / "out"
    arguments = ["predict", str(run), str(pictures), "--out", str(out), "--threshold", "0"]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    rows = json.loads((out / "detections.json").read_text(encoding="utf-8"))
    expected = {"a.b.png", "a.b.jpg", "one.png"}
    assert names_of(row["file_name"] for row in rows) == expected
    assert names_of(path for path in out.iterdir() if path.suffix in (".png", ".jpg")) == expected
    assert "._a.b.jpg" in "".join(capsys.readouterr())


def test_23_one_picture_one_class(tmp_path: Path) -> None:
    """One picture of one class with id 7 gave no batch, or predictions of class 0 or 1."""
    folder = made(tmp_path / "set", counts=(1, 1), categories=((7, "x"),))
    run = trained(folder, tmp_path / "runs")
    rows = json.loads((run / "predictions" / "last.json").read_text(encoding="utf-8"))
    assert rows
    assert {row["category_id"] for row in rows} == {7}
