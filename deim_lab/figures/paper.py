"""The paper's figures from published numbers, with our measurements in another colour.

The figures are AP against epochs, AP against latency, and the components. A *published* table has
the columns of ``study.paper.reported.frame``. A *measured* one has those of ``finished_runs`` or
``evaluations`` in ``study.paper.measured``. All AP are in percent. Only evaluations on COCO val2017
may be drawn with published numbers; a frame with any other row is refused. Runs on other data have
figures of their own (``own_runs``), whose titles give the data, the number of seeds and the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

from deim_lab import palette
from deim_lab.figures import marks, style
from deim_lab.figures.own_runs import own_runs

__all__ = [
    "MEASURED",
    "REPORTED",
    "against_epochs",
    "against_latency",
    "components",
    "main",
    "own_runs",
    "zoo",
]

REPORTED, MEASURED = palette.REPORTED, palette.MEASURED
_NOTHING_MEASURED = "nothing measured\non COCO val2017 here"
_MARKS = {"D-FINE": "o", "RT-DETRv2": "s", "DEIMv2": "D"}  # all other families: a triangle


def main(
    published: pd.DataFrame, sizes: pd.DataFrame, on_coco: pd.DataFrame | None = None
) -> Figure:
    """The paper's two claims side by side: ``against_epochs`` and ``against_latency``.

    ``against_epochs`` shows the main table, ``against_latency`` all sizes.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 3.1)
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.35))
        against_epochs(published, on_coco, ax=left)
        against_latency(sizes, on_coco, ax=right)
        return fig


def against_epochs(
    published: pd.DataFrame, on_coco: pd.DataFrame | None = None, *, ax: Axes | None = None
) -> Figure:
    """AP against epochs of training on COCO, with arrows from D-FINE to DEIM of the same size.

    Args:
        published: ``model, epochs, ap_percent``.
        on_coco: measured on COCO val2017: ``model, epochs, ap_percent, on_coco``. Empty: the legend
            says that nothing was measured. None: the legend does not mention measurements.
    """
    with style.context():
        fig, ax = style.canvas(ax)
        points = published.dropna(subset=["epochs", "ap_percent"]).astype({"epochs": float})
        measured = _only_coco(on_coco).dropna(subset=["epochs", "ap_percent"])
        by_model = points.set_index("model")
        for model, after in by_model.iterrows():
            if (plain := str(model).removeprefix("DEIM-")) != model and plain in by_model.index:
                before = by_model.loc[plain]
                ax.annotate(
                    "",
                    (after["epochs"], after["ap_percent"]),
                    (before["epochs"], before["ap_percent"]),
                    arrowprops={
                        "arrowstyle": "->",
                        "color": REPORTED,
                        "shrinkA": 4,
                        "shrinkB": 4,
                        "linewidth": 0.8,
                    },
                )
        for row in points.to_dict("records"):
            _point(ax, row["epochs"], row["ap_percent"], row["model"], REPORTED)
        for row in measured.to_dict("records"):
            _point(
                ax,
                float(row["epochs"]),
                row["ap_percent"],
                row.get("preset") or row["model"],
                MEASURED,
            )
        epochs = sorted({*points["epochs"], *measured["epochs"].astype(float)})
        ax.set_xscale("log")
        ax.set_xlim(min(epochs, default=10) / 1.3, max(epochs, default=100) * 3)  # room for names
        ax.xaxis.set_major_locator(FixedLocator(marks.apart(epochs)))
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("epochs of training on COCO")
        _finish(ax, None if on_coco is None else measured, "AP against epochs")
        style.attach(
            fig, "AP against epochs", _both(points, measured, ["model", "epochs", "ap_percent"])
        )
        return fig


def against_latency(
    published: pd.DataFrame, on_coco: pd.DataFrame | None = None, *, ax: Axes | None = None
) -> Figure:
    """AP against the published latency on a T4: one line per family.

    DEIM has filled marks, the models that it is compared with have hollow marks. A measured AP is
    drawn at the published latency of its preset's model, because the latency of another machine
    does not belong on this axis.

    Args:
        published: ``model, preset, latency_ms, ap_percent``.
        on_coco: as in ``against_epochs``, with ``preset``.
    """
    with style.context():
        fig, ax = style.canvas(ax)
        points = published.dropna(subset=["latency_ms", "ap_percent"])
        _lines(ax, points, "latency_ms", REPORTED)
        measured = _only_coco(on_coco).merge(
            points[["preset", "latency_ms"]].dropna().drop_duplicates("preset"), on="preset"
        )
        for row in measured.to_dict("records"):
            _point(ax, row["latency_ms"], row["ap_percent"], row["preset"], MEASURED)
        ax.set_xlabel("latency on a T4 in ms, as published")
        ax.set_xlim(0, 1.13 * float(points["latency_ms"].max()) if len(points) else 1)
        _finish(
            ax,
            None if on_coco is None else measured,
            "AP against latency",
            legend=_family_legend(points),
        )
        style.attach(
            fig,
            "AP against latency",
            _both(points, measured, ["model", "latency_ms", "ap_percent"]),
        )
        return fig


def components(gains: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """The paper's ablation: each arm's AP.

    If the paper prints only a gain for an arm, the bar shows the gain on top of the arm before.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE, 2.2)
        level, drawn = float("nan"), []
        for position, row in enumerate(gains.to_dict("records")):
            has_ap = pd.notna(row["ap_percent"])
            low, level = (
                (level, row["ap_percent"]) if has_ap else (level, level + row["gain_points"])
            )
            bottom = None if has_ap else low
            ax.bar(
                position,
                level - (bottom or 0),
                bottom=bottom or 0,
                width=0.6,
                color=REPORTED,
                alpha=1.0 if has_ap else 0.45,
            )
            text = f"{level:.1f}" if has_ap else f"+{row['gain_points']:.1f}"
            marks.beside(ax, text, (position, level), (0, 2), ha="center")
            drawn.append(
                {
                    "arm": row["arm"],
                    "from_percent": bottom,
                    "to_percent": level,
                    "kind": row["kind"],
                }
            )
        tops = [item["to_percent"] for item in drawn]
        ax.set_ylim(min(tops, default=0) - 0.5, max(tops, default=1) + 0.25)
        ax.set_xticks(
            range(len(drawn)),
            [
                str(item["arm"]).replace(" (", "\n(").replace("+ Dense", "+ Dense\n")
                for item in drawn
            ],
        )
        ax.set_ylabel("AP on COCO val2017 (axis cut)")
        ax.set_title("What does each component add? (reported)")
        style.attach(
            fig,
            "components",
            pd.DataFrame(drawn, columns=["arm", "from_percent", "to_percent", "kind"]),
        )
        return fig


def zoo(sizes: pd.DataFrame, times: pd.DataFrame, *, machine: str) -> Figure:
    """Reported AP against latency: as published (a T4, left), as measured here (right).

    Each panel has its own latency axis.

    Args:
        sizes: ``model, preset, latency_ms, ap_percent``, published.
        times: ``preset, median_ms, low_ms, high_ms``, measured. Presets without a reported AP are
            not drawn; a note gives their number.
        machine: where and how the times were taken.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 3.1)
        # Separate AP axes, because small models have no published latency.
        left, right = fig.subplots(1, 2, width_ratios=(1.4, 1))
        against_latency(sizes, ax=left)
        left.set_title("latency as published")
        reported = sizes.dropna(subset=["preset", "ap_percent"])[["model", "preset", "ap_percent"]]
        points = times[["preset", "median_ms", "low_ms", "high_ms"]].merge(reported, on="preset")
        _lines(right, points, "median_ms", MEASURED)
        right.errorbar(
            points["median_ms"].to_numpy(),
            points["ap_percent"].to_numpy(),
            fmt="none",
            ecolor=MEASURED,
            elinewidth=0.8,
            xerr=np.abs(
                np.stack(
                    [
                        points["median_ms"] - points["low_ms"],
                        points["high_ms"] - points["median_ms"],
                    ]
                )
            ),
        )
        right.set_xlim(0, 1.15 * float(points["high_ms"].max()) if len(points) else 1)
        without = len(times) - len(points)
        right.set_title("latency as measured here")
        missing = f"\n({without} timed without a reported AP: not drawn)" if without else ""
        right.set_xlabel(f"latency in ms, median and 5–95 %\n{machine}{missing}")
        right.set_ylabel("AP on COCO val2017, as reported")
        right.margins(y=0.15)
        if points.empty:
            marks.say(
                right,
                "no timed preset has a reported AP",
                va="baseline",
                fontsize=8,
                color=palette.DARK_NOTE,
            )
        style.attach(fig, "latency measured", points)
        return fig


def _lines(ax: Axes, points: pd.DataFrame, column: str, colour: str) -> None:
    """Draw one line per family over its sizes, by cost.

    A model that is alone in its family is labelled with its full name.
    """
    alone = 0
    for family, members in _families(points):
        members, deim = members.sort_values(column), family.startswith("DEIM")
        ax.plot(
            members[column],
            members["ap_percent"],
            color=colour,
            marker=_mark(family),
            linestyle="-" if deim else (0, (3, 2)),
            linewidth=0.9,
            markersize=4.5,
            markerfacecolor=colour if deim else "white",
            markeredgewidth=0.9,
        )
        only_one = len(members) == 1
        for row in members.to_dict("records"):
            at = (row[column], row["ap_percent"])
            if only_one:
                marks.beside(ax, row["model"], at, (5, -4 - 7 * alone), fontsize=6, ha="left")
                continue
            size = str(row["model"]).rpartition("-")[2]
            marks.beside(ax, size, at, _size_offset(size, deim=deim), fontsize=6, ha="center")
        alone += only_one
    ax.margins(y=0.09)


def _size_offset(size: str, *, deim: bool) -> tuple[float, float]:
    """Offset of a size's name from its mark, in points: above for DEIM, below for others."""
    if size.endswith("*"):
        return 9, -3
    return 0, 4 if deim else -9


def _point(ax: Axes, x: float, y: float, name: Any, colour: str) -> None:
    measured, deim = colour == MEASURED, str(name).startswith(("DEIM", "deim"))
    ax.plot(
        x,
        y,
        "X" if measured else _mark(str(name)),
        color=colour,
        markersize=6 if measured else 5,
        clip_on=False,
        zorder=3,
        markerfacecolor=colour if deim or measured else "white",
    )
    marks.beside(ax, str(name), (x, y), (6, -2.5), fontsize=6.5)


def _finish(
    ax: Axes, measured: pd.DataFrame | None, title: str, legend: Sequence[Line2D] = ()
) -> None:
    ax.set_ylabel("AP on COCO val2017")
    ax.set_title(title)
    ax.grid(axis="y")
    handles = [*legend] or [
        Line2D([], [], color=REPORTED, marker="o", linestyle="", label="reported")
    ]
    if measured is not None and len(measured):
        handles.append(
            Line2D([], [], color=MEASURED, marker="X", linestyle="", label="measured here")
        )
    elif measured is not None:
        handles.append(Line2D([], [], linestyle="", label=_NOTHING_MEASURED))
    ax.legend(handles=handles, loc="lower right" if legend else "upper right", handlelength=1.6)


def _families(points: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Group models by name without the size, in order of appearance.

    ``DEIM-D-FINE-L`` belongs to ``DEIM-D-FINE``.
    """
    families = np.array([str(model).rpartition("-")[0] for model in points["model"]], dtype=str)
    return [(name, points[families == name]) for name in dict.fromkeys(families.tolist())]


def _family_legend(points: pd.DataFrame) -> list[Line2D]:
    names = [name for name, members in _families(points) if len(members) > 1]
    return [
        Line2D(
            [],
            [],
            color=REPORTED,
            marker=_mark(name),
            linestyle="-" if name.startswith("DEIM") else (0, (3, 2)),
            linewidth=0.9,
            markerfacecolor=REPORTED if name.startswith("DEIM") else "white",
            label=f"{name}, reported",
        )
        for name in names
    ]


def _mark(name: str) -> str:
    return next((mark for family, mark in _MARKS.items() if family in name), "^")


def _only_coco(table: pd.DataFrame | None) -> pd.DataFrame:
    """Return the table, or raise ``ValueError`` if a row is not on COCO val2017."""
    if table is None:
        return pd.DataFrame(columns=["model", "preset", "epochs", "ap_percent", "on_coco"])
    others = table[~table["on_coco"].astype(bool)]
    if len(others):
        raise ValueError(
            f"{others['model'].iloc[0]!r} was not measured on COCO val2017, so it cannot be "
            "drawn with published numbers. Draw runs on other data with figures.paper.own_runs"
        )
    return table


def _both(points: pd.DataFrame, measured: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The numbers of a panel, each row with its kind."""
    parts = [
        part.reindex(columns=columns).assign(kind=kind)
        for part, kind in ((points, "reported"), (measured, "measured"))
        if len(part)
    ]
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*columns, "kind"])
    )
