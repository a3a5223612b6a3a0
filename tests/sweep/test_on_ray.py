"""Runs on Ray: a real cluster of two workers on the loopback, and one that is already there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from deim_lab.errors import ConfigError
from deim_lab.sweep import on_ray
from deim_lab.sweep.on_ray import RayExecutor
from deim_lab.sweep.spec import RunSpec
from moods import CLUSTER, MOODS, check_moods, diary, needs_ray

pytestmark = CLUSTER


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
