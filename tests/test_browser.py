"""JupyterLab in a real headless browser: open notebook 01, run all, move a slider by keyboard, and the figure and its number change."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
TOKEN = "for-the-test"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync"]


def chromium() -> str:
    """Its path; without one the test is skipped, or fails where CI says that there must be one."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        message = f"no browser found ({', '.join(BROWSERS)})"
        if os.environ.get("DEIM_LAB_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture
def executable() -> str:
    return chromium()


@pytest.fixture
def workplace(tmp_path: Path, executable: str) -> Path:
    """A folder like a checkout: the notebooks, with smoke parameters, under ``notebooks``."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    text = (ROOT / "notebooks" / "01_dense_o2o.ipynb").read_text()
    small = text.replace('preset = \\"cpu_demo\\"', 'preset = \\"smoke\\"').replace("samples = 256", "samples = 64")
    assert small.count("smoke") > text.count("smoke")
    (folder / "01_dense_o2o.ipynb").write_text(small)
    return tmp_path


@pytest.fixture
def lab(workplace: Path, tmp_path: Path) -> Iterator[str]:
    """JupyterLab on the loopback with settings of its own and a kernel of this interpreter; gives its address."""
    home = tmp_path / "jupyter"
    subprocess.run([sys.executable, "-m", "ipykernel", "install", "--prefix", str(home), "--name", "python3"], check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("DEIM_LAB_WIDGETS", "JPY_SESSION_NAME")} | {
        "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"), "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PATH": str(home / "share" / "jupyter"), "OMP_NUM_THREADS": "1"}
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
                               f"--IdentityProvider.token={TOKEN}", "--allow-root", "--LabApp.news_url=", "--LabApp.check_for_updates_class="
                               "jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={workplace}"],
                              cwd=workplace, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5):
                    break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                assert time.monotonic() < deadline, "JupyterLab didn't answer within two minutes"
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


@pytest.fixture
def page(lab: str, executable: str) -> Iterator[Any]:
    """Notebook 01 open in the browser, all cells run."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=executable, headless=True, args=SWITCHES)
        tab = browser.new_page(viewport={"width": 1300, "height": 1000})
        tab.set_default_timeout(120_000)
        tab.goto(f"{lab}/lab/tree/notebooks/01_dense_o2o.ipynb?token={TOKEN}&reset")
        tab.wait_for_selector(".jp-Notebook .jp-Cell")
        # The cells' own "idle" mark shows before a kernel is connected; the status bar tells the truth.
        tab.wait_for_function(r"/\| Idle/.test(document.querySelector('#jp-main-statusbar')?.innerText ?? '')")
        tab.get_by_role("menuitem", name="Run", exact=True).click()
        tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        tab.wait_for_selector(".jp-OutputArea-output .widget-slider, .jp-OutputArea-output .jp-RenderedText[data-mime-type*='stderr'] .ansi-red-fg",
                              state="attached", timeout=240_000)
        yield tab
        browser.close()


def test_a_slider_moves_the_figure_and_its_number(page: Any, tmp_path: Path) -> None:
    panel = page.locator(".jp-OutputArea-output:has(.widget-slider)").last
    panel.scroll_into_view_if_needed()
    picture, readout = panel.locator("img.widget-image"), panel.locator(".widget-label", has_text="targets per image")
    picture.wait_for()
    before, number = picture.get_attribute("src"), _mean(readout.inner_text())
    height = panel.bounding_box()["height"]

    panel.locator(".noUi-handle").first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    _wait_for_text(page, panel.locator(".widget-readout").first, "0.70")
    page.wait_for_function("([element, old]) => element.src !== old", arg=[picture.element_handle(), before])
    page.wait_for_timeout(500)  # the last of four moves
    after = _mean(readout.inner_text())
    assert after > number  # a higher probability of Mosaic, more targets
    assert picture.evaluate("element => element.naturalWidth") > 400
    assert panel.bounding_box()["height"] == height  # the page didn't jump

    panel.locator(".noUi-handle").nth(1).focus()
    page.keyboard.press("End")
    _wait_for_text(page, panel.locator(".widget-readout").nth(1), "1.00")
    page.wait_for_timeout(500)
    assert _mean(readout.inner_text()) > 1.2 * after  # MixUp from 0.5 to 1: a third more
    page.screenshot(path=tmp_path / "lab.png")
    assert page.locator(".jp-Notebook .jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert "model not found" not in page.content()


def _wait_for_text(page: Any, where: Any, text: str) -> None:
    page.wait_for_function("([element, text]) => element.innerText.includes(text)", arg=[where.element_handle(), text])


def _mean(text: str) -> float:
    found = re.search(r"mean ([\d.]+) targets", text)
    assert found is not None, text
    return float(found.group(1))
