"""Runs as tasks of a Ray cluster: one task a run, GPUs or fractions of one as a resource, Ray's
scheduler as the queue.

Without an address, a cluster of this machine alone is started (loopback, no dashboard, no usage
statistics) and stopped in the end. A cluster at an address needs this package on every node and a
file system that all share (``shared``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deim_lab.errors import ConfigError
from deim_lab.host.optional import require
from deim_lab.sweep.shared import (
    LIVES,
    arrived,
    check_counts,
    children_with,
    died,
    kill_all,
    run_on_node,
)
from deim_lab.sweep.spec import Failure, RunRecord, RunSpec, failed

GRACE_SECONDS = 10.0  # that a run gets to end its kernel before its worker is killed
REACH_SECONDS = 5.0  # in which a cluster's port has to answer
STARTS = 3  # times that a cluster of this machine is started which doesn't come up
STORE_BYTES = 80 * 2**20  # of Ray's object store, which holds specifications and records alone

# Read by Ray when it is imported or started. The second is what keeps a cluster of one machine on
# the loopback on Linux too, as it is elsewhere by default: Ray replaces a ``_node_ip_address`` of
# 127.0.0.1 by the machine's address otherwise.
_LOCAL_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayExecutor:
    """An ``Executor`` over Ray.

    Attributes:
        address: of a running cluster (``host:port``, ``ray://host:port``, ``auto``); None: one of
            this machine, for this sweep alone.
        workers: runs at once, at most; those that find no room on the cluster wait in Ray's queue.
        gpus_per_run: GPUs of a run that asks for none itself. A fraction shares one: with 0.25,
            four runs a GPU.
        cpus_per_run: CPU cores that Ray counts for a run.

    Raises:
        ConfigError: a number out of range.
    """

    address: str | None = None
    workers: int = 1
    gpus_per_run: float = 0.0
    cpus_per_run: int = 1

    def __post_init__(self) -> None:
        check_counts(workers=self.workers, cpus_per_run=self.cpus_per_run)
        _check_gpus(self.gpus_per_run)

    def execute(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """One record a spec, as runs end. Raises ``ConfigError`` where Ray is absent, not
        reachable, or has no such GPUs.
        """
        for spec in specs:
            _check_gpus(spec.gpus)
        ray = extra_ray(local=self.address is None)
        with _connected(ray, self):
            _check_room(
                ray,
                max((self._gpus(spec) for spec in specs), default=0.0),
                local=self.address is None,
            )
            yield from self._run(ray, specs)

    def _run(self, ray: Any, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        task = ray.remote(run_on_node)
        waiting = deque((spec, 0) for spec in specs)  # with the number of workers that it has lost
        flying: dict[Any, tuple[RunSpec, int]] = {}
        try:
            while waiting or flying:
                while waiting and len(flying) < self.workers:
                    spec, lost = waiting.popleft()
                    wanted = task.options(
                        num_cpus=self.cpus_per_run,
                        num_gpus=self._gpus(spec),
                        max_retries=0,
                        name=f"deim-lab {spec.label}",
                    )
                    flying[wanted.remote(spec)] = spec, lost
                ready, _ = ray.wait(list(flying), num_returns=1, timeout=1.0)
                for reference in ready:
                    spec, lost = flying.pop(reference)
                    try:
                        record = arrived(spec, ray.get(reference), lost)
                    except (
                        ray.exceptions.RayTaskError
                    ) as error:  # run_one never raises: the node can't even load it
                        record = failed(
                            spec,
                            Failure(type(error.cause).__name__, str(error.cause), str(error)),
                            attempts=lost + 1,
                        )
                    except ray.exceptions.RayError as error:
                        reason = str(error).strip().splitlines()[0]
                        if lost + 1 < LIVES:
                            _log.warning(
                                "%s: its worker died (%s); started again", spec.label, reason
                            )
                            waiting.appendleft((spec, lost + 1))
                            continue
                        record = died(spec, reason)
                    yield record
        finally:
            _cancel(ray, list(flying))

    def _gpus(self, spec: RunSpec) -> float:
        return spec.gpus or self.gpus_per_run


def extra_ray(*, local: bool) -> Any:
    """The module ``ray``; ``local``: told to stay on this machine and to itself, unless the
    environment says otherwise.
    """
    for name, value in _LOCAL_ENVIRONMENT.items() if local else ():
        os.environ.setdefault(name, value)
    return require("ray", extra="ray", purpose="The sweep executor 'ray'")


@contextlib.contextmanager
def _connected(ray: Any, executor: RayExecutor) -> Iterator[None]:
    """Connect to the cluster, or start one; in the end disconnect, or stop it and remove its
    files.
    """
    if ray.is_initialized():
        raise ConfigError(
            "this process is connected to a Ray cluster already: call ray.shutdown() first"
        )
    quiet: Mapping[str, Any] = {"log_to_driver": False, "configure_logging": False}
    folder = None
    try:
        if executor.address is None:
            folder = tempfile.mkdtemp(
                prefix="deim-ray-"
            )  # of our own: the default one may belong to another user
            _start(
                ray,
                folder,
                num_cpus=executor.workers * executor.cpus_per_run,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                object_store_memory=STORE_BYTES,
                **quiet,
            )
            listens = str(ray.nodes()[0]["NodeManagerAddress"])
            if not listens.startswith("127."):
                _log.warning(
                    "Ray was imported before the sweep could tell it to stay on the loopback: it "
                    "listens on %s",
                    listens,
                )
        else:
            _check_reachable(executor.address)
            try:
                ray.init(address=executor.address, **quiet)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise ConfigError(
                    f"no Ray cluster answers at {executor.address!r}: {error}"
                ) from error
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            kill_all(children_with(folder))
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, folder: str, **options: Any) -> None:
    """Start a cluster of this machine, with its files in ``folder``.

    Ray's agents have 15 seconds to come up, and no option gives them more: a busy machine may need
    several tries. What failed is ended.
    """
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(address="local", _temp_dir=folder, **options)
            return
        except Exception as error:  # of no type of its own
            ray.shutdown()
            kill_all(children_with(folder))
            if attempt == STARTS:
                raise ConfigError(
                    f"Ray does not start on this machine, tried {STARTS} times (too busy?): {error}"
                ) from error
            _log.warning("Ray did not start: %s Trying again", error)


def _check_reachable(address: str) -> None:
    """Where nothing listens, Ray tries for minutes before it says so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", which Ray looks up at once, and what it refuses by itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"no Ray cluster answers at {address!r}: {error}") from error


def _check_room(ray: Any, gpus: float, *, local: bool) -> None:
    """A task that fits on no node would wait for ever without a word."""
    most = max(
        (node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0
    )
    if gpus <= most:
        return
    if local:
        raise ConfigError(f"a run asks for {gpus:g} GPUs, and Ray finds {most:g} on this machine")
    _log.warning(
        "a run asks for %g GPUs, and the largest node of the Ray cluster has %g: it waits until "
        "another one joins",
        gpus,
        most,
    )


def _check_gpus(gpus: float) -> None:
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise ConfigError(
            f"gpus_per_run {gpus!r}: expected 0, a fraction of one GPU such as 0.25, or a whole "
            f"number"
        )


def _cancel(ray: Any, references: list[Any]) -> None:
    """Stop the tasks: first as Ctrl-C does, so that each ends its kernel, then by force."""
    for force in (False, True):
        for reference in references:
            ray.cancel(reference, force=force)
        if references:
            _, references = ray.wait(references, num_returns=len(references), timeout=GRACE_SECONDS)
