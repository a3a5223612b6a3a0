"""Execute runs as tasks of a Ray cluster, with GPUs or fractions of a GPU as a resource.

Each run is one task, and Ray's scheduler is the queue. Without an address, a cluster of only this
machine is started (loopback, no dashboard, no usage statistics) and stopped at the end. A cluster
at an address needs this package on every node and a shared file system (``shared``).
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

GRACE_SECONDS = 10.0  # time for a run to end its kernel, before its worker is killed
REACH_SECONDS = 5.0  # within which a cluster's port must answer
STARTS = 3  # attempts to start a cluster of this machine
STORE_BYTES = 80 * 2**20  # size of Ray's object store, which holds only specifications and records

# Ray reads these variables when it is imported or started. The second one keeps a cluster of one
# machine on the loopback on Linux, as is Ray's default on other systems. Without it, Ray replaces
# a ``_node_ip_address`` of 127.0.0.1 by the machine's address.
_LOCAL_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayExecutor:
    """An ``Executor`` that uses Ray.

    Attributes:
        address: address of a running cluster (``host:port``, ``ray://host:port``, ``auto``); None:
            start a cluster on this machine, only for this sweep.
        workers: maximum number of runs at once. Runs wait in Ray's queue while the cluster is
            full.
        gpus_per_run: GPUs of a run that requests none itself. A fraction shares a GPU: with 0.25,
            four runs share one.
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
        """Yield one record per spec, when its run ends.

        Raises ``ConfigError`` if Ray is absent, not reachable, or lacks the requested GPUs.
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
        waiting = deque((spec, 0) for spec in specs)  # each with its number of lost workers
        flying: dict[Any, tuple[RunSpec, int]] = {}
        try:
            while waiting or flying:
                while waiting and len(flying) < self.workers:
                    spec, lost = waiting.popleft()
                    sized_task = task.options(
                        num_cpus=self.cpus_per_run,
                        num_gpus=self._gpus(spec),
                        max_retries=0,
                        name=f"deim-lab {spec.label}",
                    )
                    flying[sized_task.remote(spec)] = spec, lost
                ready, _ = ray.wait(list(flying), num_returns=1, timeout=1.0)
                for reference in ready:
                    spec, lost = flying.pop(reference)
                    try:
                        record = arrived(spec, ray.get(reference), lost)
                    except ray.exceptions.RayTaskError as error:
                        # run_one never raises, so the node can't load this package.
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
    """Import the module ``ray``.

    ``local``: keep Ray on this machine and send no usage statistics, unless the environment
    variables are set otherwise.
    """
    for name, value in _LOCAL_ENVIRONMENT.items() if local else ():
        os.environ.setdefault(name, value)
    return require("ray", extra="ray", purpose="The sweep executor 'ray'")


@contextlib.contextmanager
def _connected(ray: Any, executor: RayExecutor) -> Iterator[None]:
    """Connect to the cluster, or start one; disconnect or stop it at the end.

    The files of a cluster that was started here are removed.
    """
    if ray.is_initialized():
        raise ConfigError(
            "this process is already connected to a Ray cluster. Call ray.shutdown() first"
        )
    quiet: Mapping[str, Any] = {"log_to_driver": False, "configure_logging": False}
    folder = None
    try:
        if executor.address is None:
            # Ray's default folder may belong to another user.
            folder = tempfile.mkdtemp(prefix="deim-ray-")
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
                    "Ray listens on %s instead of the loopback, because it was imported before the "
                    "sweep set its environment variables",
                    listens,
                )
        else:
            _check_reachable(executor.address)
            try:
                ray.init(address=executor.address, **quiet)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise ConfigError(
                    f"no Ray cluster answers at {executor.address!r} ({error}). Check the address, "
                    f"or start a cluster"
                ) from error
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            kill_all(children_with(folder))
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, folder: str, **options: Any) -> None:
    """Start a cluster of this machine, with its files in ``folder``.

    Ray's agents have 15 seconds to start, and no option gives them more. A busy machine may need
    several tries. The processes of a failed try are ended.
    """
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(address="local", _temp_dir=folder, **options)
            return
        except Exception as error:  # Ray has no specific type for this error
            ray.shutdown()
            kill_all(children_with(folder))
            if attempt == STARTS:
                raise ConfigError(
                    f"Ray does not start on this machine, tried {STARTS} times. The machine may be "
                    f"too busy: {error}"
                ) from error
            _log.warning("Ray did not start, trying again: %s", error)


def _check_reachable(address: str) -> None:
    """Raise ``ConfigError`` if nothing listens at ``address``. Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", which Ray looks up at once, or an address that Ray itself refuses
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address!r} ({error}). Check the address, or start a "
            f"cluster"
        ) from error


def _check_room(ray: Any, gpus: float, *, local: bool) -> None:
    """Raise or warn if no node has enough GPUs; Ray would let the task wait without a message."""
    most = max(
        (node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0
    )
    if gpus <= most:
        return
    if local:
        raise ConfigError(f"a run requests {gpus:g} GPUs, but Ray finds {most:g} on this machine")
    _log.warning(
        "a run requests %g GPUs, but the largest node of the Ray cluster has %g. The run waits "
        "until a larger node joins",
        gpus,
        most,
    )


def _check_gpus(gpus: float) -> None:
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise ConfigError(
            f"gpus_per_run {gpus!r} is wrong. Expected 0, a fraction of one GPU such as 0.25, or a "
            f"whole number"
        )


def _cancel(ray: Any, references: list[Any]) -> None:
    """Stop the tasks: first as Ctrl-C does, so that each task ends its kernel, then by force."""
    for force in (False, True):
        for reference in references:
            ray.cancel(reference, force=force)
        if references:
            _, references = ray.wait(references, num_returns=len(references), timeout=GRACE_SECONDS)
