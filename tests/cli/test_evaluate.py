"""``deim-lab evaluate``: of a run, of a val half alone, of classes in another order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import SETTINGS, assert_same_by_class, the_run
from deim_lab import cli
from deim_lab.evaluation import METRICS, coco_metrics
from deim_lab.runs import Run


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
