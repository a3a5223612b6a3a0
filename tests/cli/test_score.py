"""``deim-lab score``: the table, the files and the figure that it writes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from deim_lab import cli
from deim_lab.evaluation import METRICS, coco_metrics
from result_files import write_files


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write_files(tmp_path)


@pytest.fixture
def _quiet_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])


@pytest.mark.usefixtures("_quiet_root")
def test_the_command_compares_and_writes_everything(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    percent = tmp_path / "percent.json"
    rows = json.loads(files["good"].read_text(encoding="utf-8"))
    percent.write_text(
        json.dumps([{**row, "score": 100 * row["score"]} for row in rows]), encoding="utf-8"
    )
    words = [
        "score",
        str(files["gt"]),
        f"Good={files['good']}",
        str(files["rough"]),
        str(percent),
        "--out",
        str(out),
    ]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert [line.split("|")[1].strip() for line in lines[:5]] == [
        "model",
        "-" * len(lines[1].split("|")[1]),
        "Good",
        "rough",
        "percent",
    ]
    assert "**" in lines[2]
    assert "note on percent: scores lie in" in told
    assert {path.name for path in out.iterdir()} == {
        "per_class.csv",
        *(f"scores.{kind}" for kind in ("json", "csv", "md", "png", "svg", "pdf")),
    }
    values = json.loads((out / "scores.json").read_text(encoding="utf-8"))["detectors"]
    assert [item["name"] for item in values] == ["Good", "rough", "percent"]
    assert values[0]["metrics"] == coco_metrics(files["gt"], files["good"])
    assert values[2]["warnings"][0].startswith("scores lie")
    written = pd.read_csv(out / "scores.csv")
    assert written["AP"].tolist() == pytest.approx([100 * item["metrics"]["AP"] for item in values])
    assert set(METRICS) <= set(written)
    assert set(pd.read_csv(out / "per_class.csv")["name"]) == {"cat", "dog"}
    assert "| Good" in (out / "scores.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("_quiet_root")
def test_one_file_has_nothing_to_be_best_of_and_bad_input_is_one_line(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["score", str(files["gt"]), str(files["good"])]) == 0
    assert "**" not in capsys.readouterr().out
    assert cli.main(["score", str(files["good"]), str(files["gt"])]) == 2
    told = capsys.readouterr()
    assert "Give the ground truth first" in told.err
    assert told.out == ""
    assert cli.main(["score", str(files["gt"]), str(files["good"]), "--backend", "hotcocoa"]) == 2
    assert "did you mean 'hotcoco'" in capsys.readouterr().err
