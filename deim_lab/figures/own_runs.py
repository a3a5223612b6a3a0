"""Runs on the user's own data, which never share an axis with published numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from deim_lab import palette
from deim_lab.figures import marks, style

_MOST_NAMES = 8  # recipes named in a panel's legend

Recipe = tuple[str, str]  # preset, its overrides


def own_runs(measured: pd.DataFrame) -> Figure:
    """Runs on the user's own data: AP against epochs, one panel per data set.

    A bar shows ± one standard deviation over several seeds.

    Args:
        measured: from ``study.paper.measured.finished_runs``; empty: the figure says so.
    """
    with style.context():
        sets = list(dict.fromkeys(measured["data"]))
        rows = max(1, -(-len(sets) // 2))
        names = min(_MOST_NAMES, len(measured[["preset", "differs"]].drop_duplicates()))
        fig = style.figure(style.DOUBLE, rows * (2.3 + 0.14 * names))
        panels = fig.subplots(rows, 2 if len(sets) > 1 else 1, squeeze=False).ravel()
        if not sets:
            marks.say(
                panels[0],
                "no finished run here",
                va="baseline",
                fontsize=8,
                color=palette.DARK_NOTE,
            )
            style.attach(fig, "own runs", measured)
        for ax in panels[len(sets) :]:
            ax.set_axis_off()
        for ax, name in zip(panels, sets):
            _own_set(ax, measured[measured["data"] == name])
            style.attach(fig, f"own runs on {name}", measured[measured["data"] == name])
        return fig


def _own_set(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw one data set's runs, one mark per recipe."""
    recipes: list[Recipe] = list(dict.fromkeys(zip(rows["preset"], rows["differs"])))
    labels = _labels(recipes)
    for number, (preset, differs) in enumerate(recipes):
        of_recipe = rows[(rows["preset"] == preset) & (rows["differs"] == differs)]
        of_recipe = of_recipe.sort_values("epochs")
        ax.errorbar(
            of_recipe["epochs"].to_numpy(float) + _aside(number, len(recipes), rows["epochs"]),
            of_recipe["ap_percent"].to_numpy(),
            yerr=of_recipe["ap_sd_percent"].fillna(0).to_numpy(),
            fmt="D",
            color=_tint(number),
            markersize=4,
            capsize=2,
            elinewidth=0.8,
            label=labels[number],
        )
    ax.set_title(_title(rows))
    ax.set_xlabel("epochs")
    ax.set_ylabel("AP on its validation set")
    ax.margins(y=0.15)
    epochs = sorted({float(value) for value in rows["epochs"]})
    ax.set_xlim(0, 1.15 * epochs[-1])
    ax.xaxis.set_major_locator(FixedLocator(marks.apart(epochs)))
    handles, named = ax.get_legend_handles_labels()
    if len(named) > _MOST_NAMES:
        more = len(named) - _MOST_NAMES + 1
        named[_MOST_NAMES - 1 :] = [f"… and {more} more recipes: see the table"]
    ax.legend(handles[: len(named)], named, loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=6)


def _labels(recipes: Sequence[Recipe]) -> list[str]:
    """Label each recipe with its preset and the overrides that not all recipes share."""
    shared: set[str] = set()
    if len(recipes) > 1:
        shared = set.intersection(*(set(_parts(differs)) for _, differs in recipes))
    labels = []
    for preset, differs in recipes:
        distinct = ", ".join(part for part in _parts(differs) if part not in shared)
        labels.append(f"{preset}: {_short(distinct)}" if distinct else preset)
    return labels


def _aside(number: int, count: int, epochs: pd.Series) -> float:
    """Horizontal shift of a recipe's marks, so that recipes of one length do not overlap."""
    if epochs.nunique() > 1:
        return 0.0
    return 0.012 * float(epochs.max()) * (number - (count - 1) / 2)


def _tint(number: int) -> str:
    if number == 0:
        return palette.MEASURED
    return palette.OTHERS[(number - 1) % len(palette.OTHERS)]


def _title(rows: pd.DataFrame) -> str:
    """Title of a panel: the data set, the number of seeds, the devices."""
    seeds = sorted({int(value) for value in rows["seeds"]})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    noun = "seed" if seeds[-1] <= 1 else "seeds"
    return f"{rows['data'].iloc[0]}: {many} {noun}, {', '.join(sorted(set(rows['device'])))}"


def _parts(differs: str) -> list[str]:
    """Split ``"a.b=1, c.d=[2, 3]"`` into ``["a.b=1", "c.d=[2, 3]"]``."""
    return re.split(r", (?=[a-z_]+\.[a-z_]+=)", str(differs)) if differs else []


def _short(text: str, limit: int = 70) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
