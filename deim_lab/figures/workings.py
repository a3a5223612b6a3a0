"""What a run did to its images, where its time went, and the IoU of its matched pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deim_lab import palette
from deim_lab.config.entries import OPERATIONS
from deim_lab.figures import style
from deim_lab.figures.epochs import dots, finish, only, rows_of, shade

STAGES = palette.STAGES  # stages of a step, with their names in the log


def workings(table: pd.DataFrame) -> Figure:
    """Share of Mosaic and MixUp, and milliseconds per step by stage, epoch by epoch."""
    with style.context():
        fig = style.figure(style.DOUBLE, 2.2)
        first, second = fig.subplots(1, 2, width_ratios=(1, 1.35))
        composition(table, ax=first)
        stages(table, ax=second)
        return fig


def composition(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Share of images with Mosaic and of steps with MixUp, per epoch.

    Outside the dense phase both shares are 0. Lines of added augmentations follow.
    """
    with style.context():
        fig, ax = style.canvas(ax)
        rows = rows_of(table, "train", "mosaic_share")
        lines = [
            ("mosaic_share", "mosaic", "Mosaic, of the images"),
            ("mixup_share", "mixup", "MixUp, of the steps"),
            *(
                (f"applied/{name}", name, f"{OPERATIONS.label(name)}, of the images")
                for name in _further(rows)
            ),
        ]
        for column, name, text in lines:
            if column in rows:
                ax.plot(
                    rows["epoch"] + 0.5,
                    rows[column],
                    color=palette.colour(name),
                    label=text,
                    marker=dots(rows),
                )
        ax.set_ylim(-0.02, 1.35)
        ax.set_yticks((0, 0.5, 1), ("0 %", "50 %", "100 %"))
        ax.set_ylabel("share")
        if len(rows):
            ax.legend(loc="upper right")
        finish(ax, table, empty=rows.empty)
        shade(ax, table)
        style.attach(
            fig,
            "composition",
            only(rows, ("epoch", "phase", *(column for column, _, _ in lines))),
        )
        return fig


def _further(rows: pd.DataFrame) -> list[str]:
    """Names of the added augmentations whose shares are in a log."""
    names = [str(name).removeprefix("applied/") for name in rows if "applied/" in str(name)]
    return [name for name in names if name not in ("mosaic", "mixup")]


def stages(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Mean milliseconds of a step by stage, stacked, one column per epoch.

    The legend gives each stage's share. Only logged steps are measured: they wait for the device at
    each stage.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.35, 2.2)
        logged = rows_of(table, "train", "seconds/forward")
        names = [name for name in STAGES if f"seconds/{name}" in logged]
        times = pd.DataFrame(
            {
                "epoch": logged["epoch"],
                **{f"{name}_ms": 1000 * logged[f"seconds/{name}"].fillna(0.0) for name in names},
            }
        )
        below = np.zeros(len(times))
        total_ms = float(times.drop(columns="epoch").to_numpy(dtype=float).sum())
        handles = []
        for name in names:
            heights = times[f"{name}_ms"].to_numpy(dtype=float)
            share = heights.sum() / total_ms if total_ms else 0.0
            handles.append(
                ax.bar(
                    times["epoch"],
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
        ax.set_ylim(0, 1.12 * below.max() if total_ms else 1)
        ax.set_ylabel("ms a step")
        if handles:
            ax.legend(
                handles=handles[::-1],
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                handlelength=0.9,
            )  # in the order of the stack
        finish(ax, table, empty=times.empty)
        style.attach(fig, "stages", times)
        return fig


def iou_histogram(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """IoU of the last level's matched pairs, one column per epoch; the mean as a line.

    Colour shows the share of pairs.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.3, 2.6)
        rows = rows_of(table, "train", "matched_iou_histogram")
        ax.set_ylim(0, 1)
        ax.set_ylabel("IoU of matched pairs")
        if len(rows):
            counts = np.array(
                rows["matched_iou_histogram"].tolist(), dtype=float
            ).T  # [bins, epochs]
            share = counts / np.maximum(counts.sum(0), 1)
            edges = np.linspace(0, 1, len(counts) + 1)
            epochs = rows["epoch"].to_numpy()
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
        finish(ax, table, empty=rows.empty)
        return fig
