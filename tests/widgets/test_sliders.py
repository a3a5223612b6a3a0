"""A move changes data in place and leaks nothing; without a front end the static figure comes."""

from __future__ import annotations

import functools
import gc
import io
import re
import resource
import statistics
import sys
import time
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image

from deim_lab import figures, widgets
from deim_lab.figures import density
from drawn import xs, ys
from readouts import NUMBERS

LruCache = type(functools.lru_cache(len))


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    targets = np.concatenate([draw.integers(1, 9, 200), draw.integers(4, 24, 200)])
    return {
        "variant": np.repeat(["plain", "mosaic"], 200),
        "targets": targets,
        "mosaic": np.repeat([False, True], 200),
        "mixed": np.zeros(400, dtype=bool),
    }


def density_panel(rows: dict[str, np.ndarray]) -> widgets.Panel:
    panel = widgets.dense_density(rows, static=False)
    assert isinstance(panel, widgets.Panel)
    return panel


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


@pytest.fixture(params=["dense_density", "mal_vs_vfl"])
def panel(request: pytest.FixtureRequest, rows: dict[str, np.ndarray]) -> widgets.Panel:
    return density_panel(rows) if request.param == "dense_density" else panel_at()


def moved(panel: widgets.Panel, turn: int) -> None:
    """One move of one slider, to a value that it hasn't."""
    slider = list(panel.sliders.values())[turn % len(panel.sliders)]
    steps = round((slider.max - slider.min) / slider.step)
    place = round((slider.value - slider.min) / slider.step)
    slider.value = slider.min + (place + 3) % (steps + 1) * slider.step


def test_a_move_replaces_picture_and_numbers_on_the_same_figure(panel: widgets.Panel) -> None:
    figure, picture, artists = panel.figure, panel.picture, list(panel.figure.findobj(Artist))
    before = (picture.value, panel.readout.value)
    assert Image.open(io.BytesIO(before[0])).size[0] > 400
    moved(panel, 0)
    moved(panel, 1)
    assert picture.value != before[0]
    assert panel.readout.value != before[1]
    assert panel.figure is figure
    assert panel.picture is picture
    assert len(figure.findobj(Artist)) == len(artists)  # data moved, nothing was drawn anew


def test_moving_back_gives_the_same_picture(panel: widgets.Panel) -> None:
    """Nothing of the earlier state stays in the pixels, which a background that is kept could
    do.
    """
    slider = next(iter(panel.sliders.values()))
    start, before = slider.value, panel.picture.value
    slider.value = slider.max
    slider.value = start
    assert panel.picture.value == before


def test_the_live_picture_is_the_figure(panel: widgets.Panel) -> None:
    """Redrawing the moving artists alone gives what drawing everything gives."""
    moved(panel, 0)
    shown = np.asarray(Image.open(io.BytesIO(panel.picture.value)).convert("L"), dtype=int)
    buffer = io.BytesIO()
    with figures.style.context():
        panel.figure.savefig(buffer, format="png", dpi=panel.figure.dpi)
    whole = np.asarray(Image.open(buffer).convert("L"), dtype=int)
    assert shown.shape == whole.shape
    assert (
        np.abs(shown - whole) > 60
    ).mean() < 0.004  # spines and bars may be drawn in another order


def test_density_slider_shows_the_mixture(rows: dict[str, np.ndarray]) -> None:
    panel = density_panel(rows)
    panel.sliders["mosaic_prob"].value = 0.25
    panel.sliders["mixup_prob"].value = 0.75
    chance = density.mixture(rows, 0.25, 0.75)
    bars = panel.figure.axes[0].containers[0]
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    mean = chance @ np.arange(len(chance))
    assert f"mean {mean:.2f} targets" in panel.readout.value
    plain = density.mixture(rows, 0, 0)
    assert f"{mean / (plain @ np.arange(len(plain))):.2f} times" in panel.readout.value


def test_loss_sliders_show_the_losses_that_train() -> None:
    panel = panel_at()
    panel.sliders["gamma"].value = 2.0
    panel.sliders["iou"].value = 0.3
    lines = {line.get_label(): line for line in panel.figure.axes[0].lines}
    score = xs(lines["MAL"])
    quality = 0.3**2.0
    assert ys(lines["MAL"]) == pytest.approx(
        -quality * np.log(score) - (1 - quality) * np.log(1 - score)
    )
    assert ys(lines["VFL"]) == pytest.approx(0.3 * (-0.3 * np.log(score) - 0.7 * np.log(1 - score)))


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


def drawn_rarely(panel: widgets.Panel, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Draw one move in ``every``; the picture of the others is as large, and new each time."""
    draw = panel._pixels.png
    last, count = draw(), 0

    def png() -> bytes:
        nonlocal last, count
        count += 1
        if count % every == 0:
            last = draw()
        return last + count.to_bytes(4)

    monkeypatch.setattr(panel._pixels, "png", png)


def collected() -> int:
    """Objects that are left after a collection, without matplotlib's caches of limited size."""
    gc.collect()
    for item in gc.get_objects():
        if type(item) is LruCache and str(item.__module__).startswith("matplotlib"):
            item.cache_clear()
    gc.collect()
    return len(gc.get_objects())


def resident_mib() -> float:
    """Memory of this process now; without /proc, the most that it had."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmRSS:\s+(\d+)", status.read_text(encoding="utf-8"))
        assert found is not None
        return int(found.group(1)) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def test_a_thousand_moves_leak_nothing(
    panel: widgets.Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All moves change the data and the page; one in twenty is drawn, for drawing takes longest."""
    drawn_rarely(panel, monkeypatch, every=20)
    for turn in range(60):
        moved(panel, turn)
    objects, artists = collected(), len(panel.figure.findobj(Artist))
    models = len(ipywidgets.Widget.widgets) if hasattr(ipywidgets.Widget, "widgets") else 0
    memory_mib = resident_mib()
    for turn in range(1000):
        moved(panel, turn)
    assert len(panel.figure.findobj(Artist)) == artists
    grown = collected() - objects
    assert grown < 30, f"{grown} objects more after 1000 moves, 50 of them drawn"
    assert (
        len(ipywidgets.Widget.widgets) if hasattr(ipywidgets.Widget, "widgets") else 0
    ) == models
    assert resident_mib() - memory_mib < 10


# Slow: draws a thousand pictures in full.
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
    counted, artists, memory = _figures(), len(panel.figure.findobj(Artist)), resident_mib()
    seconds = []
    for turn in range(1000):
        start = time.perf_counter()
        move(turn)
        seconds.append(time.perf_counter() - start)
    gc.collect()
    assert _figures() == counted
    assert len(panel.figure.findobj(Artist)) == artists
    assert resident_mib() - memory < 20
    assert (
        statistics.median(seconds) < 0.3
    )  # benchmarks/slider_latency.py holds the limit of 0.1 s on a machine of one's own


def _figures() -> int:
    return sum(issubclass(type(item), Figure) for item in gc.get_objects())


def test_without_a_front_end_the_twin_is_returned(
    rows: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JPY_SESSION_NAME", "SERVER_SOFTWARE", "VSCODE_PID", widgets.LIVE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for twin in (
        widgets.dense_density(rows),
        widgets.mal_vs_vfl(),
        widgets.dense_density(rows, static=True),
    ):
        assert isinstance(twin, Figure)
        assert len(figures.numbers(twin)) > 0  # it can be saved as any figure


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JPY_SESSION_NAME", "notebooks/01.ipynb"),
        ("SERVER_SOFTWARE", "voila/0.5.13"),
        (widgets.LIVE_VARIABLE, "live"),
    ],
)
def test_with_a_front_end_the_sliders_are(
    name: str, value: str, rows: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(widgets.LIVE_VARIABLE, raising=False)
    monkeypatch.setenv(name, value)
    assert isinstance(widgets.dense_density(rows), widgets.Panel)


def test_the_variable_decides_and_is_checked(
    rows: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    monkeypatch.setenv(widgets.LIVE_VARIABLE, "static")
    assert isinstance(widgets.dense_density(rows), Figure)
    monkeypatch.setenv(widgets.LIVE_VARIABLE, "on")
    with pytest.raises(ValueError, match="expected live or static"):
        widgets.live()


def test_sliders_span_what_the_losses_take() -> None:
    panel = panel_at()
    assert (panel.sliders["gamma"].min, panel.sliders["gamma"].max) == (0.5, 3)
    assert (panel.sliders["iou"].min, panel.sliders["iou"].max) == (0, 1)
    for name in panel.sliders:
        for end in (panel.sliders[name].min, panel.sliders[name].max):
            panel.sliders[name].value = end  # no end raises


def events(epochs: int, steps: int) -> list[dict[str, object]]:
    """What ``train`` tells its listener over a run of ``epochs`` × ``steps``."""
    told: list[dict[str, object]] = [
        {
            "kind": "start",
            "run": "runs/a",
            "epoch": 0,
            "step": 0,
            "steps": epochs * steps,
            "epochs": epochs,
            "notices": [],
        }
    ]
    for epoch in range(epochs):
        told += [
            {
                "kind": "step",
                "epoch": epoch,
                "step": epoch * steps + step + 1,
                "steps": epochs * steps,
                "loss": 9.0,
                "epochs": epochs,
            }
            for step in range(steps)
        ]
        at = {"epoch": epoch, "step": (epoch + 1) * steps, "epochs": epochs}
        told.append(
            {
                "kind": "train",
                **at,
                "phase": "dense",
                "loss": 8.0,
                "lr_last": 1e-3,
                "targets_per_image": 5.0,
                "loss/class/layer_0": 1.0,
            }
        )
        told.append({"kind": "val", **at, "AP": 0.25, "AP50": 0.5})
    return [*told, {"kind": "done", "run": "runs/a", "best_AP": 0.25, "best_epoch": 0}]


@pytest.mark.parametrize(("epochs", "steps"), [(4, 250), (100, 10), (1000, 1)])
def test_plain_progress_is_short_however_the_steps_fall(
    epochs: int, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = widgets.follow(static=True)
    for event in events(epochs, steps):
        listener(event)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 110  # of a thousand steps
    assert len(lines) >= 2 + min(epochs, 90)
    assert f"{epochs}/{epochs}" in lines[-2]  # the last epoch is never left out
    assert "AP 0.250" in lines[-2]
    assert lines[-1].startswith("done: best AP 0.250 after epoch 1")


def test_live_progress_replaces_one_line_and_one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two displays in all, whatever the number of events; no widget among them."""
    shown: list[object] = []
    replaced: list[object] = []

    class Handle:
        def update(self, item: object) -> None:
            replaced.append(item)

    def display(item: object, display_id: bool) -> Handle:
        shown.append(item)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    listener = widgets.follow(static=False, every_seconds=0.0)
    for event in events(3, 5):
        listener(event)
    assert len(shown) == 2
    assert isinstance(shown[1], Figure)
    assert not [item for item in [*shown, *replaced] if isinstance(item, ipywidgets.Widget)]
    assert repr(replaced[-1]).startswith("done: best AP 0.250")
    assert figures.numbers(shown[1])["epoch"].notna().any()
    assert any("epoch 3/3, step 15/15" in repr(item) for item in replaced)
