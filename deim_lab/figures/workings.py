"""What a run did with its images and its time: Mosaic and MixUp, stages of a step, IoU of the
matched pairs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deim_lab import palette
from deim_lab.config.entries import OPERATIONS
from deim_lab.figures import style
from deim_lab.figures.epochs import dots, finish, only, rows_of, shade

STAGES = palette.STAGES  # of a step, as the log names them


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
    both are 0. Added augmentations follow.
    """
    with style.context():
        fig, ax = style.canvas(ax)
        found = rows_of(table, "train", "mosaic_share")
        lines = [
            ("mosaic_share", "mosaic", "Mosaic, of the images"),
            ("mixup_share", "mixup", "MixUp, of the steps"),
            *(
                (f"applied/{name}", name, f"{OPERATIONS.label(name)}, of the images")
                for name in _further(found)
            ),
        ]
        for column, name, text in lines:
            if column in found:
                ax.plot(
                    found["epoch"] + 0.5,
                    found[column],
                    color=palette.colour(name),
                    label=text,
                    marker=dots(found),
                )
        ax.set_ylim(-0.02, 1.35)
        ax.set_yticks((0, 0.5, 1), ("0 %", "50 %", "100 %"))
        ax.set_ylabel("share")
        if len(found):
            ax.legend(loc="upper right")
        finish(ax, table, empty=found.empty)
        shade(ax, table)
        style.attach(
            fig,
            "composition",
            only(found, ("epoch", "phase", *(column for column, _, _ in lines))),
        )
        return fig


def _further(found: pd.DataFrame) -> list[str]:
    """Names of the added augmentations that a log has shares of."""
    names = [str(name).removeprefix("applied/") for name in found if "applied/" in str(name)]
    return [name for name in names if name not in ("mosaic", "mixup")]


def stages(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Mean milliseconds of a step by stage, stacked, an epoch a column; the legend says each
    stage's share. Of the logged steps, which wait for the device at each stage.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.35, 2.2)
        logged = rows_of(table, "train", "seconds/forward")
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
        finish(ax, table, empty=found.empty)
        style.attach(fig, "stages", found)
        return fig


def iou_histogram(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """IoU of the matched pairs of the last level, an epoch a column: the share of pairs by colour,
    the mean as a line.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.SINGLE * 1.3, 2.6)
        found = rows_of(table, "train", "matched_iou_histogram")
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
        finish(ax, table, empty=found.empty)
        return fig
