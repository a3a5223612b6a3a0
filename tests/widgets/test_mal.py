"""MAL against VFL under one's fingers: the widget's numbers, its thousand moves, notebook 02
executed, in JupyterLab and as an app.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from deim_lab import config as configs, widgets
from deim_lab.config import presets
from deim_lab.data import coco
from deim_lab.runs import Run
from deim_lab.sweep.kernel import execute
from drawn import xs, ys
from places import ROOT

NOTEBOOK = ROOT / "notebooks" / "02_mal_vs_vfl.ipynb"
NUMBERS = re.compile(
    r"At score 0\.1 and IoU ([\d.]+), MAL's gradient is (-?[\d.]+|inf) times VFL's"
)

Json = Any


def panel_at(**setting: float) -> widgets.Panel:
    panel = widgets.mal_vs_vfl(static=False)
    assert isinstance(panel, widgets.Panel)
    for name, value in setting.items():
        panel.sliders[name].value = value
    return panel


def rows_of(panel: widgets.Panel) -> dict[str, list[str]]:
    cells = [
        re.findall(r"<td>(.*?)</td>", row)
        for row in re.findall(r"<tr>(<td>.*?)</tr>", panel.readout.value)
    ]
    return {row[0]: row[1:] for row in cells}


def text_of(panel: widgets.Panel) -> str:
    return re.sub(r"<.*?>", "", panel.readout.value)


def numbers_of(panel: widgets.Panel) -> tuple[str, ...]:
    found = NUMBERS.search(text_of(panel))
    assert found is not None
    return found.groups()


def test_the_numbers_follow_the_sliders() -> None:
    panel = panel_at(gamma=1.5, iou=0.05)
    assert numbers_of(panel) == ("0.05", f"{(0.1 - 0.05**1.5) / (0.05 * 0.05):.2f}")
    assert rows_of(panel) == {
        "VFL": ["0.050", "0.0025", f"{0.75 * 0.1**3:.4f}"],
        "MAL": ["0.011", f"{0.1 - 0.05**1.5:.4f}", f"{0.1**2.5:.4f}"],
    }
    panel.sliders["gamma"].value = 2.0
    panel.sliders["iou"].value = 0.3
    assert numbers_of(panel) == ("0.30", f"{0.01 / (0.3 * -0.2):.2f}")
    assert rows_of(panel)["MAL"][0] == "0.090"
    panel.sliders["iou"].value = 0.0
    assert "inf times" in text_of(panel)  # a match of IoU 0 has no weight under VFL
    panel.sliders["iou"].value = 1.0
    assert "1.00 times" in text_of(panel)


def test_alpha_moves_the_negatives_of_mal_alone() -> None:
    panel = panel_at()
    lines = [
        {line.get_label(): line for line in ax.lines if len(xs(line)) > 2}
        for ax in panel.figure.axes
    ]
    before = [
        {name: ys(line).copy() for name, line in panel_lines.items()} for panel_lines in lines
    ]
    panel.sliders["alpha"].value = 0.4
    for place, panel_lines in enumerate(lines):
        for name, line in panel_lines.items():
            factor = 0.4 if place >= 2 and name == "MAL" else 1.0
            assert ys(line) == pytest.approx(factor * before[place][name]), (
                place,
                name,
            )


def test_a_switch_adds_and_removes_a_loss() -> None:
    panel = panel_at()
    assert list(rows_of(panel)) == ["VFL", "MAL"]
    before = panel.picture.value
    panel.switches["focal"].value = True
    assert list(rows_of(panel)) == ["focal", "VFL", "MAL"]
    assert panel.picture.value != before
    panel.switches["focal"].value = False
    assert panel.picture.value == before
    for switch in panel.switches.values():
        switch.value = False  # nothing left to show, nothing raised
    assert rows_of(panel) == {}
    assert not [
        line
        for ax in panel.figure.axes
        for line in ax.lines
        if line.get_visible() and line.get_label() in ("VFL", "MAL", "focal")
    ]


def test_the_twin_shows_the_same_setting() -> None:
    twin = widgets.mal_vs_vfl(gamma=2.0, iou=0.3, alpha=0.5, static=True)
    assert isinstance(twin, Figure)
    panel = panel_at(gamma=2.0, iou=0.3, alpha=0.5)
    for still, live in zip(twin.axes, panel.figure.axes, strict=True):
        drawn = {line.get_label(): ys(line) for line in live.lines if line.get_visible()}
        for line in still.lines:
            if line.get_label() in ("VFL", "MAL"):
                assert ys(line) == pytest.approx(drawn[line.get_label()])


def _resident_mib() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("resident memory is read from /proc")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text(encoding="utf-8"))
    assert found is not None
    return int(found.group(1)) / 1024


@pytest.mark.slow
def test_a_thousand_moves_of_everything_leak_nothing() -> None:
    """Sliders and switches in turn: memory stays, figures and artists stay, and a move is quick
    (the median, on a machine that may be busy).
    """
    panel = panel_at()
    sliders, switches = list(panel.sliders.values()), list(panel.switches.values())

    def move(turn: int) -> None:
        if turn % 10 == 9:
            switches[turn // 10 % len(switches)].value ^= True
            return
        slider = sliders[turn % len(sliders)]
        slider.value = slider.min + (slider.max - slider.min) * (turn * 7 % 19) / 18

    for turn in range(100):
        move(turn)
    gc.collect()
    counted, artists, memory = _figures(), len(panel.figure.findobj(Artist)), _resident_mib()
    seconds = []
    for turn in range(1000):
        start = time.perf_counter()
        move(turn)
        seconds.append(time.perf_counter() - start)
    gc.collect()
    assert _figures() == counted
    assert len(panel.figure.findobj(Artist)) == artists
    assert _resident_mib() - memory < 20
    assert (
        statistics.median(seconds) < 0.3
    )  # benchmarks/slider_latency.py holds the limit of 0.1 s on a machine of one's own


def _figures() -> int:
    return sum(issubclass(type(item), Figure) for item in gc.get_objects())


# --- notebook 02
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, one of each loss, as far as notebook 02 reads them."""
    root = tmp_path_factory.mktemp("runs")
    train_set, val_set = coco.open_source(coco.resolve("embedded", cache_dir=root / "data"))
    truth = json.loads(val_set.annotations_path.read_text(encoding="utf-8"))["annotations"]
    for kind, shift in (("mal", 0.3), ("vfl", 0.6)):
        config = presets.preset("smoke", {"loss.classification": kind})
        run = Run.start(
            root,
            config,
            seed=0,
            data={
                "name": train_set.name,
                "fingerprint": coco.joint_fingerprint(train_set, val_set),
            },
            overrides=configs.diff(presets.preset("smoke"), config),
        )
        for epoch in (0, 1):
            run.log(
                "train",
                epoch=epoch,
                step=10 * epoch,
                matched_iou_histogram=[float(20 - bin + 30 * epoch * bin) for bin in range(20)],
            )
            run.log(
                "val",
                epoch=epoch,
                step=10 * epoch,
                AP=0.1 + epoch / 10,
                AP50=0.2,
                best_f1=0.6,
                best_f1_threshold=shift,
            )
            run.save_detections(
                "best",
                [  # the second epoch's AP is the higher one
                    {key: item[key] for key in ("image_id", "category_id", "bbox")}
                    | {"score": shift + 0.001 * (number % 300) * (epoch + 1) / 2}
                    for number, item in enumerate(truth)
                    if number % (3 - epoch)
                ],
            )
        run.finish()
    return root


@pytest.fixture(scope="module")
def kernel(
    own_kernel: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A kernel of this interpreter, and no front end in the environment."""
    with own_kernel(tmp_path_factory.mktemp("jupyter")):
        yield


def executed(target: Path, **parameters: Json) -> tuple[str, int, list[str]]:
    """Printed text, number of pictures and kinds of outputs of notebook 02."""
    pytest.importorskip("papermill")
    execute(NOTEBOOK, target, parameters=parameters, cwd=target.parent)
    outputs = [
        output
        for cell in json.loads(target.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
    ]
    said = "".join(
        "".join(output["text"]) for output in outputs if output["output_type"] == "stream"
    )
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert target.stat().st_size < 1_200_000
    return said, kinds.count("image/png"), kinds


@pytest.mark.slow
def test_notebook_without_runs_says_so_and_goes_on(tmp_path: Path, kernel: None) -> None:
    said, pictures, kinds = executed(tmp_path / "02.ipynb", runs_dir=str(tmp_path / "none"))
    assert "No finished run" in said
    assert "9 of 9 hold" in said
    assert "γ = 1.5" in said
    assert pictures == 8
    assert not [kind for kind in kinds if "widget" in kind or "plotly" in kind]
    saved = {
        path.stem
        for path in (tmp_path / "none" / "figures" / "02_mal_vs_vfl_cpu_demo").glob("*.csv")
    }
    assert {
        "paper_panels",
        "overview",
        "gradient_ratio",
        "minima",
        "gamma",
        "surface_gradient",
        "surface_loss",
    } <= saved


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False], ids=["runs given", "runs found"])
def test_notebook_with_two_runs(trained: Path, tmp_path: Path, kernel: None, named: bool) -> None:
    folders = sorted(str(path.parent) for path in trained.glob("*/run.json"))
    assert len(folders) == 2
    said, pictures, _ = executed(
        tmp_path / "02.ipynb",
        runs_dir=str(trained),
        runs=folders if named else None,
        preset="smoke",
        overrides={"loss.gamma": 2.0},
    )
    assert "trained with mal" in said
    assert "trained with vfl" in said
    assert "(γ = 2)" in said
    assert pictures == 11  # two runs' matches, and their F1
    table = pd.read_csv(trained / "figures" / "02_mal_vs_vfl_smoke" / "f1_over_thresholds.csv")
    assert table["run"].nunique() == 2
    assert (table["best_f1"] > table["f1_at_fixed"]).any()  # the run of the low scores, cut at 0.5


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


def _wait_for_text(page: Any, where: Any, text: str) -> None:
    page.wait_for_function(
        "([element, text]) => element.innerText.includes(text)", arg=[where.element_handle(), text]
    )


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
