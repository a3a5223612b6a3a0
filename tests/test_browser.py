"""JupyterLab and Voilà in a headless browser: a moved slider changes figure and number."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from places import ROOT
from readouts import NUMBERS

NOTEBOOK = ROOT / "notebooks" / "02_mal_vs_vfl.ipynb"


@pytest.fixture
def page(open_in_lab: Callable[[Path], Any], tmp_path: Path) -> Any:
    """Notebook 01 with smoke parameters, in a folder like a checkout, open in the browser, all
    cells run.
    """
    small = tmp_path / "checkout" / "notebooks" / "01_dense_o2o.ipynb"
    small.parent.mkdir(parents=True)
    text = (ROOT / "notebooks" / small.name).read_text(encoding="utf-8")
    small.write_text(
        text.replace('preset = \\"cpu_demo\\"', 'preset = \\"smoke\\"').replace(
            "samples = 256", "samples = 64"
        ),
        encoding="utf-8",
    )
    assert small.read_text(encoding="utf-8").count("smoke") > text.count("smoke")
    tab = open_in_lab(small)
    tab.wait_for_selector(
        ".jp-OutputArea-output .widget-slider, .jp-OutputArea-output "
        ".jp-RenderedText[data-mime-type*='stderr'] .ansi-red-fg",
        state="attached",
        timeout=240_000,
    )
    return tab


# Not slow: the one pass in a browser that `make test` has.
@pytest.mark.browser
def test_a_slider_moves_the_figure_and_its_number(page: Any, tmp_path: Path) -> None:
    panel = page.locator(".jp-OutputArea-output:has(.widget-slider)").last
    panel.scroll_into_view_if_needed()
    picture, readout = (
        panel.locator("img.widget-image"),
        panel.locator(".widget-label", has_text="targets per image"),
    )
    picture.wait_for()
    _wait_for_text(page, readout, "targets")  # what isn't laid out yet has no inner text
    before, number = picture.get_attribute("src"), _mean(readout.inner_text())
    height = panel.bounding_box()["height"]

    panel.locator(".noUi-handle").first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    _wait_for_text(page, panel.locator(".widget-readout").first, "0.70")
    page.wait_for_function(
        "([element, old]) => element.src !== old", arg=[picture.element_handle(), before]
    )
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
    assert (
        page.locator(
            ".jp-Notebook .jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
        ).count()
        == 0
    )
    assert "model not found" not in page.content()


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """Notebook 02 in a folder like a checkout's, without runs."""
    folder = tmp_path / "checkout" / "notebooks"
    folder.mkdir(parents=True)
    (folder / NOTEBOOK.name).write_text(NOTEBOOK.read_text(encoding="utf-8"), encoding="utf-8")
    return folder / NOTEBOOK.name


def moved_by_keyboard(page: Any, panel: Any) -> None:
    """Move γ and IoU of the panel by keyboard; its picture and its numbers have to follow."""
    picture, readout = (
        panel.locator("img.widget-image").first,
        panel.locator(".widget-html-content", has_text="MAL's gradient").first,
    )
    picture.wait_for()
    readout.wait_for()
    _wait_for_text(page, readout, "times VFL's")  # what isn't laid out yet has no inner text
    said = NUMBERS.search(readout.inner_text())
    assert said is not None, readout.inner_text()
    assert said.groups() == ("0.05", "35.53")
    assert "0.011" in readout.inner_text()
    before = picture.get_attribute("src")
    panel.locator(".noUi-handle").nth(0).focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")  # γ from 1.5 to 2.0
    _wait_for_text(page, readout, f"{(0.1 - 0.05**2) / (0.05 * 0.05):.2f} times")
    _wait_for_text(page, readout, "0.003")  # 0.05² = 0.0025
    page.wait_for_function(
        "([element, old]) => element.src !== old", arg=[picture.element_handle(), before]
    )
    between = picture.get_attribute("src")
    panel.locator(".noUi-handle").nth(1).focus()
    page.keyboard.press("End")  # IoU 1
    _wait_for_text(page, readout, "IoU 1.00, MAL's gradient is 1.00 times")
    page.wait_for_function(
        "([element, old]) => element.src !== old", arg=[picture.element_handle(), between]
    )
    assert picture.evaluate("element => element.naturalWidth") > 700
    assert "model not found" not in page.content().lower()


# Slow: JupyterLab, a browser and notebook 02 start.
@pytest.mark.slow
@pytest.mark.browser
def test_in_jupyterlab(open_in_lab: Callable[[Path], Any], notebook: Path, tmp_path: Path) -> None:
    page = open_in_lab(notebook)
    page.wait_for_selector(
        ".jp-OutputArea-output .widget-slider", state="attached", timeout=240_000
    )
    panel = page.locator(".jp-OutputArea-output:has(.widget-slider)").first
    panel.scroll_into_view_if_needed()
    moved_by_keyboard(page, panel)
    assert (
        page.locator(
            ".jp-Notebook .jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
        ).count()
        == 0
    )
    page.screenshot(path=tmp_path / "lab.png")


# Slow: Voilà, a browser and notebook 02 start.
@pytest.mark.slow
@pytest.mark.browser
def test_as_an_app(
    serve: Callable[..., str],
    tab: Any,
    notebook: Path,
    tmp_path: Path,
    absent: Callable[[str], None],
) -> None:
    if importlib.util.find_spec("voila") is None:
        absent("voila is not installed: the extra app has it")
    address = serve(
        [sys.executable, "-m", "voila", "--no-browser", "--Voila.ip=127.0.0.1", str(notebook)],
        notebook.parent,
        "/voila/static/voila.js",
    )
    tab.set_default_timeout(240_000)
    tab.goto(address, wait_until="domcontentloaded")
    tab.wait_for_selector(".widget-slider", state="attached")
    panel = tab.locator(".jp-OutputArea-output:has(.widget-slider)").first
    panel.scroll_into_view_if_needed()
    moved_by_keyboard(tab, panel)
    assert "9 of 9 hold" in tab.content()
    assert tab.locator(".js-plotly-plot").count() == 1
    tab.screenshot(path=tmp_path / "app.png", full_page=True)


def test_the_browser_is_demanded_where_ci_says_so(
    monkeypatch: pytest.MonkeyPatch, absent: Callable[[str], None]
) -> None:
    monkeypatch.delenv("DEIM_LAB_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception):
        absent("no browser")
    monkeypatch.setenv("DEIM_LAB_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception):
        absent("no browser")


def _wait_for_text(page: Any, where: Any, text: str) -> None:
    page.wait_for_function(
        "([element, text]) => element.innerText.includes(text)", arg=[where.element_handle(), text]
    )


def _mean(text: str) -> float:
    found = re.search(r"mean ([\d.]+) targets", text)
    assert found is not None, text
    return float(found.group(1))
