"""Many runs make one tidy table; a damaged run is left out by name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from deim_lab import runs
from deim_lab.errors import ConfigError, DataError
from deim_lab.runs import Run
from run_folders import finished, start


def test_a_knob_that_an_older_run_does_not_know_stands_at_its_default(tmp_path: Path) -> None:
    """``table`` and ``flat_config``, which ``compare`` reads, follow one rule."""
    older = finished(tmp_path)
    path = older.folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    default = config["eval"].pop("top_k")
    path.write_text(json.dumps(config), encoding="utf-8")
    finished(tmp_path, {"eval.top_k": 7}, seed=1)
    table = runs.table(tmp_path)
    assert table.groupby("seed")["eval.top_k"].first().to_dict() == {0: default, 1: 7}
    assert runs.flat_config(Run.open(older.folder))["eval.top_k"] == default


def test_table_is_tidy_and_has_a_column_for_every_overridden_key(tmp_path: Path) -> None:
    first = finished(tmp_path, {"loss.gamma": 2.0, "data.input_size": [96, 128]}, ap=0.4)
    second = finished(tmp_path, {"augment.mosaic_prob": 0.0}, seed=1)
    start(tmp_path).log("val", epoch=0, step=0, AP=1.0)
    frame = runs.table(tmp_path)
    assert len(frame) == 8
    assert tuple(frame.columns[: len(runs.BASE_COLUMNS)]) == runs.BASE_COLUMNS
    a, b = (frame[frame["run"] == run.folder.name] for run in (first, second))
    assert len(a) == len(b) == 4
    assert a["loss.gamma"].tolist() == [2.0] * 4
    assert b["loss.gamma"].isna().all()  # None: the recipe's own
    assert (
        a["augment.mosaic_prob"].tolist() == [0.5] * 4
    )  # not overridden there: read from its config
    assert b["augment.mosaic_prob"].tolist() == [0.0] * 4
    assert a["data.input_size"].tolist() == [(96, 128)] * 4
    assert b["data.input_size"].tolist() == [(96, 96)] * 4
    val = frame[(frame["kind"] == "val") & (frame["epoch"] == 1)]
    assert val.set_index("seed")["AP"].to_dict() == {0: 0.4, 1: 0.5}
    assert frame[frame["kind"] == "train"]["targets_per_image"].tolist() == [3.0, 4.0, 3.0, 4.0]
    assert frame.loc[frame["kind"] == "train", "matched_iou_histogram"].iloc[0] == [1, 2, 3]
    assert frame["loss/mal/layer_0"].dropna().tolist() == [1.0] * 4
    assert set(frame["status"]) == {"done"}
    assert set(runs.table(tmp_path, status=None)["status"]) == {"done", "running"}
    assert runs.table(tmp_path, status="running")["AP"].tolist() == [1.0]
    assert isinstance(
        frame.groupby(["loss.gamma", "data.input_size"], dropna=False)["AP"].max(), pd.Series
    )


def test_empty_and_absent_folders_of_runs(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no run", encoding="utf-8")
    (tmp_path / "data").mkdir()
    frame = runs.table(tmp_path)
    assert frame.empty
    assert tuple(frame.columns) == runs.BASE_COLUMNS
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError, match="did you mean 'runs'"):
        runs.table(tmp_path / "rums")
    with pytest.raises(ConfigError, match="did you mean 'done'"):
        runs.table(tmp_path, status="doen")
    with pytest.raises(DataError, match="does not exist"):
        Run.open(tmp_path / "runs" / "x")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", "{}"),
        ("run.json", None),
        ("config.json", "{"),
        ("config.json", None),
        ("metrics.jsonl", 'no json\n{"kind": "val"}\n'),
        ("metrics.jsonl", "7\n"),
        ("metrics.jsonl", None),
    ],
)
def test_a_damaged_run_is_skipped_by_name_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str | None
) -> None:
    damaged, whole = finished(tmp_path), finished(tmp_path, seed=1)
    if content is None:
        (damaged.folder / name).unlink()
    else:
        (damaged.folder / name).write_text(content, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        frame = runs.table(tmp_path)
    assert set(frame["run"]) == {whole.folder.name}
    assert damaged.folder.name in caplog.text
    assert name in caplog.text
