"""The command line: each verb on real files, and bad input as one clear line with exit code 2."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from deim_lab import cli
from deim_lab.config.presets import PRESETS, preset
from deim_lab.data import synthetic
from deim_lab.detector.detector import build_detector
from deim_lab.evaluation import METRICS, coco_metrics
from deim_lab.runs import Run, table
from deim_lab.weights.coco80 import COCO80
from deim_lab.weights.own import load_detector, load_weights, official_state_dict, save_weights

SETTINGS = ("data.input_size=64", "train.epochs=1", "model.num_queries=20", "model.num_denoising=8")


@pytest.fixture(autouse=True)
def _quiet_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of main sets up logging anew, as in a process of its own."""
    monkeypatch.setattr(logging.root, "handlers", [])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(
        tmp_path_factory.mktemp("cli") / "toy", train_images=8, val_images=4, size_px=(64, 64)
    )


@pytest.fixture(scope="module")
def runs_dir(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run, trained by the command."""
    folder = tmp_path_factory.mktemp("cli_runs")
    assert cli.main(train_command(data, folder)) == 0
    return folder


def train_command(data: Path, folder: Path, *more: str) -> list[str]:
    settings = [part for item in SETTINGS for part in ("--set", item)]
    return [
        "train",
        "--preset",
        "smoke",
        "--data",
        str(data),
        *settings,
        "--device",
        "cpu",
        "--runs",
        str(folder),
        *more,
    ]


def the_run(folder: Path) -> Path:
    return next(item for item in folder.iterdir() if (item / "run.json").exists())


def test_help_is_quick_and_complete() -> None:
    heavy = (
        "torch",
        "torchvision",
        "pandas",
        "scipy",
        "matplotlib",
        "pycocotools",
        "numpy",
        "PIL",
        "tqdm",
    )
    code = (
        "import sys; from deim_lab import cli\ntry: cli.main(['--help'])\nexcept SystemExit as "
        "end: assert end.code == 0\n"
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert "HEAVY []" in answer
    for verb in ("train", "evaluate", "predict", "doctor", "presets", "demo"):
        assert verb in answer


def test_training_leaves_a_run_and_does_not_train_it_again(
    data: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(the_run(runs_dir))
    assert run.status == "done"
    assert run.config == preset(
        "smoke",
        {
            "data.input_size": 64,
            "train.epochs": 1,
            "model.num_queries": 20,
            "model.num_denoising": 8,
        },
    )
    assert len(table(runs_dir)) == 2
    assert cli.main(train_command(data, runs_dir)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run.folder)
    assert len([item for item in runs_dir.iterdir() if (item / "run.json").exists()]) == 1


def test_training_from_weights_and_explicit_paths(
    data: Path, runs_dir: Path, tmp_path: Path
) -> None:
    paths = [
        part
        for half in ("train", "val")
        for part in (
            f"--{half}-images",
            str(data / "images" / half),
            f"--{half}-annotations",
            str(data / "annotations" / f"instances_{half}.json"),
        )
    ]
    command = [
        part
        for part in train_command(
            data, tmp_path, "--seed", "3", "--resume", "never", "--weights", str(the_run(runs_dir))
        )
        if part not in ("--data", str(data))
    ]
    assert cli.main([*command, *paths]) == 0
    assert Run.open(the_run(tmp_path)).info["seed"] == 3


def test_evaluation_of_a_run(
    data: Path, runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = the_run(runs_dir)
    detections = tmp_path / "deep" / "detections.json"
    assert (
        cli.main(
            [
                "evaluate",
                str(run),
                "--data",
                str(data),
                "--device",
                "cpu",
                "--detections",
                str(detections),
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    result = Path(lines[-1])
    assert result.parent == run / "eval"
    values = json.loads(result.read_text(encoding="utf-8"))
    assert tuple(values["metrics"]) == METRICS
    assert coco_metrics(data / "annotations" / "instances_val.json", detections) == pytest.approx(
        values["metrics"]
    )
    shown = dict(line.split()[:2] for line in lines[:12])
    assert shown == {
        name: "undefined" if value < 0 else f"{value:.4f}"
        for name, value in values["metrics"].items()
    }
    assert values["images"] == 4
    assert len(values["per_class"]) > 1
    logged = [event for event in Run.open(run).events() if event["kind"] == "val"][-1]
    assert logged["AP50"] == pytest.approx(
        values["metrics"]["AP50"], abs=1e-6
    )  # the same weights, the same number


def test_evaluation_on_a_val_half_alone_into_a_named_file(
    data: Path, runs_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "result.json"
    weights = the_run(runs_dir) / "checkpoints" / "last.pt"
    assert (
        cli.main(
            [
                "evaluate",
                str(weights),
                "--val-images",
                str(data / "images" / "val"),
                "--val-annotations",
                str(data / "annotations" / "instances_val.json"),
                "--device",
                "cpu",
                "--out",
                str(out),
                "--limit",
                "2",
                "--set",
                "eval.backend=pycocotools",
            ]
        )
        == 0
    )
    values = json.loads(out.read_text(encoding="utf-8"))
    assert (values["images"], values["backend"]) == (2, "pycocotools")


@pytest.mark.parametrize("verb", ["evaluate", "latency"])
def test_the_model_of_a_run_is_not_to_be_set(
    verb: str, data: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(the_run(runs_dir))
    command = (
        ["evaluate", run, "--data", str(data)]
        if verb == "evaluate"
        else ["latency", "--weights", run]
    )
    assert cli.main([*command, "--set", "model.num_queries=7"]) == 2
    assert (
        f"--set model.num_queries: the model of {run} is fixed by its training"
        in capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the official layout, of the smallest model, with COCO's 80 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("official") / "smoke_coco.pth"
    torch.save({"model": official_state_dict(build_detector("smoke", 80))}, path)
    return path


def test_official_weights_with_their_preset(
    official: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(COCO80) == 80
    assert (COCO80[0], COCO80[11], COCO80[-1]) == (
        (1, "person"),
        (13, "stop sign"),
        (90, "toothbrush"),
    )
    picture = next((data / "images" / "val").iterdir())
    assert (
        cli.main(
            [
                "predict",
                str(official),
                str(picture),
                "--preset",
                "smoke",
                "--threshold",
                "0",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    rows = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    assert {row["category_id"] for row in rows} <= {category_id for category_id, _ in COCO80}
    train_json = data / "annotations" / "instances_train.json"
    capsys.readouterr()
    assert (
        cli.main(
            [
                "predict",
                str(official),
                str(picture),
                "--preset",
                "smoke",
                "--categories",
                str(train_json),
            ]
        )
        == 2
    )
    assert "the heads have 80 classes, but 5 names" in capsys.readouterr().err
    assert cli.main(["predict", str(official), str(picture)]) == 2
    assert "needs --preset NAME" in capsys.readouterr().err


@pytest.fixture(scope="module")
def permuted(runs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector of the run, its classes in an order other than that of their ids."""
    loaded = load_detector(the_run(runs_dir))
    categories = [loaded.categories[row] for row in (3, 0, 4, 2, 1)]
    model = build_detector(loaded.config, len(categories))
    load_weights(model, the_run(runs_dir), categories=categories)
    path = tmp_path_factory.mktemp("permuted") / "permuted.pt"
    save_weights(path, model, config=loaded.config, categories=categories)
    return path


def assert_same_by_class(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The same scores in each image under each category id, but for rounding."""
    scores = []
    for rows in (one, other):
        by_class: dict[tuple[int, int], list[float]] = {}
        for row in rows:
            by_class.setdefault((row["image_id"], row["category_id"]), []).append(row["score"])
        assert len({category_id for _, category_id in by_class}) == 5
        scores.append({key: sorted(values) for key, values in by_class.items()})
    assert scores[0].keys() == scores[1].keys()
    for key, values in scores[0].items():
        assert scores[1][key] == pytest.approx(values, abs=1e-6), key


@pytest.mark.parametrize("by_name", [False, True])
def test_classes_in_another_order_than_their_ids_are_scored_as_they_are(
    by_name: bool, data: Path, runs_dir: Path, permuted: Path, tmp_path: Path
) -> None:
    """``by_name``: as an official checkpoint, with the json of its classes."""
    half = [
        "--val-images",
        str(data / "images" / "val"),
        "--val-annotations",
        str(data / "annotations" / "instances_val.json"),
        "--device",
        "cpu",
    ]
    recipe = [part for item in SETTINGS for part in ("--set", item)]
    names = [
        "--preset",
        "smoke",
        "--categories",
        str(data / "annotations" / "instances_train.json"),
    ]
    for name, weights, more in (
        ("one", the_run(runs_dir) / "checkpoints" / "best.pt", []),
        ("other", permuted, [*recipe, *names] if by_name else []),
    ):
        files = [
            "--out",
            str(tmp_path / f"{name}.json"),
            "--detections",
            str(tmp_path / f"{name}_rows.json"),
        ]
        assert cli.main(["evaluate", str(weights), *half, *more, *files]) == 0
    one, other = (
        json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("one", "other")
    )
    assert other["metrics"] == pytest.approx(one["metrics"])
    assert other["per_class"] == one["per_class"]
    one_rows, other_rows = (
        json.loads((tmp_path / f"{name}_rows.json").read_text(encoding="utf-8"))
        for name in ("one", "other")
    )
    assert_same_by_class(one_rows, other_rows)


@pytest.mark.parametrize("by_name", [False, True])
def test_classes_in_another_order_than_their_ids_are_predicted_by_name(
    by_name: bool, data: Path, runs_dir: Path, permuted: Path, tmp_path: Path
) -> None:
    recipe = [part for item in SETTINGS if "train." not in item for part in ("--set", item)]
    names = [
        "--preset",
        "smoke",
        "--categories",
        str(data / "annotations" / "instances_train.json"),
    ]
    for name, weights, more in (
        ("one", the_run(runs_dir), []),
        ("other", permuted, [*recipe, *names] if by_name else []),
    ):
        assert (
            cli.main(
                [
                    "predict",
                    str(weights),
                    str(data / "images" / "val"),
                    *more,
                    "--threshold",
                    "0",
                    "--device",
                    "cpu",
                    "--out",
                    str(tmp_path / name),
                ]
            )
            == 0
        )
    one, other = (
        json.loads((tmp_path / name / "detections.json").read_text(encoding="utf-8"))
        for name in ("one", "other")
    )
    assert_same_by_class(one, other)
    one, other = (pd.read_csv(tmp_path / name / "detections.csv") for name in ("one", "other"))
    classes = [
        table.groupby("category_id")["category"].unique().map(list).to_dict()
        for table in (one, other)
    ]
    assert classes[0] == classes[1]


def test_prediction_of_a_folder_with_a_broken_file(
    data: Path, runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, source in enumerate(sorted((data / "images" / "val").iterdir())[:3]):
        (pictures / f"{number}{source.suffix}").write_bytes(source.read_bytes())
    Image.fromarray(np.full((40, 50), 30000, np.uint16)).save(pictures / "deep.tif")
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "out"
    assert (
        cli.main(
            [
                "predict",
                str(the_run(runs_dir)),
                str(pictures),
                "--out",
                str(out),
                "--threshold",
                "0",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    told = capsys.readouterr()
    assert "4 pictures, 1 could not be read" in told.out
    assert "broken.jpg" in told.err
    assert "Traceback" not in told.err
    rows = json.loads((out / "detections.json").read_text(encoding="utf-8"))
    assert set(rows[0]) == {"image_id", "category_id", "bbox", "score", "file_name"}
    assert {row["image_id"] for row in rows} == {1, 2, 3, 5}  # 4 is the broken one
    assert {Path(row["file_name"]).name for row in rows} == {
        item.name for item in pictures.iterdir()
    } - {"broken.jpg"}
    assert list(json.loads((out / "errors.json").read_text(encoding="utf-8"))) == [
        str(pictures / "broken.jpg")
    ]
    drawn = sorted(item.name for item in out.iterdir() if item.suffix not in (".json", ".csv"))
    assert len(drawn) == 4
    assert "deep.png" in drawn
    assert Image.open(out / "deep.png").size == (50, 40)


def test_prediction_never_writes_onto_a_source_and_says_when_nothing_is_found(
    runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        Image.new("RGB", (32, 32), (9, 9, 9)).save(folder / "same.png")
    before = (tmp_path / "same.png").read_bytes()
    assert (
        cli.main(
            [
                "predict",
                str(the_run(runs_dir)),
                str(tmp_path / "same.png"),
                str(tmp_path / "a" / "same.png"),
                "--out",
                str(tmp_path),
                "--threshold",
                "1",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert (tmp_path / "same.png").read_bytes() == before
    assert {item.name for item in tmp_path.glob("*.png")} == {
        "same.png",
        "same-2.png",
        "same-3.png",
    }
    assert json.loads((tmp_path / "detections.json").read_text(encoding="utf-8")) == []
    assert "Lower --threshold" in capsys.readouterr().err


def test_doctor_and_presets(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(
            ["doctor", "--data", str(data), "--preset", "smoke", "--set", "model.num_queries=5"]
        )
        == 0
    )
    assert "queries" in capsys.readouterr().out
    assert cli.main(["presets"]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in PRESETS)
    assert cli.main(["presets", "smoke"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["epochs"] == 2


def test_demo_is_handed_its_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deim_lab.cli import demo

    seen: list[object] = []

    def main(runs: Path, **options: object) -> None:
        seen.extend([runs, options])
        (runs / "demo").mkdir()
        (runs / "demo" / "report.md").write_text("the table", encoding="utf-8")

    monkeypatch.setattr(demo, "main", main)
    assert (
        cli.main(
            [
                "demo",
                "--runs",
                str(tmp_path),
                "--preset",
                "smoke",
                "--set",
                "train.epochs=1",
                "--seed",
                "2",
                "--no-notebook",
            ]
        )
        == 0
    )
    assert seen == [
        tmp_path,
        {"preset_name": "smoke", "overrides": {"train.epochs": 1}, "seed": 2, "notebook": None},
    ]
    assert capsys.readouterr().out.strip() == "the table"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --preset deim_dfine_nn", "did you mean 'deim_dfine_n'"),
        ("train --set schedule.epoches=3", "did you mean 'train.epochs'"),
        ("train --set train.epochs", "is not KEY=VALUE"),
        ("train --set data.input_size=100", "not a multiple of 32"),
        ("train --preset smoke --data {tmp}/absent", "absent' does not exist"),
        ("train --preset smoke --data {tmp} --train-images x", "exclude each other"),
        (
            "train --preset smoke --train-images x",
            "missing: --train-annotations, --val-images, --val-annotations",
        ),
        ("train --preset smoke --data {data} --device cudo", "did you mean 'cuda'"),
        ("train --preset smoke --data {data} --resume {tmp}/absent", "absent does not exist"),
        ("train --preset smoke --data {data} --weights {tmp}/absent.pth", "absent.pth"),
        ("evaluate {tmp}/absent.pt --data {data}", "absent.pt"),
        ("evaluate {tmp} --data {data}", "Expected a run folder"),
        ("train --preset smoke --data {data} --device cuda:x", "cuda:x"),
        ("evaluate {run} --device tpu", "device 'tpu' is unknown"),
        ("evaluate --data {data}", "takes one RUN_OR_WEIGHTS"),
        ("evaluate {run} --weights {run}", "takes one RUN_OR_WEIGHTS"),
        ("evaluate --weights {tmp}/absent.pt --data {data}", "absent.pt"),
        ("evaluate {run}", "Give its place with --data"),
        ("evaluate {run} --preset smoke --data {data}", "is a run folder with its own preset"),
        ("evaluate {run} --data {data} --categories {tmp}/x.json", "needs --preset"),
        ("predict {run} {tmp}/absent.jpg --out {tmp}/o", "none of the 1 pictures can be read"),
        ("predict {run} {tmp}/*.jpg", "no file matches"),
        ("doctor --data {tmp}", "has no images/train"),
        ("presets smok", "did you mean 'smoke'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    command: str,
    message: str,
    data: Path,
    runs_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command.format(tmp=tmp_path, data=data, run=the_run(runs_dir)).split()
    more = ["--runs", str(tmp_path / "runs")] if words[0] in ("train", "evaluate", "doctor") else []
    assert cli.main([*words, *more]) == 2
    told = capsys.readouterr()
    error = [
        line for line in told.err.splitlines() if line.startswith(f"deim-lab {words[0]}: error: ")
    ]
    assert len(error) == 1
    assert message in error[0]
    assert "Traceback" not in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--seed", "-1"],
        ["train", "--seed", "x"],
        ["evaluate", "r", "--limit", "0"],
        ["predict", "r", "i", "--threshold", "2"],
        ["predict", "r", "i", "--threshold", "nan"],
        ["predict", "r"],
        ["trian"],
        [],
        ["train", "--epochs", "3"],
    ],
)
def test_wrong_options_are_refused_by_the_parser(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "error" in capsys.readouterr().err


def test_debug_shows_the_traceback_and_other_errors_are_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        cli.main(["presets", "smok", "--debug"])

    def bug(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(importlib.import_module("deim_lab.cli.presets"), "run", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["presets"])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("deim_lab.cli.presets"), "run", stop)
    assert cli.main(["presets"]) == 130
    assert "interrupted" in capsys.readouterr().err
