"""The paper's figures: published numbers where they belong, measured ones in another colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.text import Annotation

from deim_lab import figures
from deim_lab.figures import paper
from deim_lab.study.paper import reported
from drawn import bars, legend, points

MINE = pd.DataFrame(
    [
        {
            "model": "a run",
            "preset": "deim_dfine_l",
            "epochs": 24,
            "ap_percent": 51.9,
            "on_coco": True,
        }
    ]
)


def sizes() -> pd.DataFrame:
    zoo, main = reported.frame("zoo"), reported.frame("main")
    return pd.concat([zoo, main[~main["model"].isin(zoo["model"])]], ignore_index=True)


def points_of(ax: Axes, colour: str) -> set[tuple[float, float]]:
    return {
        point
        for line in ax.lines
        if to_hex(line.get_color()).upper() == colour
        for point in points(line)
    }


def test_reported_points_are_all_there_and_measured_ones_in_their_own_colour() -> None:
    main = reported.frame("main")
    left, right = paper.main(main, sizes(), MINE).axes
    assert points_of(left, paper.REPORTED) == {
        (row.epochs, row.ap_percent) for row in reported.rows("main")
    }
    assert points_of(left, paper.MEASURED) == {(24, 51.9)}
    timed = {
        (row.latency_ms, row.ap_percent)
        for table in ("zoo", "main")
        for row in reported.rows(table)
        if row.latency_ms is not None
    }
    assert points_of(right, paper.REPORTED) == timed
    assert points_of(right, paper.MEASURED) == {
        (8.07, 51.9)
    }  # the published latency of DEIM-D-FINE-L
    assert "measured here" in legend(left)
    assert {"DEIM-D-FINE, reported", "RT-DETRv2, reported"} <= set(legend(right).split("|"))
    arrows = [
        text for text in left.texts if isinstance(text, Annotation) and text.arrow_patch is not None
    ]
    assert {(text.xyann[0], text.xy[0]) for text in arrows} == {(72, 50)}
    assert len(arrows) == 2


def test_without_anything_measured_it_says_so() -> None:
    for ax in paper.main(reported.frame("main"), sizes(), MINE[:0]).axes:
        assert "nothing measured" in legend(ax)
        assert points_of(ax, paper.MEASURED) == set()
    assert "measured" not in legend(paper.against_epochs(reported.frame("main")).axes[0])


def test_runs_on_other_data_never_share_the_axes_of_published_numbers() -> None:
    other = MINE.assign(on_coco=False)
    for draw in (paper.against_epochs, paper.against_latency):
        with pytest.raises(ValueError, match="'a run' was not measured on COCO val2017"):
            draw(sizes(), other)


def test_components_stand_on_what_is_before_them() -> None:
    fig = paper.components(reported.frame("ablation"))
    tops = [bar.get_y() + bar.get_height() for bar in bars(fig.axes[0])]
    assert tops == pytest.approx([54.0, 54.4, 54.7, 54.7])
    assert [text.get_text() for text in fig.axes[0].texts] == ["54.0", "+0.4", "+0.3", "54.7"]
    assert set(figures.numbers(fig)["kind"]) == {"reported"}


def test_the_zoo_keeps_published_and_measured_latency_on_two_axes() -> None:
    times = pd.DataFrame(
        {
            "preset": ["deim_dfine_n", "deim_dfine_s", "smoke"],
            "median_ms": [60.0, 150, 9],
            "low_ms": [55.0, 140, 8],
            "high_ms": [70.0, 190, 10],
            "model": "as zoo.times names it",
        }
    )
    fig = paper.zoo(sizes(), times, machine="a CPU")
    left, right = fig.axes
    assert points_of(right, paper.MEASURED) == {(60, 43.0), (150, 49.0)}
    assert points_of(left, paper.MEASURED) == points_of(right, paper.REPORTED) == set()
    assert "a CPU" in right.get_xlabel()
    assert "1 timed without a reported AP" in right.get_xlabel()
    (ranges,) = (item for item in right.collections if isinstance(item, LineCollection))
    assert np.allclose(
        sorted(np.array(ranges.get_segments())[:, :, 0].tolist()), [[55, 70], [140, 190]]
    )
    assert (
        "no timed preset"
        in paper.zoo(sizes(), times.iloc[[2]], machine="a CPU").axes[1].texts[0].get_text()
    )


def test_numbers_go_with_the_picture_and_say_their_kind(tmp_path: Path) -> None:
    paths = figures.save(paper.main(reported.frame("main"), sizes(), MINE), tmp_path / "main")
    table = pd.read_csv(paths[3])
    assert table[table["kind"] == "measured"]["ap_percent"].tolist() == [51.9, 51.9]
    assert (table["kind"] == "reported").sum() == len(reported.rows("main")) + 22
