"""Runs of a small notebook, each with a mood, and the check of their records."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from deim_lab.sweep.spec import RunRecord, RunSpec

# Marks of every test that starts Ray or Slurm jobs.
CLUSTER = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not Path("/proc/self/environ").exists(), reason="looks for left processes in /proc"
    ),
]
# Found, not imported: the executor sets variables that Ray reads when it is imported.
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra 'ray' is not installed")
needs_submitit = pytest.mark.skipif(
    find_spec("submitit") is None, reason="the extra 'slurm' is not installed"
)

# What a run does, by its "mood"; ``life`` counts how often it was started.
WORK = """\
import json, os, pathlib, signal, time
diary = pathlib.Path(runs_dir, f"diary-{seed}.jsonl")
life = len(diary.read_text().splitlines()) + 1 if diary.exists() else 1
def note(event):
    with diary.open("a") as lines:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        lines.write(json.dumps({"life": life, "time": time.time(), "gpus": gpus}) + "\\n")
note("start")
if mood == "worker killed always" or (mood == "worker killed once" and life == 1):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if mood == "preempted once" and life == 1:
    os.kill(os.getppid(), signal.SIGUSR2)
    time.sleep(60)
if mood == "raises":
    raise ValueError("no such thing")
if mood == "sleeps":
    time.sleep(120)
time.sleep(seconds)
"""
MOODS = ("well", "worker killed once", "raises", "worker killed always")


def diary(spec: RunSpec) -> list[dict[str, Any]]:
    """A line for each time that the run's notebook was started."""
    return [
        json.loads(line)
        for line in (Path(spec.runs_dir) / f"diary-{spec.seed}.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]


def by_arm(records: list[RunRecord]) -> dict[str, RunRecord]:
    assert len({record.arm for record in records}) == len(records)
    return {record.arm: record for record in records}


def check_moods(records: list[RunRecord]) -> None:
    """One record for each of the moods "well", "worker killed once", "raises" and "worker killed
    always".
    """
    found = by_arm(records)
    assert {arm: (record.status, record.attempts) for arm, record in found.items()} == {
        "well": ("done", 1),
        "worker killed once": ("done", 2),
        "raises": ("failed", 1),
        "worker killed always": ("failed", 2),
    }
    assert found["raises"].error is not None
    assert found["worker killed always"].error is not None
    assert (found["raises"].error["type"], found["raises"].error["message"]) == (
        "ValueError",
        "no such thing",
    )
    assert found["worker killed always"].error["type"] == "WorkerDiedError"
    assert found["well"].error is None
    assert Path(found["well"].notebook or "").is_file()
