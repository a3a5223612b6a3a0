"""The figure of scored result files shows the table and the best thresholds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from deim_lab.study.scores import score_files, table
from drawn import xs, ys
from result_files import write_files


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write_files(tmp_path)


def test_the_figure_shows_the_table_and_the_best_thresholds(files: dict[str, Path]) -> None:
    from deim_lab import figures

    scored = score_files(files["gt"], {"A": files["good"], "B": files["rough"]})
    frame = table(scored)
    fig = figures.scores.comparison(frame, {item.name: item.f1 for item in scored}, data="toy")
    left, right = fig.axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR100",
    ]
    assert {float(xs(line)[0]) for line in left.lines[:2]} == set(frame["AP"])
    dots = {
        (float(xs(line)[0]), float(ys(line)[0])) for line in right.lines if line.get_marker() == "o"
    }
    assert dots == {(item.f1.threshold, item.f1.f1) for item in scored}
    with pytest.raises(ValueError, match="are too many for one figure"):
        figures.scores.comparison(pd.concat([frame] * 8), {}, data="toy")
