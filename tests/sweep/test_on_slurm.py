"""Runs on Slurm: submitit's local executor, and Slurm's commands played by a script."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

from deim_lab.sweep.on_slurm import SlurmExecutor
from deim_lab.sweep.spec import RunSpec
from moods import CLUSTER, MOODS, check_moods, diary, needs_submitit

pytestmark = CLUSTER


@pytest.mark.slow  # six jobs, each with a kernel
@needs_submitit
def test_submitit_gives_every_record(
    specs: Callable[..., list[RunSpec]], left_behind: Callable[[], list[int]], tmp_path: Path
) -> None:
    executor = SlurmExecutor(folder=tmp_path / "jobs", workers=2, cluster="local")
    most, records = 0, []
    for record in executor.execute(specs(*MOODS)):
        records.append(record)
        tasks = [
            pid
            for pid in left_behind()
            if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        most = max(most, len(tasks))
    check_moods(records)
    assert most <= 2  # submitit's local executor starts whatever it is given
    assert list((tmp_path / "jobs").glob("*_log.err"))


@needs_submitit
def test_a_preempted_job_goes_on(
    specs: Callable[..., list[RunSpec]], left_behind: Callable[[], list[int]], tmp_path: Path
) -> None:
    (spec,) = specs("preempted once")
    (record,) = SlurmExecutor(folder=tmp_path / "jobs", cluster="local").execute([spec])
    assert record.status == "done"
    assert [line["life"] for line in diary(spec)] == [1, 2]


@needs_submitit
def test_closing_the_iterator_of_submitit_stops_everything(
    specs: Callable[..., list[RunSpec]], left_behind: Callable[[], list[int]], tmp_path: Path
) -> None:
    runs = SlurmExecutor(folder=tmp_path / "jobs", workers=2, cluster="local").execute(
        specs("sleeps", "well", "sleeps")
    )
    assert next(runs).arm == "well"
    assert isinstance(runs, Generator)
    began = time.monotonic()
    runs.close()
    assert time.monotonic() - began < 30


# Slurm's commands as one script: an array's tasks in order, as many at once as its limit says, in
# processes of their own. A cancelled task that waits never begins; one that runs is killed with all
# that it started.
SLURM = """\
import json, os, pathlib, psutil, re, subprocess, sys, time
home = pathlib.Path(os.environ["FAKE_SLURM"])
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with (home / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([name, *arguments]) + "\\n")
if name == "sbatch":
    job = str(int((home / "first").read_text()) + len(list(home.glob("script-*"))))
    script = home / f"script-{job}"
    script.write_text(pathlib.Path(arguments[0]).read_text())
    again = [sys.executable, os.path.realpath(__file__), "run", job]
    subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("Submitted batch job", job)
elif name == "slurm.py":
    job = arguments[1]
    script = home / f"script-{job}"
    found = re.search(r"--array=0-(\\d+)%(\\d+)", script.read_text())
    tasks, limit = (range(int(found[1]) + 1), int(found[2])) if found else ([None], 1)
    running = {}
    for task in [*tasks, "end"]:
        while len(running) >= (1 if task == "end" and running else limit):
            for key in [key for key in running if (home / f"cancelled-{key}").exists()]:
                started = psutil.Process(running[key].pid).children(recursive=True)
                for process in [*started, running[key]]:
                    process.kill()
            for key in [key for key, process in running.items() if process.poll() is not None]:
                state = "COMPLETED" if running.pop(key).returncode == 0 else "FAILED"
                (home / f"ended-{key}").write_text(state)
            time.sleep(0.05)
        key = job if task is None else f"{job}_{task}"
        if task != "end" and not (home / f"cancelled-{key}").exists():
            own = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
            own |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
            if task is not None:
                own |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(task)}
            running[key] = subprocess.Popen(["bash", str(script)], env=os.environ | own)
            (home / f"began-{key}").write_text(str(running[key].pid))
elif name == "srun":
    words = enumerate(arguments)
    command = arguments[next(i for i, word in words if "/python" in f"/{word}"):]
    os.execv(command[0], command)
elif name == "sacct":
    print("JobID|State|NodeList")
    for began in sorted(home.glob("began-*")):
        key = began.name.removeprefix("began-")
        ended = home / f"ended-{key}"
        print(f"{key}|{ended.read_text() if ended.exists() else 'RUNNING'}|here")
elif name == "scancel":
    (home / f"cancelled-{arguments[0]}").touch()
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the played Slurm was told."""
    if find_spec("submitit") is None:
        pytest.skip("the extra is not installed: submitit")
    home = tmp_path / "slurm"
    (home / "bin").mkdir(parents=True)
    script = home / "bin" / "slurm.py"
    script.write_text(f"#!{sys.executable}\n{SLURM}", encoding="utf-8")
    script.chmod(0o755)
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        (home / "bin" / name).symlink_to(script)
    monkeypatch.setenv("PATH", f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    (home / "first").write_text(
        str(time.monotonic_ns() // 1_000_000), encoding="utf-8"
    )  # submitit remembers the jobs of a process by their numbers
    monkeypatch.setattr("deim_lab.sweep.on_slurm.POLL_SECONDS", {"slurm": 0.2, "local": 0.2})
    monkeypatch.setattr("deim_lab.sweep.on_slurm.ASK_SECONDS", 2.0)
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 1)
    return home


@pytest.mark.slow
def test_slurm_takes_one_job_array_with_a_limit(
    slurm: Path,
    specs: Callable[..., list[RunSpec]],
    left_behind: Callable[[], list[int]],
    tmp_path: Path,
) -> None:
    executor = SlurmExecutor(
        folder=tmp_path / "jobs",
        workers=2,
        partition="gpus",
        minutes=90,
        gpus_per_run=1,
        memory_gib=24,
        cpus_per_run=6,
        options=(("account", "vision"),),
    )
    check_moods(list(executor.execute(specs(*MOODS))))
    first, *later = sorted(slurm.glob("script-*"))
    for line in (
        "array=0-3%2",
        "partition=gpus",
        "time=90",
        "gpus-per-node=1",
        "mem=24GB",
        "cpus-per-task=6",
        "account=vision",
    ):
        assert f"#SBATCH --{line}\n" in first.read_text(encoding="utf-8")
    assert len(later) == 2  # the two whose worker was killed
    assert all("--array" not in script.read_text(encoding="utf-8") for script in later)


def test_closing_the_iterator_of_slurm_cancels_the_jobs(
    slurm: Path,
    specs: Callable[..., list[RunSpec]],
    left_behind: Callable[[], list[int]],
    tmp_path: Path,
) -> None:
    runs = SlurmExecutor(folder=tmp_path / "jobs", workers=2).execute(
        specs("sleeps", "well", "sleeps")
    )
    assert next(runs).arm == "well"
    assert isinstance(runs, Generator)
    runs.close()
    calls = [
        json.loads(line)
        for line in (slurm / "calls.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    first = (slurm / "first").read_text(encoding="utf-8")
    assert sorted(call[1] for call in calls if call[0] == "scancel") == [f"{first}_0", f"{first}_2"]
