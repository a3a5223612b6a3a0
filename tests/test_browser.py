"""JupyterLab in a real headless browser: open notebook 01, run all, move a slider by keyboard, and
the figure and its number change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from places import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


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


def _wait_for_text(page: Any, where: Any, text: str) -> None:
    page.wait_for_function(
        "([element, text]) => element.innerText.includes(text)", arg=[where.element_handle(), text]
    )


def _mean(text: str) -> float:
    found = re.search(r"mean ([\d.]+) targets", text)
    assert found is not None, text
    return float(found.group(1))
