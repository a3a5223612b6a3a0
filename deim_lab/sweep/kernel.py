"""Execute a notebook in a kernel of this interpreter, on a private channel.

The kernel ends with its run. Kernels that start at the same time on TCP sometimes choose the
same port. Here each kernel uses Unix sockets in its own folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# environment variable: the folder of a worker's kernel. The kernel's process id is written there,
# so that another process can end the kernel.
FOLDER = "DEIM_LAB_KERNEL_FOLDER"
PID_FILE = "kernel.pid"

# characters; the system's limit on the path of a Unix socket is 104 (macOS) or 108 (Linux)
_LONGEST_SOCKET = 100
_ARGUMENTS = ("-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}")
_ENVIRONMENT = {"DEIM_LAB_WIDGETS": "static"}  # no user: plain lines and pictures


@dataclass(frozen=True)
class Channel:
    """A private folder for the connection of one kernel."""

    folder: Path

    @property
    def connection_file(self) -> Path:
        return self.folder / "kernel.json"

    @property
    def transport(self) -> str:
        """``ipc``; ``tcp`` without Unix sockets or if the folder's path is too long for one."""
        fits = len(str(self.folder.resolve() / "kernel-ipc-5")) <= _LONGEST_SOCKET
        return "ipc" if fits and sys.platform != "win32" else "tcp"


@contextlib.contextmanager
def private_channel() -> Iterator[Channel]:
    """A channel for one kernel. Its folder is removed at the end.

    The folder is made in the one that the variable ``FOLDER`` names, else in the system's
    temporary folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="deim-", dir=os.environ.get(FOLDER)))
    try:
        yield Channel(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def execute(
    notebook: str | Path,
    target: str | Path,
    *,
    parameters: Mapping[str, Any],
    cwd: str | Path,
    **options: Any,
) -> None:
    """Execute a notebook into ``target``, in a new kernel of this interpreter.

    The kernel has a private channel. At the end the kernel and every process that it started are
    ended. ``options`` are those of ``papermill.execute_notebook``.
    """
    import papermill

    started: list[int] = []
    try:
        with private_channel() as channel:
            papermill.execute_notebook(
                _as_template(notebook),
                _as_template(target),
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                log_output=False,
                cwd=str(cwd),
                kernel_manager_class=manager_class(channel, started),
                **options,
            )
    finally:
        for pid in started:
            kill_group(pid)


def _as_template(path: str | Path) -> str:
    """A path with its braces escaped: papermill fills in names between braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def manager_class(channel: Channel, started: list[int]) -> type[Any]:
    """A kernel manager for ``nbclient`` that starts this interpreter on ``channel``.

    It appends the kernel's process id to ``started``.
    """

    class Manager(_bare_manager()):  # type: ignore[misc]
        def __init__(self, **values: Any) -> None:
            super().__init__(
                **values, connection_file=str(channel.connection_file), transport=channel.transport
            )

        async def _async_launch_kernel(self, kernel_cmd: list[str], **values: Any) -> None:
            values["env"] = {**values.get("env", os.environ), **_ENVIRONMENT}
            await super()._async_launch_kernel(kernel_cmd, **values)
            started.append(int(self.provisioner.process.pid))
            if FOLDER in os.environ:
                (Path(os.environ[FOLDER]) / PID_FILE).write_text(str(started[-1]), encoding="utf-8")

        _launch_kernel = _async_launch_kernel

    return Manager


def kill_group(pid: int) -> None:
    """End a kernel and every process that it started. Ignores processes that have ended."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # a kernel leads its own process group


def kill_noted(folder: Path) -> None:
    """End the kernel that a dead worker noted in ``folder``."""
    with contextlib.suppress(OSError, ValueError):
        kill_group(int((folder / PID_FILE).read_text(encoding="utf-8")))


@cache
def _bare_manager() -> type[Any]:
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            """This interpreter. Ignores the user's own kernel specification named python3."""
            return KernelSpec(
                argv=[sys.executable, *_ARGUMENTS], display_name="Python 3", language="python"
            )

    return Manager
