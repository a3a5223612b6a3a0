"""One's own runs have a panel a data set."""

from __future__ import annotations

import pandas as pd
from matplotlib.container import ErrorbarContainer

from deim_lab.figures import paper
from drawn import legend, points

RUNS = pd.DataFrame(
    [
        {
            "preset": "cpu_demo",
            "differs": differs,
            "data": data,
            "images": 72,
            "epochs": epochs,
            "seeds": seeds,
            "ap_percent": ap,
            "ap_sd_percent": sd,
            "device": "cpu",
            "kind": "measured",
        }
        for differs, data, epochs, seeds, ap, sd in (
            ("", "bccd", 12, 3, 50.0, 1.5),
            ("", "bccd", 36, 3, 58.0, 0.5),
            ("loss.classification=vfl", "bccd", 36, 1, 55.0, float("nan")),
            ("", "toy", 2, 1, 0.5, float("nan")),
        )
    ]
)


def test_own_runs_have_a_panel_a_data_set_that_says_what_it_is() -> None:
    fig = paper.own_runs(RUNS)
    first, second = fig.axes
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == (
        "bccd: 1 to 3 seeds, cpu",
        "toy: 1 seed, cpu",
    )
    means = {
        point
        for bar in first.containers
        if isinstance(bar, ErrorbarContainer)
        for point in points(bar.lines[0])
    }
    assert means == {(12, 50), (36, 58), (36, 55)}
    assert legend(first) == "cpu_demo|cpu_demo: loss.classification=vfl"
    many = pd.concat([RUNS.iloc[[2]].assign(differs=f"loss.gamma={value}") for value in range(12)])
    assert legend(paper.own_runs(many).axes[0]).endswith("… and 5 more recipes: see the table")
    assert "no finished run" in paper.own_runs(RUNS[:0]).axes[0].texts[0].get_text()
