"""One run, or several runs compared: AP, losses and targets over epochs.

Tables are a run's events (``Run.metrics()``): rows of kind ``train`` and ``val``. The evaluation of
epoch e is drawn at e + 1, the number of completed epochs. Means over its steps are drawn at e + ½,
their middle.
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

# Loss terms as drawn: one per term of the matching queries, and all of denoising as one.
TERMS = palette.TERMS
# Panels of ``side_by_side``: kind of event, column, axis label.
_COMPARED = (
    ("val", "AP", "AP (AP50 faint)"),
    ("train", "targets_per_image", "targets per image"),
    ("train", "matched_iou", "mean IoU of matched pairs"),
)
_AT = {"val": 1.0, "train": 0.5}  # position of an event of epoch 0 on the axis


def curves(table: pd.DataFrame) -> Figure:
    """One run over its epochs: AP and AP50, loss by term, targets and positives per image.

    A strip under each panel's top shows the phases.
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
        evaluations = rows_of(table, "val", "AP")
        epochs = evaluations["epoch"] + 1
        for name, dashes in (("AP50", (0, (1, 1.2))), ("AP", "-")):
            if name in evaluations:
                ax.plot(
                    epochs,
                    evaluations[name],
                    color=palette.INK,
                    linestyle=dashes,
                    marker="o",
                    markersize=2.2,
                    label=name,
                    clip_on=False,
                )
        if len(evaluations):
            scores = evaluations["AP"].to_numpy(dtype=float)
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
        drawn = [name for name in ("AP", "AP50") if name in evaluations]
        ax.set_ylim(
            0,
            max(1e-3, 1.15 * float(evaluations[drawn].to_numpy(dtype=float).max()))
            if len(evaluations)
            else 1,
        )
        ax.set_ylabel("AP on the validation set")
        ax.legend(loc="upper left")
        finish(ax, table, empty=evaluations.empty)
        shade(ax, table)
        style.attach(
            fig,
            "average precision",
            only(evaluations, ("epoch", "step", "AP", "AP50")),
        )
        return fig


def loss_terms(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Weighted loss of each term, summed over decoder levels; denoising as one line.

    The axis is logarithmic, because the terms differ by orders of magnitude.
    """
    with style.context():
        fig, ax = style.canvas(ax)
        losses = terms(table)
        for name in (name for name in TERMS if name in losses):
            ax.plot(
                losses["epoch"] + 0.5,
                losses[name].where(losses[name] > 0),
                color=TERMS[name],
                label=name,
                marker=dots(losses),
            )
        if len(losses.columns) > 1 and (losses.drop(columns="epoch") > 0).any(axis=None):
            ax.set_yscale("log")
            style.plain_log_ticks(ax.yaxis)
            low, high = ax.get_ylim()
            ax.set_ylim(low, high * (high / low) ** 0.32)  # room for the legend
        ax.set_ylabel("loss (all levels)")
        if len(losses.columns) > 1:
            ax.legend(loc="upper right", ncols=2, columnspacing=1.0)
        finish(ax, table, empty=losses.empty)
        shade(ax, table)
        style.attach(fig, "loss", losses)
        return fig


def terms(table: pd.DataFrame) -> pd.DataFrame:
    """``epoch`` and the mean loss of each of ``TERMS``, summed over levels: one row per epoch."""
    events = rows_of(table, "train", "loss")
    columns: dict[str, pd.Series] = {"epoch": events["epoch"]}
    for column in events.columns:
        if not isinstance(column, str) or not column.startswith("loss/") or column == "loss/total":
            continue
        term = column.split("/")[1]
        name = "denoising" if term.startswith("dn_") else term
        columns[name] = columns.get(name, 0.0) + events[column].fillna(0.0)
    return pd.DataFrame(columns)


def activity(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Targets and positives per image, the proof that Dense O2O was on."""
    with style.context():
        fig, ax = style.canvas(ax)
        rows = rows_of(table, "train", "targets_per_image")
        epochs = rows["epoch"] + 0.5
        ax.plot(
            epochs,
            rows["targets_per_image"],
            color=palette.colour("dense"),
            label="targets",
            marker=dots(rows),
        )
        if "positives_per_image" in rows:
            ax.plot(
                epochs,
                rows["positives_per_image"],
                color=palette.INK,
                linestyle=(0, (2, 2)),
                label="positives",
            )
        ax.set_ylim(0, 1.3 * float(rows["targets_per_image"].max()) if len(rows) else 1)
        ax.set_ylabel("per image")
        ax.legend(loc="upper right", ncols=2)
        finish(ax, table, empty=rows.empty)
        shade(ax, table)
        style.attach(
            fig,
            "activity",
            only(
                rows,
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
    """Runs compared over epochs: AP (AP50 faint), targets per image, IoU of matched pairs.

    One colour per arm. The epochs with Dense O2O are shaded.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.55)
        tints = palette.colours(tables)
        last = max((len(phases_of(table)) for table in tables.values()), default=1)
        dense = next((table for table in tables.values() if is_dense(table)), pd.DataFrame())
        panels = fig.subplots(1, 3)
        for ax, (kind, column, label) in zip(panels, _COMPARED, strict=True):
            parts = {name: _compared(table, kind, column) for name, table in tables.items()}
            for name, rows in parts.items():
                _line(ax, rows, column, name, tints[name])
            for name, rows in parts.items():
                if "AP50" in rows:
                    _faint_line(ax, rows, name, tints[name])
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
    """The epochs and values of one panel; the AP panel also has AP50 if it is logged."""
    rows = rows_of(table, kind, column)
    return only(rows, ("epoch", column, "AP50") if kind == "val" else ("epoch", column))


def _line(ax: Axes, rows: pd.DataFrame, column: str, name: str, tint: str) -> None:
    """Draw one arm over its epochs; the AP line has its last value in the legend."""
    scored = column == "AP"
    label = name
    if scored and len(rows):
        label = f"{name} (AP {rows[column].iloc[-1]:.3f} at the end)"
    ax.plot(
        rows["epoch"] + _AT["val" if scored else "train"],
        rows[column],
        color=tint,
        linestyle=palette.dashes(name),
        label=label,
        marker="o" if scored else dots(rows),
        markersize=2.4,
        clip_on=not scored,
    )


def _faint_line(ax: Axes, rows: pd.DataFrame, name: str, tint: str) -> None:
    """Draw AP50 of one arm."""
    ax.plot(
        rows["epoch"] + _AT["val"],
        rows["AP50"],
        color=tint,
        linestyle=palette.dashes(name),
        linewidth=0.9,
        alpha=0.45,
    )


def _together(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The numbers of a panel, each row with its arm."""
    if not parts:
        return pd.DataFrame({"epoch": []})
    rows = [part.assign(arm=name) for name, part in parts.items()]
    return pd.concat(rows, ignore_index=True)
