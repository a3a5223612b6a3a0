"""Colours: in the palette alone, readable, one per phase and method."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np

from deim_lab import figures, palette
from deim_lab.figures import schedule, style
from deim_lab.schedule import Phase


def test_colours_stand_in_the_palette_alone() -> None:
    package = Path(figures.__file__).parents[1]
    elsewhere = [
        f"{path.relative_to(package)}: {found}"
        for path in sorted(package.rglob("*.py"))
        if path.name != "palette.py"
        for found in re.findall(r"#[0-9A-Fa-f]{6}\b", path.read_text(encoding="utf-8"))
    ]
    assert elsewhere == []


def test_ink_can_be_read_on_every_class() -> None:
    """A contrast of at least 3, which WCAG asks of large text."""

    def luminance(tint: str) -> float:
        parts = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in matplotlib.colors.to_rgb(tint)
        ]
        return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))

    for ground in palette.CLASSES:
        low, high = sorted((luminance(ground), luminance(palette.ink_on(ground))))
        assert (high + 0.05) / (low + 0.05) > 3, ground
    assert palette.ink_on(palette.YELLOW) == "black"
    assert palette.ink_on(palette.BLUE) == "white"


def test_each_phase_has_a_colour() -> None:
    assert set(palette.PHASES) == set(Phase)
    assert {phase: tint for phase, (_, tint) in schedule.PHASES.items()} == palette.PHASES


def test_one_colour_a_method_everywhere() -> None:
    assert style.colour("both") == style.colour("DEIM") == style.colour("dense")
    assert style.colour("plain D-FINE") == style.colour("plain")
    named = list(style.COLOURS.values())
    assert len(set(named)) == len(named)
    several = style.colours(["DEIM", "my arm", "plain", "another"])
    assert len(set(several.values())) == 4
