"""Costs, IoUs, stability and positives of matchings, read back from their artists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.patches import Patch, StepPatch

from deim_lab import figures
from deim_lab.figures import matching, style
from drawn import bars, points, values, xs, ys


def heights(patch: Patch) -> np.ndarray:
    """Height of each step of a histogram."""
    assert isinstance(patch, StepPatch)
    return np.asarray(patch.get_data()[0])


def test_cost_matrix_shows_parts_and_sum_with_the_assignment_marked() -> None:
    costs = {
        "class": np.arange(12.0).reshape(2, 6),
        "l1": np.ones((2, 6)),
        "giou": -np.ones((2, 6)),
    }
    fig = matching.cost_matrix(costs, [(3, 1), (5, 0)], limit=4)
    panels = [ax for ax in fig.axes if ax.images and ax.get_xlabel() == "query"]
    assert [ax.get_title(loc="left") for ax in panels] == ["class", "L1", "−GIoU", "sum"]
    columns = [int(tick.get_text()) for tick in panels[0].get_xticklabels()]
    assert columns == [5, 3, 0, 1], "assigned queries by target, then the cheapest"
    np.testing.assert_array_equal(values(panels[0].images[0]), costs["class"][:, columns])
    np.testing.assert_array_equal(values(panels[3].images[0]), costs["class"][:, columns])
    (marks,) = panels[3].lines
    assert set(points(marks)) == {(1, 1), (0, 0)}
    table = figures.numbers(fig)
    assert set(
        zip(table[table["assigned"]]["query"], table[table["assigned"]]["target"], strict=True)
    ) == {(3, 1), (5, 0)}


def test_iou_histogram_has_a_line_an_epoch_and_a_panel_a_level() -> None:
    pairs = pd.DataFrame(
        {
            "epoch": [0] * 4 + [5] * 2,
            "level": ["a", "a", "a", "b", "a", "b"],
            "iou": [0.05, 0.05, 0.95, 1.0, 0.55, 0.0],
        }
    )
    fig = matching.iou_histogram(pairs)
    a, b = fig.axes[:2]
    assert [ax.get_title(loc="left") for ax in (a, b)] == ["a", "b"]
    first, second = a.patches
    np.testing.assert_allclose(heights(first)[[0, 9]], np.array([2 / 3, 1 / 3]))
    assert heights(second)[5] == 1
    assert heights(b.patches[0])[9] == 1, "an IoU of 1 is in the last bin"
    table = figures.numbers(fig)
    assert table["pairs"].sum() == len(pairs)
    many = pd.DataFrame({"epoch": np.arange(40), "level": "a", "iou": 0.5})
    assert len(matching.iou_histogram(many).axes[0].patches) == 5


def test_shares_over_epochs_are_lines_of_their_levels() -> None:
    low = pd.DataFrame(
        {"epoch": [0, 0, 1, 1], "level": ["a", "b", "a", "b"], "share": [0.9, 0.8, 0.5, 0.4]}
    )
    changed = pd.DataFrame({"epoch": [1, 1], "level": ["a", "b"], "changed": [0.3, 0.2]})
    left, right = matching.quality_and_stability(low, changed).axes
    assert {line.get_label(): list(ys(line)) for line in left.lines} == {
        "a": [0.9, 0.5],
        "b": [0.8, 0.4],
    }
    assert {line.get_label(): list(ys(line)) for line in right.lines} == {
        "a": [0.3],
        "b": [0.2],
    }
    assert left.get_ylim() == (0, 1)
    assert list(xs(left.lines[0])) == [1, 2], (
        "the checkpoint of epoch 0 stands at 1, the epochs done"
    )
    assert right.get_xlim() == (1.5, 2.5)
    lone = matching.quality_and_stability(low[:2], changed[:0])
    assert not lone.axes[1].lines


def test_positives_are_bars_with_their_targets() -> None:
    counted = pd.DataFrame(
        {
            "method": ["one-to-one"] * 2
            + ["SimOTA"] * 2
            + ["4 query groups"] * 2
            + ["Dense O2O (p)"] * 2,
            "targets": [2, 4, 2, 4, 2, 4, 9, 11],
            "positives": [2, 4, 18, 36, 8, 16, 9, 11],
        }
    )
    fig = matching.positives(counted)
    left, right = fig.axes
    assert [bar.get_width() for bar in bars(left)] == [3, 27, 12, 10]
    assert [bar.get_width() for bar in bars(right)] == [1, 9, 4, 1]
    assert [text.get_text() for text in left.texts] == [
        "3.0",
        "27.0  (9.0×)",
        "12.0  (4.0×)",
        "10.0  (3.3×)",
    ]
    tints = matching.method_colours(list(counted["method"].unique()))
    assert len(set(tints.values())) == 4
    assert tints["one-to-one"] == style.colour("plain")
    assert tints["Dense O2O (p)"] == style.colour("dense")
    assert tints["SimOTA"] == matching.method_colours(["SimOTA"])["SimOTA"]


def test_growth_is_a_line_a_method(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "epoch": [0, 0, 1, 1],
            "method": ["one-to-one", "SimOTA"] * 2,
            "per_target": [1, 1.5, 1, 6],
        }
    )
    fig = matching.growth(table)
    assert {line.get_label(): list(ys(line)) for line in fig.axes[0].lines} == {
        "one-to-one": [1, 1],
        "SimOTA": [1.5, 6],
    }
    paths = figures.save(fig, tmp_path / "growth")
    assert pd.read_csv(paths[3])["per_target"].tolist() == [1, 1.5, 1, 6]
