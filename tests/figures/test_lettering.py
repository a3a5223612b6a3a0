"""Text of data in figures: dollars, scripts that the paper's font lacks, signs without any font."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from deim_lab.detections import Detections
from deim_lab.figures import detections, lettering, losses, style, training

MONEY = ("bill_$5_or_$10_", "$1 and $2", "US$ note", r"\$x^2$", "$$", "a$b_{c$", "100 % #1 & {x}")
PRIVATE = "\ue000"  # in STIXNonUnicode, a font that matplotlib brings, and not in DejaVu Sans


def shown(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.findobj(Text) if isinstance(text, Text)]


def drawn(fig: Figure) -> list[str]:
    """Draw a figure with all warnings as errors; its texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig.canvas.draw()
    return shown(fig)


def predicted(names: tuple[str, ...]) -> Figure:
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5, 40, 40], [20.0, 20, 60, 60]])
    labels = torch.tensor([0, 1])
    found = [Detections(torch.tensor([0.9, 0.8]), labels, boxes)]
    return detections.predictions([image], found, [(boxes, labels)], names, 0.3)


@pytest.mark.parametrize("name", MONEY)
def test_dollars_in_names_are_text(name: str, tmp_path: Path) -> None:
    fig = predicted((name, f"other {name}"))
    style.save(fig, tmp_path / "fig", pd.DataFrame())
    texts = [text for text in fig.findobj(Text) if isinstance(text, Text)]
    assert any(name in text.get_text() for text in texts)
    assert not [text for text in texts if text.get_parse_math() and "$" in text.get_text()]


def test_dollars_are_text_on_axes_of_the_user() -> None:
    fig = Figure()
    FigureCanvasAgg(fig)
    left, right = fig.subplots(1, 2)
    right.set_title("$x^2$")
    for ax in (left, right):
        style.canvas(ax)
        ax.set_ylabel("$5_or_$10_")
        ax.set_yticks([0, 1], ["US$ a_$", "$b_"])
    left.set_title("$5_or_$10_")
    drawn(fig)
    assert right.title.get_parse_math()  # the user's own formula
    assert not left.title.get_parse_math()
    ticks = [label for ax in (left, right) for label in ax.get_yticklabels()]
    assert len(ticks) == 4
    assert not any(label.get_parse_math() for label in ticks)


def test_logarithmic_axes_show_numbers_not_formulas() -> None:
    rows = [
        {"kind": "train", "epoch": epoch, "loss": 1.0, "loss/class/0": 3.0, "loss/l1/0": 0.05}
        for epoch in range(2)
    ]
    for fig in (losses.ratio(), training.loss_terms(pd.DataFrame(rows))):
        texts = drawn(fig)
        assert "0.1" in texts
        assert "1" in texts
        assert not [text for text in texts if "mathdefault" in text]


def test_an_installed_font_draws_what_the_papers_font_lacks() -> None:
    with style.context():
        fig = style.figure()
        fig.add_subplot().set_title(f"class {PRIVATE}")
    texts = drawn(fig)
    assert f"class {PRIVATE}" in texts
    (title,) = [
        text for text in fig.findobj(Text) if isinstance(text, Text) and PRIVATE in text.get_text()
    ]
    assert title.get_fontfamily() == ["sans-serif", "STIXNonUnicode"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("\U000f0001 cell", "\\U000f0001 cell"),  # no font has it
        ("half \ud83d", "half \\ud83d"),  # half of a pair, as json.loads may give it
        ("tab\tbell\a", "tab bell "),
        ("two\nlines", "two\nlines"),
        ("é ß γ Ж", "é ß γ Ж"),  # the paper's font has them
        ("joined\u200d\ufe0f", "joined\u200d\ufe0f"),
    ],
)
def test_signs_without_a_font_are_written_as_codes(name: str, expected: str) -> None:
    with style.context():
        fig = style.figure()
        fig.add_subplot().set_xlabel(name)
    assert expected in drawn(fig)


def test_chinese_names_are_drawn_or_written_as_codes() -> None:
    """Whether this machine has a font for them or not: no warning, and no box for a sign."""
    texts = "".join(drawn(predicted(("细胞", "日本語"))))
    has_font = bool(lettering._fonts_for(frozenset("细胞")))
    assert ("细胞" if has_font else "\\u7ec6\\u80de") in texts


def test_the_font_with_most_signs_is_taken_and_preferred_ones_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fonts = {"Few": "细", "Most": "细胞", "Noto Sans CJK": "细胞", "Greek": "α"}
    installed = tuple((name, name) for name in ("Noto Sans CJK", "Few", "Greek", "Most"))
    monkeypatch.setattr(lettering, "_installed", lambda: installed)
    monkeypatch.setattr(lettering, "_signs", lambda path: frozenset(fonts[path]))
    chosen = lettering._fonts_for.__wrapped__(frozenset("细胞α?"))
    assert chosen == ("Noto Sans CJK", "Greek")
