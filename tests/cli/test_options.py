"""Options that verbs share: the detector that a run or an official checkpoint gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from command_line import the_run
from deim_lab import cli
from deim_lab.detector.detector import build_detector
from deim_lab.weights.coco80 import COCO80
from deim_lab.weights.own import official_state_dict


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
