"""Format the table of a comparison for people: numbers with their spread, and words."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from deim_lab.config.entries import VALIDATION
from deim_lab.study.ablation.standings import SCORES

Json = Any


def readable(frame: pd.DataFrame, metric: str = "AP") -> pd.DataFrame:
    """Format ``summary`` for people: ``0.548 ± 0.012``, ``+0.038 [+0.020, +0.056]``, words."""
    rows = []
    for record in frame.to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        runs = f"{row['seeds']}" + "".join(
            f", {row[name]} {name}" for name in ("failed", "unfinished") if row[name]
        )
        scores = {
            VALIDATION.label(score): _mean(row[score], row[f"{score}_sd"])
            for score in dict.fromkeys((*SCORES, metric))
        }
        gap = "" if math.isnan(row["difference"]) else signed(row["difference"])
        if not math.isnan(row["low"]):
            gap += f" [{signed(row['low'])}, {signed(row['high'])}]"
        rows.append(
            {"arm": row["arm"], "seeds": runs}
            | scores
            | {f"Δ {VALIDATION.label(metric)} (95 %)": gap, "in words": _in_words(row)}
        )
    return pd.DataFrame(rows)


def _mean(mean: float, sd: float) -> str:
    return "" if math.isnan(mean) else with_sd(mean, sd)


def with_sd(mean: float, sd: float | None) -> str:
    """Format ``0.548 ± 0.012``; the mean alone if there is no spread (None or NaN)."""
    return f"{mean:.3f}" if sd is None or math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def signed(value: float) -> str:
    """Format a number with its sign, as in ``+0.012``.

    One digit more if the number would round to 0; ``±0.000`` if that rounds to 0 too.
    """
    return next((text for text in (f"{value:+.3f}", f"{value:+.4f}") if float(text)), "±0.000")


def _in_words(row: dict[str, Json]) -> str:
    if row["standing"] != "counts":
        return str(
            {
                "not active": "left out: factor not active",
                "unsound baseline": "left out: unsound baseline",
                "other budget": "another budget",
            }.get(row["standing"], row["standing"])
        )
    if math.isnan(row["low"]):
        return "too few seeds for an interval"
    kind = " (unpaired)" if row["test"] == "Welch" else ""
    if row["low"] <= 0 <= row["high"]:
        return f"not significant{kind}"
    direction = "higher" if row["difference"] > 0 else "lower"
    return f"{direction}{kind}"
