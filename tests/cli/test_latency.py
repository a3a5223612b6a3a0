"""``deim-lab latency``: the table, the JSON, and a model that can not be compiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clips import save_detector
from deim_lab import cli
from deim_lab.inference import latency


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("weights"))


def test_latency_as_a_table_and_as_json(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "l.json"
    assert (
        cli.main(
            [
                "latency",
                "--preset",
                "smoke",
                "--weights",
                str(weights),
                "--size",
                "64",
                "64",
                "--batch",
                "1",
                "2",
                "--precision",
                "fp32",
                "--repeats",
                "5",
                "--out",
                str(out),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    told = json.loads(out.read_text(encoding="utf-8"))
    assert [item["model"] for item in told["models"]] == ["smoke", "model.pt"]
    assert told["models"][0]["parameters_deploy"] < told["models"][0]["parameters_train"]
    assert told["models"][0]["gflops"] > 0
    assert {
        (item["model"], item["form"], item["batch"], item["postprocess"]) for item in told["times"]
    } == {
        (model, form, batch, post)
        for model in ("smoke", "model.pt")
        for form in ("train", "deploy")
        for batch in (1, 2)
        for post in (True, False)
    }
    assert all(
        item["median_ms"] > 0 and item["repeats"] == 5 and item["size"] == [64, 64]
        for item in told["times"]
    )
    assert told["machine"]["torch"] == torch.__version__
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(out)
    assert sum(line.split()[:2] == ["deploy", "fp32"] for line in lines) == 4


def test_what_can_not_be_compiled_is_said_and_the_rest_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\nmore")

    def in_form(model: Any, form: str) -> Any:
        found = whole(model, "deploy" if form == "compiled" else form)
        return (
            type("Failing", (torch.nn.Module,), {"forward": no_compiler})()
            if form == "compiled"
            else found
        )

    whole = latency.in_form
    monkeypatch.setattr(latency, "in_form", in_form)
    out = tmp_path / "l.json"
    assert (
        cli.main(
            [
                "latency",
                "--preset",
                "smoke",
                "--compile",
                "--size",
                "64",
                "64",
                "--batch",
                "1",
                "--precision",
                "fp32",
                "--repeats",
                "5",
                "--out",
                str(out),
                "--device",
                "cpu",
            ]
        )
        == 1
    )
    assert {item["form"] for item in json.loads(out.read_text(encoding="utf-8"))["times"]} == {
        "train",
        "deploy",
    }
    assert (
        "smoke cannot be compiled here (fp32, batch 1): RuntimeError: no C++ compiler"
        in capsys.readouterr().err.splitlines()[-1]
    )
