"""A run, and runs beside one another: AP, losses and targets over epochs, what the demo compares.

Tables are a run's events (``Run.metrics()``): rows of kind ``train`` and ``val``. The evaluation of
epoch e stands at e + 1, the epochs then done; the means over its steps at e + ½, their middle.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from deim_lab import palette
from deim_lab.figures import marks, style
from deim_lab.figures.epochs import dots, finish, is_dense, only, phases_of, rows_of, shade
from deim_lab.figures.workings import STAGES, composition, iou_histogram, stages, workings

__all__ = [
    "STAGES",
    "TERMS",
    "activity",
    "average_precision",
    "composition",
    "curves",
    "iou_histogram",
    "loss_terms",
    "side_by_side",
    "stages",
    "terms",
    "workings",
]

# Loss terms as drawn: the matching queries' own, and all of denoising as one.
TERMS = palette.TERMS
# What ``side_by_side`` compares: kind of event, column, axis.
_COMPARED = (
    ("val", "AP", "AP (AP50 faint)"),
    ("train", "targets_per_image", "targets per image"),
    ("train", "matched_iou", "mean IoU of matched pairs"),
)
_AT = {"val": 1.0, "train": 0.5}  # where on the axis an event of epoch 0 stands


def curves(table: pd.DataFrame) -> Figure:
    """One run over its epochs: AP and AP50, loss by term, targets and positives per image. Phases
    as a strip under each panel's top.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.35)
        first, second, third = fig.subplots(1, 3)
        average_precision(table, ax=first)
        loss_terms(table, ax=second)
        activity(table, ax=third)
        return fig


def average_precision(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """AP and AP50 of each evaluation; a ring at the best AP."""
    with style.context():
        fig, ax = style.canvas(ax)
        found = rows_of(table, "val", "AP")
        epochs = found["epoch"] + 1
        for name, dashes in (("AP50", (0, (1, 1.2))), ("AP", "-")):
            if name in found:
                ax.plot(
                    epochs,
                    found[name],
                    color=palette.INK,
                    linestyle=dashes,
                    marker="o",
                    markersize=2.2,
                    label=name,
                    clip_on=False,
                )
        if len(found):
            scores = found["AP"].to_numpy(dtype=float)
            best = int(scores.argmax())
            at = (float(epochs.iloc[best]), float(scores[best]))
            ax.plot(
                *at,
                "o",
                markersize=8,
                markerfacecolor="none",
                color=palette.METHODS["mal"],
                clip_on=False,
            )
            marks.beside(ax, f"{at[1]:.3f}", at, (-2, -11), ha="right")
        drawn = [name for name in ("AP", "AP50") if name in found]
        ax.set_ylim(
            0,
            max(1e-3, 1.15 * float(found[drawn].to_numpy(dtype=float).max())) if len(found) else 1,
        )
        ax.set_ylabel("AP on the validation set")
        ax.legend(loc="upper left")
        finish(ax, table, empty=found.empty)
        shade(ax, table)
        style.attach(
            fig,
            "average precision",
            only(found, ("epoch", "step", "AP", "AP50")),
        )
        return fig


def loss_terms(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Weighted loss of each term, summed over decoder levels; denoising as one line. Logarithmic,
    for the terms differ by far.
    """
    with style.context():
        fig, ax = style.canvas(ax)
        found = terms(table)
        for name in (name for name in TERMS if name in found):
            ax.plot(
                found["epoch"] + 0.5,
                found[name].where(found[name] > 0),
                color=TERMS[name],
                label=name,
                marker=dots(found),
            )
        if len(found.columns) > 1 and (found.drop(columns="epoch") > 0).any(axis=None):
            ax.set_yscale("log")
            low, high = ax.get_ylim()
            ax.set_ylim(low, high * (high / low) ** 0.32)  # room for the legend
        ax.set_ylabel("loss (all levels)")
        if len(found.columns) > 1:
            ax.legend(loc="upper right", ncols=2, columnspacing=1.0)
        finish(ax, table, empty=found.empty)
        shade(ax, table)
        style.attach(fig, "loss", found)
        return fig


def terms(table: pd.DataFrame) -> pd.DataFrame:
    """``epoch`` and the mean loss of each of ``TERMS``, summed over levels: a row an epoch of
    training.
    """
    found = rows_of(table, "train", "loss")
    columns: dict[str, pd.Series] = {"epoch": found["epoch"]}
    for column in found.columns:
        if not isinstance(column, str) or not column.startswith("loss/") or column == "loss/total":
            continue
        term = column.split("/")[1]
        name = "denoising" if term.startswith("dn_") else term
        columns[name] = columns.get(name, 0.0) + found[column].fillna(0.0)
    return pd.DataFrame(columns)


def activity(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Targets and positives per image, the proof that Dense O2O was on."""
    with style.context():
        fig, ax = style.canvas(ax)
        found = rows_of(table, "train", "targets_per_image")
        epochs = found["epoch"] + 0.5
        ax.plot(
            epochs,
            found["targets_per_image"],
            color=palette.colour("dense"),
            label="targets",
            marker=dots(found),
        )
        if "positives_per_image" in found:
            ax.plot(
                epochs,
                found["positives_per_image"],
                color=palette.INK,
                linestyle=(0, (2, 2)),
                label="positives",
            )
        ax.set_ylim(0, 1.3 * float(found["targets_per_image"].max()) if len(found) else 1)
        ax.set_ylabel("per image")
        ax.legend(loc="upper right", ncols=2)
        finish(ax, table, empty=found.empty)
        shade(ax, table)
        style.attach(
            fig,
            "activity",
            only(
                found,
                (
                    "epoch",
                    "targets_per_image",
                    "positives_per_image",
                    "mosaic_share",
                    "mixup_share",
                ),
            ),
        )
        return fig


def side_by_side(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Runs against one another over epochs: AP (AP50 faint), targets per image, mean IoU of matched
    pairs.

    One colour an arm; the epochs in which Dense O2O was on are shaded.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.55)
        tints = palette.colours(tables)
        last = max((len(phases_of(table)) for table in tables.values()), default=1)
        dense = next((table for table in tables.values() if is_dense(table)), pd.DataFrame())
        panels = fig.subplots(1, 3)
        for ax, (kind, column, label) in zip(panels, _COMPARED, strict=True):
            parts = {name: _compared(table, kind, column) for name, table in tables.items()}
            for name, found in parts.items():
                _line(ax, found, column, name, tints[name])
            for name, found in parts.items():
                if "AP50" in found:
                    _faint_line(ax, found, name, tints[name])
            ax.set_ylabel(label)
            ax.set_ylim(bottom=0)
            together = _together(parts)
            finish(ax, dense, empty=together.empty, last=last)
            shade(ax, dense, strip=False)
            style.attach(fig, label, together)
        handles, labels = panels[0].get_legend_handles_labels()
        if not dense.empty:
            handles.append(Patch(color=palette.colour("dense"), alpha=0.10))
            labels.append("Dense O2O on")
        fig.legend(handles, labels, loc="outside upper left", ncols=max(1, len(labels)))
        return fig


def _compared(table: pd.DataFrame, kind: str, column: str) -> pd.DataFrame:
    """The epochs and values of one panel; with AP, AP50 too where it is logged."""
    found = rows_of(table, kind, column)
    return only(found, ("epoch", column, "AP50") if kind == "val" else ("epoch", column))


def _line(ax: Axes, found: pd.DataFrame, column: str, name: str, tint: str) -> None:
    """One arm over its epochs; AP with its last value in the legend."""
    scored = column == "AP"
    label = name
    if scored and len(found):
        label = f"{name} (AP {found[column].iloc[-1]:.3f} at the end)"
    ax.plot(
        found["epoch"] + _AT["val" if scored else "train"],
        found[column],
        color=tint,
        linestyle=palette.dashes(name),
        label=label,
        marker="o" if scored else dots(found),
        markersize=2.4,
        clip_on=not scored,
    )


def _faint_line(ax: Axes, found: pd.DataFrame, name: str, tint: str) -> None:
    """AP50 of one arm."""
    ax.plot(
        found["epoch"] + _AT["val"],
        found["AP50"],
        color=tint,
        linestyle=palette.dashes(name),
        linewidth=0.9,
        alpha=0.45,
    )


def _together(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The numbers of a panel, each row with its arm."""
    if not parts:
        return pd.DataFrame({"epoch": []})
    rows = [found.assign(arm=name) for name, found in parts.items()]
    return pd.concat(rows, ignore_index=True)
