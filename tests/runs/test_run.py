"""Run folders: what is written comes back, and a kill leaves something readable."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from deim_lab import runs
from deim_lab.config import fingerprint
from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError
from deim_lab.runs import Run
from run_folders import DATA, start


def test_a_new_run_has_everything_of_the_schema(tmp_path: Path) -> None:
    run = start(tmp_path, {"loss.gamma": 2.0, "data.input_size": [96, 128]}, seed=3, device="cpu")
    config = preset("smoke", {"loss.gamma": 2.0, "data.input_size": [96, 128]})
    assert {item.name for item in run.folder.iterdir()} >= {
        "config.json",
        "run.json",
        "metrics.jsonl",
        *runs.SUBFOLDERS,
    }
    assert run.folder.name.endswith(f"_smoke_gamma-2.0+input-size-96-128_s3_{fingerprint(config)}")
    info = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert info == run.info
    assert (info["status"], info["seed"], info["device"], info["error"], info["finished"]) == (
        "running",
        3,
        "cpu",
        None,
        None,
    )
    assert info["overrides"] == {"loss.gamma": 2.0, "data.input_size": [96, 128]}
    assert info["data"] == DATA
    assert (
        info["versions"]["torch"] == torch.__version__.partition("+")[0]
        or info["versions"]["torch"] == torch.__version__
    )
    assert all(info["versions"][name] for name in ("python", "torchvision", "deim_lab"))
    assert run.config == config
    assert Run.open(run.folder).config == config
    assert run.identity == {
        "fingerprint": fingerprint(config),
        "seed": 3,
        "data_fingerprint": "d" * 64,
    }


def test_names_say_what_differs_and_never_clash(tmp_path: Path) -> None:
    names = {start(tmp_path).folder.name for _ in range(3)}
    assert len(names) == 3
    assert all("_base_" in name for name in names)
    assert "_with-mixup_" in start(tmp_path, what="with mixup!").folder.name
    assert not any(set(name) & set('/\\:*?"<>| ') for name in names)
    with pytest.raises(ConfigError, match="lacks 'fingerprint'"):
        Run.start(tmp_path, preset("smoke"), seed=0, data={"name": "x"})


def test_events_come_back_as_plain_values(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.log(
        "train",
        epoch=0,
        step=1,
        tensor=torch.tensor([1.5, 2.5]),
        scalar=torch.tensor(3),
        array=np.arange(2),
        number=np.float32(0.5),
        nan=math.nan,
        inf=-math.inf,
        path=Path("a"),
        nested={"x": {1: (1, math.nan)}},
        none=None,
        flag=True,
    )
    event = next(run.events())
    assert event.pop("time") > 1e9
    assert event == {
        "kind": "train",
        "epoch": 0,
        "step": 1,
        "tensor": [1.5, 2.5],
        "scalar": 3,
        "array": [0, 1],
        "number": 0.5,
        "nan": None,
        "inf": None,
        "path": "a",
        "nested": {"x": {"1": [1, None]}},
        "none": None,
        "flag": True,
    }


def test_each_event_is_on_disk_at_once(tmp_path: Path) -> None:
    run = start(tmp_path)
    for step in range(3):
        run.log("step", epoch=0, step=step)
        assert len(list(Run.open(run.folder).events())) == step + 1


def test_finish_and_fail_are_recorded_and_close_the_log(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.finish()
    assert Run.open(run.folder).status == "done"
    assert run.info["seconds"] >= 0
    assert run.info["finished"] >= run.info["started"]
    with pytest.raises(ConfigError, match="not open for writing"):
        run.log("train", epoch=0, step=0)
    run = start(tmp_path)
    try:
        raise KeyboardInterrupt("stopped")
    except KeyboardInterrupt as error:
        run.fail(error)
    info = Run.open(run.folder).info
    assert info["status"] == "failed"
    assert info["error"]["type"] == "KeyboardInterrupt"
    assert info["error"]["message"] == "stopped"
    assert "test_run.py" in info["error"]["traceback"]


def test_a_torn_last_line_is_left_out_by_readers_and_cut_off_on_reopening(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.log("train", epoch=0, step=1)
    run.fail(RuntimeError())
    log = run.folder / "metrics.jsonl"
    for torn in (
        '{"kind": "train", "ep',
        '{"kind": "val", "epoch": 0, "step": 9}',
    ):  # also one that only lacks its newline
        log.write_text(log.read_text(encoding="utf-8") + torn, encoding="utf-8")
        assert [event["step"] for event in Run.open(run.folder).events()] == [1]
    reopened = Run.open(run.folder).reopen()
    reopened.log("train", epoch=1, step=2)
    assert [event["step"] for event in reopened.events()] == [1, 2]
    assert log.read_text(encoding="utf-8").count("\n") == 2
    assert Run.open(run.folder).status == "running"
    assert len(reopened.info["resumed"]) == 1


def test_time_of_a_killed_session_is_counted(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.log("step", epoch=0, step=1)
    log = run.folder / "metrics.jsonl"
    event = json.loads(log.read_text(encoding="utf-8"))
    log.write_text(json.dumps(event | {"time": event["time"] + 100}) + "\n", encoding="utf-8")
    assert Run.open(run.folder).reopen().info["seconds"] == pytest.approx(100, abs=2)


def test_metrics_flatten_and_keep_the_later_of_repeated_events(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.log("event", epoch=0, step=0, event="start")
    run.log("event", epoch=0, step=0, event="resumed")
    run.log(
        "train", epoch=0, step=5, loss={"total": 1.0, "mal": {"layer_0": 2.0}}, histogram=[1, 2]
    )
    run.log(
        "train", epoch=0, step=5, loss={"total": 9.0, "mal": {"layer_0": 2.0}}, histogram=[3, 4]
    )
    run.log("val", epoch=0, step=5, AP=0.25)
    frame = run.metrics()
    assert list(frame.columns[:4]) == ["kind", "epoch", "step", "time"]
    assert frame["kind"].tolist() == ["event", "event", "train", "val"]
    row = frame[frame["kind"] == "train"].iloc[0]
    assert (row["loss/total"], row["loss/mal/layer_0"], row["histogram"]) == (9.0, 2.0, [3, 4])
    assert run.metrics(["val"])["AP"].tolist() == [0.25]
    assert list(start(tmp_path).metrics().columns) == ["kind", "epoch", "step", "time"]


def test_a_second_writer_is_refused_until_the_first_one_ends(tmp_path: Path) -> None:
    run = start(tmp_path)

    def other() -> str:
        """What another process finds: a fork, as a lock is of one process."""
        answer = tmp_path / "answer.txt"
        child = os.fork()
        if child == 0:
            try:
                Run.open(run.folder).reopen()
                answer.write_text("opened", encoding="utf-8")
            except BaseException as error:
                answer.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        return answer.read_text(encoding="utf-8")

    assert "is being written by another process" in other()
    assert list(run.events()) == []  # reading doesn't let go of the lock
    assert other() != "opened"
    run.fail(RuntimeError("cut"))
    assert other() == "opened"
    assert (
        Run.open(run.folder).reopen().status == "running"
    )  # that process was gone without closing: the lock went with it


def test_detections_and_evaluations_are_kept(tmp_path: Path) -> None:
    run = start(tmp_path)
    rows = [{"image_id": 1, "category_id": 2, "bbox": [0.0, 1.0, 2.0, 3.0], "score": 0.5}]
    path = run.save_detections("epoch_0007", rows)
    assert path == run.folder / "predictions" / "epoch_0007.json"
    assert json.loads(path.read_text(encoding="utf-8")) == rows
    first, second = (run.save_evaluation("pear", {"AP": value}) for value in (0.1, math.nan))
    assert first != second
    assert json.loads(first.read_text(encoding="utf-8")) == {"AP": 0.1}
    assert json.loads(second.read_text(encoding="utf-8")) == {"AP": None}
    assert not list(run.folder.rglob("*.json.*"))  # no temporary left


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = runs.write_json(tmp_path / "a.json", {"x": 1})

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    with pytest.raises(RuntimeError):
        runs.write_json(path, {"x": Odd()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"x": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
