"""A run, and runs beside one another: AP and losses over epochs, the matched-IoU histogram, what
the demo compares.

Tables are a run's events (``Run.metrics()``): rows of kind ``train`` and ``val``. The evaluation of
epoch e stands at e + 1, the epochs then done; the means over its steps at e + ½, their middle.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from deim_lab import palette
from deim_lab.figures import style
from deim_lab.figures.schedule import PHASES
from deim_lab.schedule import Phase

# Loss terms as drawn: the matching queries' own, and all of denoising as one.
TERMS = palette.TERMS
STAGES = palette.STAGES  # of a step, as the log names them
# What ``side_by_side`` compares: kind of event, column, axis.
_COMPARED = (
    ("val", "AP", "AP (AP50 faint)"),
    ("train", "targets_per_image", "targets per image"),
    ("train", "matched_iou", "mean IoU of matched pairs"),
)
_AT = {"val": 1.0, "train": 0.5}  # where on the axis an event of epoch 0 stands
_NOTHING = "nothing logged yet"


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
        found = _rows(table, "val", "AP")
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
            ax.annotate(
                f"{at[1]:.3f}",
                at,
                xytext=(-2, -11),
                textcoords="offset points",
                ha="right",
                fontsize=7,
            )
        drawn = [name for name in ("AP", "AP50") if name in found]
        ax.set_ylim(
            0,
            max(1e-3, 1.15 * float(found[drawn].to_numpy(dtype=float).max())) if len(found) else 1,
        )
        ax.set_ylabel("AP on the validation set")
        ax.legend(loc="upper left")
        _finish(ax, table, empty=found.empty)
        style.attach(
            fig,
            "average precision",
            found[[name for name in ("epoch", "step", "AP", "AP50") if name in found]],
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
                marker=_dots(found),
            )
        if len(found.columns) > 1 and (found.drop(columns="epoch") > 0).any(axis=None):
            ax.set_yscale("log")
            low, high = ax.get_ylim()
            ax.set_ylim(low, high * (high / low) ** 0.32)  # room for the legend
        ax.set_ylabel("loss (all levels)")
        if len(found.columns) > 1:
            ax.legend(loc="upper right", ncols=2, columnspacing=1.0)
        _finish(ax, table, empty=found.empty)
        style.attach(fig, "loss", found)
        return fig


def terms(table: pd.DataFrame) -> pd.DataFrame:
    """``epoch`` and the mean loss of each of ``TERMS``, summed over levels: a row an epoch of
    training.
    """
    found = _rows(table, "train", "loss")
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
        found = _rows(table, "train", "targets_per_image")
        epochs = found["epoch"] + 0.5
        ax.plot(
            epochs,
            found["targets_per_image"],
            color=palette.colour("dense"),
            label="targets",
            marker=_dots(found),
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
        _finish(ax, table, empty=found.empty)
        style.attach(
            fig,
            "activity",
            found[
                [
                    name
                    for name in (
                        "epoch",
                        "targets_per_image",
                        "positives_per_image",
                        "mosaic_share",
                        "mixup_share",
                    )
                    if name in found
                ]
            ],
        )
        return fig


def workings(table: pd.DataFrame) -> Figure:
    """What a run did with its images and its time: share of Mosaic and MixUp, and milliseconds a
    step by stage, epoch by epoch.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.2)
        first, second = fig.subplots(1, 2, width_ratios=(1, 1.35))
        composition(table, ax=first)
        stages(table, ax=second)
        return fig


def composition(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Share of images that are Mosaics and of steps with MixUp, each epoch: outside the dense phase
    both are 0.
    """
    with style.context():
        fig, ax = style.canvas(ax)
        found = _rows(table, "train", "mosaic_share")
        for column, name, text in (
            ("mosaic_share", "mosaic", "Mosaic, of the images"),
            ("mixup_share", "mixup", "MixUp, of the steps"),
        ):
            if column in found:
                ax.plot(
                    found["epoch"] + 0.5,
                    found[column],
                    color=palette.colour(name),
                    label=text,
                    marker=_dots(found),
                )
        ax.set_ylim(-0.02, 1.35)
        ax.set_yticks((0, 0.5, 1), ("0 %", "50 %", "100 %"))
        ax.set_ylabel("share")
        if len(found):
            ax.legend(loc="upper right")
        _finish(ax, table, empty=found.empty)
        style.attach(
            fig,
            "composition",
            found[
                [
                    name
                    for name in ("epoch", "phase", "mosaic_share", "mixup_share")
                    if name in found
                ]
            ],
        )
        return fig


def stages(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Mean milliseconds of a step by stage, stacked, an epoch a column; the legend says each
    stage's share. Of the logged steps, which wait for the device at each stage.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.35, 2.2)
        logged = _rows(table, "train", "seconds/forward")
        names = [name for name in STAGES if f"seconds/{name}" in logged]
        found = pd.DataFrame(
            {
                "epoch": logged["epoch"],
                **{f"{name}_ms": 1000 * logged[f"seconds/{name}"].fillna(0.0) for name in names},
            }
        )
        below = np.zeros(len(found))
        whole = float(found.drop(columns="epoch").to_numpy(dtype=float).sum())
        handles = []
        for name in names:
            heights = found[f"{name}_ms"].to_numpy(dtype=float)
            share = heights.sum() / whole if whole else 0.0
            handles.append(
                ax.bar(
                    found["epoch"],
                    heights,
                    width=1.0,
                    align="edge",
                    bottom=below,
                    color=STAGES[name],
                    linewidth=0,
                    label=f"{name} {100 * share:.0f} %",
                )
            )
            below = below + heights
        ax.set_ylim(0, 1.12 * below.max() if whole else 1)
        ax.set_ylabel("ms a step")
        if handles:
            ax.legend(
                handles=handles[::-1],
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                handlelength=0.9,
            )  # as stacked
        _finish(ax, table, empty=found.empty, shade=False)
        style.attach(fig, "stages", found)
        return fig


def iou_histogram(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """IoU of the matched pairs of the last level, an epoch a column: the share of pairs by colour,
    the mean as a line.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.3, 2.6)
        found = _rows(table, "train", "matched_iou_histogram")
        ax.set_ylim(0, 1)
        ax.set_ylabel("IoU of matched pairs")
        if len(found):
            counts = np.array(
                found["matched_iou_histogram"].tolist(), dtype=float
            ).T  # [bins, epochs]
            share = counts / np.maximum(counts.sum(0), 1)
            edges = np.linspace(0, 1, len(counts) + 1)
            epochs = found["epoch"].to_numpy()
            starts = np.concatenate([epochs, [epochs[-1] + 1]])
            mesh = ax.pcolormesh(starts, edges, share, cmap="cividis", vmin=0, rasterized=True)
            fig.colorbar(mesh, ax=ax, label="share of pairs", pad=0.02, aspect=28)
            centres = (edges[:-1] + edges[1:]) / 2
            ax.plot(starts[:-1] + 0.5, centres @ share, color="white", linewidth=2.4)
            ax.plot(
                starts[:-1] + 0.5,
                centres @ share,
                color=palette.METHODS["vfl"],
                linewidth=1.3,
                label="mean",
            )
            ax.legend(loc="lower right", labelcolor="white")
            style.attach(
                fig,
                "matched IoU",
                {
                    "epoch": np.repeat(epochs, len(centres)),
                    "iou_from": np.tile(edges[:-1], len(epochs)),
                    "iou_to": np.tile(edges[1:], len(epochs)),
                    "pairs": counts.T.ravel(),
                    "share": share.T.ravel(),
                },
            )
        else:
            style.attach(
                fig,
                "matched IoU",
                {"epoch": [], "iou_from": [], "iou_to": [], "pairs": [], "share": []},
            )
        _finish(ax, table, empty=found.empty, shade=False)
        return fig


def side_by_side(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Runs against one another over epochs: AP (AP50 faint), targets per image, mean IoU of matched
    pairs.

    One colour an arm; the epochs in which Dense O2O was on are shaded.
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.55)
        tints = palette.colours(tables)
        panels = fig.subplots(1, 3)
        for ax, (kind, column, label) in zip(panels, _COMPARED, strict=True):
            rows = []
            for name, table in tables.items():
                found = _rows(table, kind, column)
                end = (
                    f" (AP {found[column].iloc[-1]:.3f} at the end)"
                    if kind == "val" and len(found)
                    else ""
                )
                ax.plot(
                    found["epoch"] + _AT[kind],
                    found[column],
                    color=tints[name],
                    linestyle=palette.dashes(name),
                    label=f"{name}{end}",
                    marker="o" if kind == "val" else _dots(found),
                    markersize=2.4,
                    clip_on=kind != "val",
                )
                kept = [
                    item
                    for item in ("epoch", column, "AP50")
                    if item in found and (item != "AP50" or kind == "val")
                ]
                rows.append(found[kept].assign(arm=name))
            for name, part in zip(tables, rows, strict=True):
                if "AP50" in part:
                    ax.plot(
                        part["epoch"] + _AT[kind],
                        part["AP50"],
                        color=tints[name],
                        linestyle=palette.dashes(name),
                        linewidth=0.9,
                        alpha=0.45,
                    )
            ax.set_ylabel(label)
            ax.set_ylim(bottom=0)
            together = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame({"epoch": []})
            _finish(
                ax,
                next((table for table in tables.values() if _is_dense(table)), pd.DataFrame()),
                empty=together.empty,
                last=max((len(_phases(table)) for table in tables.values()), default=1),
                strip=False,
            )
            style.attach(fig, label, together)
        handles, labels = panels[0].get_legend_handles_labels()
        if any(_is_dense(table) for table in tables.values()):
            handles, labels = (
                [*handles, Patch(color=palette.colour("dense"), alpha=0.10)],
                [*labels, "Dense O2O on"],
            )
        fig.legend(handles, labels, loc="outside upper left", ncols=max(1, len(labels)))
        return fig


def _rows(table: pd.DataFrame, kind: str, column: str) -> pd.DataFrame:
    """Rows of one kind that have the column, by epoch; an empty table keeps the columns it
    needs.
    """
    if table.empty or "kind" not in table or column not in table:
        return pd.DataFrame({"epoch": pd.Series(dtype=float), column: pd.Series(dtype=float)})
    found = table[(table["kind"] == kind) & table[column].notna()]
    return (
        found.loc[:, found.notna().any() | found.columns.isin(["epoch", column])]
        .sort_values("epoch")
        .reset_index(drop=True)
    )


def _dots(found: pd.DataFrame) -> str | None:
    """A marker where so few epochs are drawn that a line alone would hide them."""
    return "o" if len(found) <= 8 else None


def _phases(table: pd.DataFrame) -> list[str]:
    found = _rows(table, "train", "phase")
    return [str(phase) for phase in found["phase"]]


def _is_dense(table: pd.DataFrame) -> bool:
    """Whether Mosaic or MixUp was ever on."""
    return any(
        _rows(table, "train", name)[name].max() > 0
        for name in ("mosaic_share", "mixup_share")
        if len(_rows(table, "train", name))
    )


def _finish(
    ax: Axes,
    table: pd.DataFrame,
    *,
    empty: bool,
    shade: bool = True,
    strip: bool = True,
    last: int | None = None,
) -> None:
    """The epoch axis, and the phases behind the panel: Dense O2O tinted, and a strip of all of them
    along the top.
    """
    phases = _phases(table)
    end = last or max(len(phases), 1)
    ax.set_xlim(0, end)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=2))
    if empty:
        ax.text(
            0.5,
            0.5,
            _NOTHING,
            transform=ax.transAxes,
            ha="center",
            va="center",
            fontsize=7,
            color=palette.NOTE,
        )
    if not shade:
        return
    start = 0
    dense = _is_dense(table)
    for epoch in range(1, len(phases) + 1):
        if epoch == len(phases) or phases[epoch] != phases[start]:
            phase = Phase(phases[start])
            if (
                phase is Phase.DENSE and not dense
            ):  # with neither Mosaic nor MixUp, the phase is a plain one
                phase = Phase.PLAIN
            if phase is Phase.DENSE:
                ax.axvspan(
                    start, epoch, color=palette.colour("dense"), alpha=0.10, linewidth=0, zorder=0
                )
            if strip:
                ax.axvspan(start, epoch, ymin=0.985, color=PHASES[phase][1], linewidth=0, zorder=3)
            start = epoch
