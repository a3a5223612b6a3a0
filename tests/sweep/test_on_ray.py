"""Grids past one process: a real Ray cluster of two workers, submitit's local executor, and Slurm's
commands played by a script.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from deim_lab.errors import ConfigError
from deim_lab.sweep import on_ray, shared
from deim_lab.sweep.on_ray import RayExecutor
from deim_lab.sweep.on_slurm import SlurmExecutor
from deim_lab.sweep.spec import RunRecord, RunSpec

pytestmark = [
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


@pytest.fixture
def left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """Process ids of what this test started, in whatever way, and still runs; there must be none in
    the end.
    """
    mark = f"DEIM_LAB_TEST={uuid.uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))

    def find() -> list[int]:
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                try:
                    if mark.encode() in (folder / "environ").read_bytes():
                        found.append(int(folder.name))
                except OSError:
                    continue
        return found

    yield find
    until = time.monotonic() + 15
    while find() and time.monotonic() < until:
        time.sleep(0.2)
    assert not [(Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in find()]


@pytest.fixture
def specs(tmp_path: Path) -> Callable[..., list[RunSpec]]:
    """``specs("well", "raises", …)``: a run of a small notebook for each mood."""
    runs_dir = tmp_path / "runs"
    runs_dir.mkdir()
    notebook = tmp_path / "small.ipynb"
    cells = [
        ("seed, runs_dir, mood, seconds, data = 0, '', 'well', 0.0, 'embedded'", ["parameters"]),
        (WORK, []),
    ]
    notebook.write_text(
        json.dumps(
            {
                "nbformat": 4,
                "nbformat_minor": 5,
                "metadata": {},
                "cells": [
                    {
                        "cell_type": "code",
                        "id": f"c{index}",
                        "execution_count": None,
                        "outputs": [],
                        "metadata": {"tags": tags},
                        "source": source,
                    }
                    for index, (source, tags) in enumerate(cells)
                ],
            }
        ),
        encoding="utf-8",
    )

    def make(*moods: str, seconds: float = 0.0, **parameters: Any) -> list[RunSpec]:
        return [
            RunSpec(
                index=index,
                arm=mood,
                seed=index,
                notebook=str(notebook),
                overrides={},
                fingerprint="f",
                data_fingerprint="d",
                parameters={
                    "seed": index,
                    "runs_dir": str(runs_dir),
                    "mood": mood,
                    "seconds": seconds,
                    **parameters,
                },
                runs_dir=str(runs_dir),
                executed=str(runs_dir / "sweeps" / "t" / f"{index}.ipynb"),
            )
            for index, mood in enumerate(moods)
        ]

    return make


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


@contextlib.contextmanager
def unless_too_busy() -> Iterator[None]:
    """Skip where Ray's agents don't come up in the 15 seconds that Ray gives them; fail where CI
    says that they must.
    """
    try:
        yield
    except ConfigError as error:
        if "Ray does not start" not in str(error) or os.environ.get("DEIM_LAB_REQUIRE_RAY"):
            raise
        pytest.skip(str(error))


MOODS = ("well", "worker killed once", "raises", "worker killed always")


def listening_addresses(pids: list[int]) -> set[str]:
    import psutil

    found = set()
    for pid in pids:
        try:
            found |= {
                item.laddr.ip
                for item in psutil.Process(pid).net_connections("inet")
                if item.status == psutil.CONN_LISTEN
            }
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@needs_ray
def test_ray_gives_every_record_on_the_loopback_alone(
    specs: Callable[..., list[RunSpec]], left_behind: Callable[[], list[int]]
) -> None:
    records, addresses = [], set()
    with unless_too_busy():
        for record in RayExecutor(workers=2).execute(specs(*MOODS)):
            records.append(record)
            addresses |= listening_addresses(left_behind())
    check_moods(records)
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.slow
@needs_ray
def test_closing_the_iterator_of_ray_stops_everything(
    specs: Callable[..., list[RunSpec]], left_behind: Callable[[], list[int]]
) -> None:
    runs = RayExecutor(workers=2).execute(specs("sleeps", "well", "sleeps"))
    with unless_too_busy():
        assert next(runs).arm == "well"
    assert isinstance(runs, Generator)
    began = time.monotonic()
    runs.close()
    assert time.monotonic() - began < 60


HEAD = """\
import ray, sys, tempfile
from deim_lab.sweep import on_ray
on_ray._start(ray, tempfile.mkdtemp(prefix="ray-"), num_cpus=4, num_gpus=1, include_dashboard=False,
              object_store_memory=80 * 2**20, _node_ip_address="127.0.0.1",
              log_to_driver=False)
print("AT", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ray_head(
    left_behind: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Address of a cluster that stands before the sweep and is said to have one GPU."""
    if find_spec("ray") is None:
        pytest.skip("the extra 'ray' is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    with subprocess.Popen(
        [sys.executable, "-c", HEAD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as head:
        assert head.stdout is not None
        address = next((line.split()[1] for line in head.stdout if line.startswith("AT ")), None)
        with unless_too_busy():
            if address is None:
                raise ConfigError("Ray does not start on this machine")
        yield str(address)
        head.communicate("")


SWEEP = """\
import json, sys
from deim_lab.sweep.on_ray import RayExecutor
from deim_lab.sweep.spec import RunSpec, to_json
specs = [RunSpec(**values) for values in json.load(sys.stdin)]
for _ in range(2):  # the second time the cluster is still there
    executor = RayExecutor(address=sys.argv[1], workers=3, gpus_per_run=0.5)
    print("RECORDS", json.dumps([to_json(record) for record in executor.execute(specs)]))
"""


@pytest.mark.slow
def test_ray_at_an_address_shares_a_gpu_and_is_left_on(
    ray_head: str, specs: Callable[..., list[RunSpec]]
) -> None:
    runs = specs("one", "two", "three", seconds=3.0)
    sweep = subprocess.run(
        [sys.executable, "-c", SWEEP, ray_head],
        input=json.dumps([vars(spec) for spec in runs]),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    rounds = [
        json.loads(line.partition(" ")[2])
        for line in sweep.stdout.splitlines()
        if line.startswith("RECORDS ")
    ]
    assert [[record["status"] for record in records] for records in rounds] == [["done"] * 3] * 2
    assert all(record["where"].endswith(" gpu 0") for records in rounds for record in records)
    assert {line["gpus"] for spec in runs for line in diary(spec)} == {"0"}
    starts = sorted(diary(spec)[0]["time"] for spec in runs)
    assert starts[2] - starts[0] > 3.0  # two share the GPU, the third waits in Ray's queue


@needs_ray
def test_no_ray_at_the_address(
    left_behind: Callable[[], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    specs: Callable[..., list[RunSpec]],
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="no Ray cluster answers at 'auto'"):
        next(RayExecutor(address="auto").execute(specs("well")))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'.*refused"):
        next(RayExecutor(address=address).execute(specs("well")))


class _FakeRay:
    def __init__(self, *gpus: float) -> None:
        self.gpus = gpus

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"GPU": count} if count else {}} for count in self.gpus
        ]


def test_more_gpus_than_there_are(caplog: pytest.LogCaptureFixture) -> None:
    on_ray._check_room(_FakeRay(0, 2), 2, local=True)
    with pytest.raises(ConfigError, match=r"requests 0\.5 GPUs, but Ray finds 0 on this machine"):
        on_ray._check_room(_FakeRay(0), 0.5, local=True)
    on_ray._check_room(_FakeRay(1, 1), 2, local=False)
    assert "largest node of the Ray cluster has 1" in caplog.text


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


def test_without_slurm_or_the_extras(
    specs: Callable[..., list[RunSpec]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch is not on this machine"):
        next(SlurmExecutor(folder=tmp_path).execute(specs("well")))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"deim-lab\[slurm\]"):
        next(SlurmExecutor(folder=tmp_path).execute(specs("well")))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"deim-lab\[ray\]"):
        next(RayExecutor().execute(specs("well")))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RayExecutor, {"workers": 0}, "workers 0 is below 1"),
        (RayExecutor, {"gpus_per_run": 1.5}, "a fraction of one GPU"),
        (RayExecutor, {"gpus_per_run": -1}, "gpus_per_run -1"),
        (SlurmExecutor, {"folder": "x", "minutes": 0}, "minutes 0 is below 1"),
        (SlurmExecutor, {"folder": "x", "memory_gib": 0.5}, "memory_gib 0.5 is below 1"),
        (SlurmExecutor, {"folder": "x", "gpus_per_run": 0.5}, "whole GPUs only"),
        (SlurmExecutor, {"folder": "x", "gpus_per_run": 1, "cluster": "local"}, "the same GPUs"),
        (SlurmExecutor, {"folder": "x", "cluster": "moon"}, "cluster 'moon' is unknown"),
    ],
)
def test_values_out_of_range(kind: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_a_node_that_does_not_share_the_files(
    specs: Callable[..., list[RunSpec]], tmp_path: Path
) -> None:
    (spec,) = specs("well")
    for change in ({"notebook": "/elsewhere/a.ipynb"}, {"runs_dir": "/elsewhere/runs"}):
        record = shared.run_on_node(RunSpec(**{**vars(spec), **change}))
        assert record.status == "failed"
        assert record.error is not None
        assert "/elsewhere" in record.error["message"]
        assert "share" in record.error["message"]
    (absent,) = specs("well", data="/elsewhere/set")
    record = shared.run_on_node(absent)
    assert record.error is not None
    assert "/elsewhere/set" in record.error["message"]

    done = RunRecord(index=0, arm="well", seed=0, status="done", run="a_run", where="node7")
    assert shared.arrived(spec, done, lost=0).status == "failed"
    (Path(spec.runs_dir) / "a_run").mkdir()
    assert shared.arrived(spec, done, lost=1) == RunRecord(
        index=0, arm="well", seed=0, status="done", run="a_run", where="node7", attempts=2
    )
