"""Arms against one another over seeds: differences with their intervals, curves with bands, epochs
to reach, γ, density, price.

The tables are those of ``compare``'s views; nothing is averaged here that they don't hold. An arm
that is left out of the conclusions (its factor never active, another budget) is drawn hollow.
``tints`` (arm → colour, as ``colours`` gives it for all arms of a comparison) keeps an arm's colour
where a table lacks some of the others; by default the table's own arms are coloured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deim_lab import palette
from deim_lab.figures import style

TITLES = {"best_f1": "best F1"}
_COUNTED = ("counts", "baseline")
_MARKERS = "osD^vP*X"  # a second mark of each arm, for print in grey
_ROW = 0.34  # inches: height of an arm's row


colours = palette.arms


def differences(
    summary: pd.DataFrame,
    per_run: pd.DataFrame,
    metric: str = "AP",
    *,
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Each arm's mean difference to the baseline with its 95 % interval, a dot a shared seed. An
    interval that holds 0 is grey: not significant.

    Args:
        summary: ``arm, difference, low, high, standing``, the baseline first (``compare.summary``).
        per_run: ``arm, seed`` and the metric (``compare.per_run``).
    """
    baseline = str(summary["arm"].iloc[0])
    rows = summary[summary["difference"].notna()].reset_index(drop=True)
    seeds = {name: part.set_index("seed")[metric] for name, part in per_run.groupby("arm")}
    with style.context():
        fig, ax = style.canvas(ax, style.DOUBLE * 0.72, 0.75 + _ROW * max(2, len(rows)))
        tints = tints or colours(summary["arm"])
        dots: list[dict[str, Any]] = []
        for place, row in enumerate(rows.iloc[::-1].to_dict("records")):
            counts = row["standing"] in _COUNTED
            gaps = (seeds[row["arm"]] - seeds[baseline]).dropna()
            dots += [{"arm": row["arm"], "seed": seed, "gap": gap} for seed, gap in gaps.items()]
            sure = counts and pd.notna(row["low"]) and not row["low"] <= 0 <= row["high"]
            tint = tints[row["arm"]] if sure else palette.NOT_SIGNIFICANT
            if pd.notna(row["low"]):
                ax.plot(
                    [row["low"], row["high"]],
                    [place, place],
                    color=tint,
                    linewidth=2.2 if counts else 1.0,
                    solid_capstyle="butt",
                    zorder=2,
                )
            ax.plot(
                row["difference"],
                place,
                "s",
                markersize=5.5,
                color=tint,
                markerfacecolor=tint if counts else "white",
                zorder=4,
            )
            ax.plot(
                gaps,
                np.full(len(gaps), place + 0.24),
                "o",
                markersize=2.6,
                color=tint,
                alpha=0.75,
                markeredgewidth=0,
                zorder=3,
            )
            ax.annotate(
                _remark(row),
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=7,
                color=palette.INK,
            )
        ax.axvline(0, color=palette.INK, linewidth=0.8, zorder=1)
        ax.set_yticks(range(len(rows)), list(rows["arm"])[::-1])
        ax.set_ylim(-0.6, len(rows) - 0.3)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
        ax.set_xlabel(f"{title(metric)} − {baseline}'s: mean, 95 % interval, each seed")
        _empty(ax, rows.empty, "no arm to compare")
        style.attach(
            fig,
            "differences",
            rows[["arm", "difference", "low", "high", "p", "test", "pairs", "standing"]],
        )
        style.attach(fig, "seeds", pd.DataFrame(dots, columns=["arm", "seed", "gap"]))
        return fig


def _remark(row: dict[Any, Any]) -> str:
    if row["standing"] not in _COUNTED:
        return str(row["standing"])
    if pd.isna(row["low"]):
        return "no interval: one seed"
    return (
        "not significant"
        if row["low"] <= 0 <= row["high"]
        else "higher"
        if row["difference"] > 0
        else "lower"
    )


def curves(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    target: float | None = None,
    baseline: str | None = None,
    left_out: Collection[str] = (),
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The metric over epochs: the mean over seeds as a line, the range of the seeds as a band, a
    mark an evaluation.

    Args:
        table: ``arm, seed, epochs_done`` and the metric (``compare.curves``).
        target: drawn as a level: the baseline's score at the end.
        baseline: its name, for the level's label.
        left_out: arms that are in no conclusion: drawn thin, with hollow marks.
    """
    with style.context():
        fig, ax = style.canvas(ax, style.DOUBLE * 0.72, 3.0)
        tints, bands = tints or colours(table["arm"].unique()), []
        for (name, part), marker in zip(
            table.groupby("arm", sort=False), _cycle(_MARKERS), strict=False
        ):
            over = (
                part.groupby("epochs_done")[metric]
                .agg(["mean", "min", "max", "count"])
                .dropna()
                .reset_index()
            )
            seeds = part["seed"].nunique()
            over = over[over["count"] == over["count"].max()]  # a mean over fewer seeds would jump
            label = f"{name} ({seeds} seed{'' if seeds == 1 else 's'})"
            (line,) = ax.plot(
                over["epochs_done"],
                over["mean"],
                color=tints[str(name)],
                marker=marker,
                linestyle=palette.dashes(str(name)),
                label=label,
            )
            if name in left_out:
                line.set(
                    linewidth=0.7,
                    markerfacecolor="white",
                    markeredgewidth=0.7,
                    label=f"{label}, left out",
                )
            if seeds > 1:
                ax.fill_between(
                    over["epochs_done"],
                    over["min"],
                    over["max"],
                    color=tints[str(name)],
                    alpha=0.15,
                    linewidth=0,
                )
            bands.append(over.assign(arm=name))
        if target is not None:
            ax.axhline(target, color=palette.INK, linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=1)
            ax.annotate(
                f"{baseline or 'baseline'}'s end: {target:.3f}",
                (0, target),
                xycoords=("axes fraction", "data"),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=7,
            )
        _epochs(ax, table["epochs_done"])
        ax.set_ylabel(f"{title(metric)} (mean; band: all seeds)")
        ax.legend(loc="lower right")
        whole = pd.concat(bands, ignore_index=True) if bands else pd.DataFrame({"arm": []})
        style.attach(fig, "curves", whole)
        return fig


def reaching(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Epochs until each run first scores what the baseline scores at its end: a dot a seed, a bar
    the mean; ``never`` stands on the right.

    ``table``: ``arm, seed, epochs_to_reach`` (NaN: never), ``epochs, standing``, the baseline first
    (``compare.reaching``).
    """
    with style.context():
        arms = list(table["arm"].unique())
        fig, ax = style.canvas(ax, style.DOUBLE * 0.72, 0.75 + _ROW * max(2, len(arms)))
        tints, longest = tints or colours(arms), float(table["epochs"].max()) if len(table) else 1.0
        never = 1.12 * longest
        for place, name in enumerate(arms[::-1]):
            part = table[table["arm"] == name].sort_values("epochs_to_reach")
            counts = part["standing"].iloc[0] in _COUNTED
            found = part["epochs_to_reach"]
            at = found.fillna(never).to_numpy(dtype=float)
            lift = 0.13 * (np.arange(len(at)) - (len(at) - 1) / 2)  # equal answers side by side
            face = tints[name] if counts else "white"
            ax.plot(
                at,
                place + lift,
                "o",
                color=tints[name],
                markersize=4,
                markerfacecolor=face,
                clip_on=False,
                zorder=3,
            )
            if found.notna().all() and len(found):
                ax.plot(
                    [found.mean()] * 2,
                    [place - 0.32, place + 0.32],
                    color=tints[name],
                    linewidth=1.6,
                )
                ax.annotate(
                    f"{found.mean():.1f}",
                    (found.mean(), place + 0.34),
                    ha="center",
                    va="bottom",
                    fontsize=6.5,
                    annotation_clip=False,
                )
            ax.axhline(place, color=palette.FAINT, linewidth=0.5, zorder=1)
        if table["epochs_to_reach"].isna().any():
            ax.axvline(1.06 * longest, color=palette.INK, linewidth=0.6, linestyle=(0, (1, 2)))
            ax.annotate(
                "never",
                (never, 1.0),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=7,
            )
        ax.set_yticks(range(len(arms)), arms[::-1])
        ax.set_ylim(-0.6, len(arms) - 0.3)
        ax.set_xlim(0, 1.18 * longest if table["epochs_to_reach"].isna().any() else 1.03 * longest)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel(
            f"epochs to {arms[0] if arms else 'the baseline'}'s final {title(metric)} (first "
            f"evaluation that is as high)"
        )
        style.attach(fig, "epochs to reach", table)
        return fig


def gammas(
    table: pd.DataFrame, metric: str = "AP", *, recipe: float = 1.5, ax: Axes | None = None
) -> Figure:
    """The metric against MAL's γ: a dot a run, the mean as a line, ± one standard deviation. The
    recipe's own γ is marked.

    ``table``: ``gamma, seed`` and the metric (``compare.gammas``).
    """
    with style.context():
        fig, ax = style.canvas(ax)
        over = table.groupby("gamma")[metric].agg(["mean", "std", "count"]).reset_index()
        colour = palette.METHODS["mal"]
        ax.plot(
            table["gamma"],
            table[metric],
            "o",
            markersize=2.8,
            color=colour,
            alpha=0.5,
            markeredgewidth=0,
        )
        ax.errorbar(
            over["gamma"],
            over["mean"],
            over["std"].fillna(0),
            color=colour,
            marker="s",
            capsize=2,
            linewidth=1.4,
            elinewidth=0.8,
        )
        if len(over):
            ax.axvline(recipe, color=palette.INK, linewidth=0.6, linestyle=(0, (1, 1.5)), zorder=1)
            ax.annotate(
                "recipe",
                (recipe, 1),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=7,
            )
        ax.set_xlabel("γ of MAL")
        ax.set_ylabel(f"{title(metric)} (mean ± sd)")
        _empty(ax, over.empty, "γ was not varied (grids/gamma.yaml)")
        style.attach(fig, "gamma", table)
        return fig


def density(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The metric against targets per image as the runs measured them (mean over the whole run): a
    dot a run, a large mark each arm's mean.

    ``table``: ``arm, seed, targets_per_image`` and the metric, ``standing``
    (``compare.densities``).
    """
    return _against(
        table,
        "targets_per_image",
        "targets per image over the run, measured",
        metric,
        "density",
        ax,
        tints,
    )


def price(
    table: pd.DataFrame, metric: str = "AP", *, tints: Mapping[str, str] | None = None
) -> Figure:
    """The metric against minutes of wall time (left) and peak memory (right): a dot a run, a large
    mark each arm's mean.

    ``table``: ``arm, minutes, peak_memory_mib`` and the metric (``compare.price``).
    """
    with style.context():
        fig = style.figure(style.DOUBLE, 2.5)
        left, right = fig.subplots(1, 2, sharey=True)
        _against(
            table, "minutes", "minutes a run (wall)", metric, "time", left, tints, legend=False
        )
        _against(table, "peak_memory_mib", "peak memory, MiB", metric, "memory", right, tints)
        right.set_ylabel("")
        return fig


def halves(
    table: pd.DataFrame,
    metric: str = "AP",
    *,
    tints: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Arms at half the epochs against the baseline at all of them: the difference with its 95 %
    interval.

    ``table``: ``arm, epochs, baseline_epochs, difference, low, high, standing``
    (``compare.halves``).
    """
    with style.context():
        fig, ax = style.canvas(ax, style.DOUBLE * 0.72, 0.75 + _ROW * max(2, len(table)))
        tints = tints or colours(table["arm"])
        for place, row in enumerate(table.iloc[::-1].to_dict("records")):
            counts = row["standing"] in _COUNTED
            sure = counts and pd.notna(row["low"]) and not row["low"] <= 0 <= row["high"]
            tint = tints[row["arm"]] if sure else palette.NOT_SIGNIFICANT
            if pd.notna(row["low"]):
                ax.plot(
                    [row["low"], row["high"]],
                    [place, place],
                    color=tint,
                    linewidth=2.2,
                    solid_capstyle="butt",
                )
            ax.plot(
                row["difference"],
                place,
                "s",
                markersize=5.5,
                color=tint,
                markerfacecolor=tint if counts else "white",
                zorder=4,
            )
            ax.annotate(
                _remark(row),
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=7,
            )
        ax.axvline(0, color=palette.INK, linewidth=0.8, zorder=1)
        ax.set_yticks(
            range(len(table)),
            [f"{row['arm']} ({row['epochs']:.0f})" for row in table.iloc[::-1].to_dict("records")],
        )
        ax.set_ylim(-0.6, max(len(table), 1) - 0.3)
        ax.tick_params(axis="y", length=0)
        whole = f" at {table['baseline_epochs'].iloc[0]:.0f} epochs" if len(table) else ""
        ax.set_xlabel(f"{title(metric)} at half the epochs − the baseline's{whole}")
        _empty(ax, table.empty, "no arm ran half as long as the baseline (grids/half_epochs.yaml)")
        style.attach(fig, "half the epochs", table)
        return fig


def title(metric: str) -> str:
    """A metric as it is printed."""
    return TITLES.get(metric, metric)


def _against(
    table: pd.DataFrame,
    column: str,
    label: str,
    metric: str,
    panel: str,
    ax: Axes | None,
    tints: Mapping[str, str] | None,
    *,
    legend: bool = True,
) -> Figure:
    """A dot a run and a large mark each arm's mean."""
    with style.context():
        fig, ax = style.canvas(ax, style.DOUBLE * 0.72, 2.7)
        tints = tints or colours(table["arm"].unique())
        for (name, part), marker in zip(
            table.groupby("arm", sort=False), _cycle(_MARKERS), strict=False
        ):
            counts = "standing" not in part or part["standing"].iloc[0] in _COUNTED
            face = tints[str(name)] if counts else "none"
            ax.scatter(
                part[column],
                part[metric],
                s=12,
                marker=marker,
                facecolors=to_rgba(tints[str(name)], 0.45) if counts else "none",
                edgecolors=tints[str(name)],
                linewidths=0 if counts else 0.7,
            )
            ax.scatter(
                part[column].mean(),
                part[metric].mean(),
                s=46,
                marker=marker,
                facecolors=face,
                edgecolors=tints[str(name)],
                linewidths=1.0,
                label=name,
                zorder=3,
            )
        ax.set_xlabel(label)
        ax.set_ylabel(title(metric))
        ax.margins(x=0.08, y=0.1)
        if legend and len(table):
            ax.legend(
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                title="mean (large), runs",
                title_fontsize=7,
            )
        _empty(ax, bool(table[column].isna().all()) if len(table) else True, "not in the log")
        style.attach(
            fig,
            panel,
            table[[name for name in ("arm", "seed", column, metric, "standing") if name in table]],
        )
        return fig


def _cycle(items: Sequence[str]) -> Iterable[str]:
    return (items[number % len(items)] for number in range(10_000))


def _epochs(ax: Axes, epochs_done: pd.Series) -> None:
    ax.set_xlim(0, 1.02 * float(epochs_done.max()) if len(epochs_done) else 1)
    ax.set_xlabel("epochs")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=2))


def _empty(ax: Axes, empty: bool, said: str) -> None:
    if empty:
        ax.text(
            0.5,
            0.5,
            said,
            transform=ax.transAxes,
            ha="center",
            va="center",
            fontsize=7,
            color=palette.NOTE,
        )
