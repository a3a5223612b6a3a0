"""Saving figures with their numbers, and the style that ends with the figure."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from deim_lab import figures
from deim_lab.figures import density, style
from drawn import paper_figure


def test_save_writes_picture_and_numbers(rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    fig = density.means(rows)
    paths = figures.save(fig, tmp_path / "deep" / "means")
    assert [path.suffix for path in paths] == [".png", ".svg", ".pdf", ".csv"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in paths[1].read_bytes()
    assert paths[2].read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(
        path.name for path in paths
    )  # nothing half-written stays
    pd.testing.assert_frame_equal(pd.read_csv(paths[3]), figures.numbers(fig))


def test_the_pdf_embeds_its_fonts_as_outlines_that_editors_keep(
    rows: dict[str, np.ndarray], tmp_path: Path
) -> None:
    content = figures.save(density.means(rows), tmp_path / "means")[2].read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content.replace(b" ", b"")  # fonttype 3 is what many publishers refuse


def test_saving_twice_gives_the_same_bytes(rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    first, second = (figures.save(density.means(rows), tmp_path / name) for name in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix


def test_save_refuses_a_suffix_and_a_figure_without_numbers(
    tmp_path: Path, rows: dict[str, np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=r"means\.png"):
        figures.save(density.means(rows), tmp_path / "means.png")
    with pytest.raises(ValueError, match="no numbers"):
        figures.save(style.figure(), tmp_path / "empty")
    assert not list(tmp_path.iterdir())


def test_given_axes_are_drawn_on_and_keep_the_numbers(rows: dict[str, np.ndarray]) -> None:
    with style.context():
        fig = style.figure(style.DOUBLE)
        left, right = fig.subplots(1, 2)
    assert density.means(rows, ax=right) is fig
    assert right.patches
    assert not left.patches
    assert len(figures.numbers(fig)) == 4


def test_the_style_ends_with_the_figure(rows: dict[str, np.ndarray]) -> None:
    before = dict(matplotlib.rcParams)
    density.overview(rows)
    assert dict(matplotlib.rcParams) == before


def test_no_pyplot_and_no_figure_is_kept(rows: dict[str, np.ndarray]) -> None:
    had_pyplot = "matplotlib.pyplot" in sys.modules
    paper_figure(density.means(rows))._repr_png_()
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
    gc.collect()
    before = sum(type(item) is style.PaperFigure for item in gc.get_objects())
    for _ in range(3):
        density.means(rows)
    gc.collect()
    assert sum(type(item) is style.PaperFigure for item in gc.get_objects()) == before


def test_a_figure_shows_itself_in_a_notebook(rows: dict[str, np.ndarray]) -> None:
    both = paper_figure(density.means(rows))._repr_png_()
    assert both is not None
    shown, size = both
    assert shown.startswith(b"\x89PNG")
    assert len(shown) < 100_000
    assert size["width"] > 300
