"""Shared by the tests: a kernel of this interpreter; where a browser is, and servers on the
loopback with settings and a kernel of their own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ipykernel import kernelspec
from jaxtyping import install_import_hook

import shapes

install_import_hook(shapes.CHECKED, "shapes.typechecker")

TOKEN = "for-the-test"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what a test caches out of the user's folder, also in processes that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEIM_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@contextlib.contextmanager
def _own_kernel(home: Path) -> Iterator[None]:
    kernelspec.install(prefix=str(home), kernel_name="python3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(home / "share" / "jupyter"))
        patch.setenv("IPYTHONDIR", str(home / "ipython"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("JPY_SESSION_NAME", "DEIM_LAB_WIDGETS", "VSCODE_PID", "SERVER_SOFTWARE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def own_kernel() -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """``with own_kernel(folder):`` "python3" is a kernel of this interpreter, installed there, and
    no front end is in the environment.
    """
    return _own_kernel


@pytest.fixture
def absent() -> Callable[[str], None]:
    """``absent(what)`` skips the test for want of a program, or fails where CI says that it must be
    there.
    """

    def stop(what: str) -> None:
        if os.environ.get("DEIM_LAB_REQUIRE_BROWSER"):
            pytest.fail(what)
        pytest.skip(what)

    return stop


@pytest.fixture
def executable(absent: Callable[[str], None]) -> str:
    """Path of the browser."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        absent(f"no browser found ({', '.join(BROWSERS)})")
    return str(found)


@pytest.fixture
def tab(executable: str) -> Iterator[Any]:
    """An empty page of a headless browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=executable, headless=True, args=SWITCHES)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(120_000)
        yield page
        browser.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """``serve(command, folder, probe)`` starts ``command + ["--port=…"]`` in ``folder``, waits
    until ``probe`` answers, gives the address.
    """
    home = tmp_path / "jupyter"
    with _own_kernel(home):
        environment = os.environ | {
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
        }
    with contextlib.ExitStack() as started:

        def start(command: list[str], folder: Path, probe: str = "/", **more: str) -> str:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            path = tmp_path / f"server-{port}.log"
            log = started.enter_context(path.open("w", encoding="utf-8"))
            server = subprocess.Popen(
                [*command, f"--port={port}"],
                cwd=folder,
                env=environment | more,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            started.callback(_stop, server)
            _wait(f"http://127.0.0.1:{port}{probe}", server, path)
            return f"http://127.0.0.1:{port}"

        yield start


@pytest.fixture
def open_in_lab(serve: Callable[..., str], tab: Any) -> Callable[[Path], Any]:
    """``open_in_lab(notebook)`` opens it in JupyterLab, rooted in the folder above its own, and
    starts all cells; gives the page.
    """

    def open_all(notebook: Path) -> Any:
        root = notebook.parents[1]
        lab = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--ip=127.0.0.1",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={TOKEN}",
            "--allow-root",
            "--LabApp.news_url=",
            f"--ServerApp.root_dir={root}",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        address = serve(lab, root, f"/api?token={TOKEN}")
        tab.goto(f"{address}/lab/tree/{notebook.relative_to(root)}?token={TOKEN}&reset")
        tab.wait_for_selector(".jp-Notebook .jp-Cell")
        # The cells' own "idle" mark shows before a kernel is connected; the status bar tells the
        # truth.
        tab.wait_for_function(
            r"/\| Idle/.test(document.querySelector('#jp-main-statusbar')?.innerText ?? '')"
        )
        tab.get_by_role("menuitem", name="Run", exact=True).click()
        tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        return tab

    return open_all


def _wait(address: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=seconds):
                return
        except OSError:
            time.sleep(0.5)
        assert server.poll() is None, log.read_text(encoding="utf-8")
        said = log.read_text(encoding="utf-8")[-2000:]
        assert time.monotonic() < deadline, (
            f"{address} didn't answer within {seconds:.0f} s\n{said}"
        )


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
