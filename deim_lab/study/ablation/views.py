"""Turn arms into tables: scores, curves, epochs to reach, γ, density, cost, half epochs.

Every function takes a ``Comparison`` and returns a plain frame. ``figures.ablation`` draws these
frames,
and ``deim_lab.study.tables`` prints them.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from deim_lab.config import NOT_IDENTITY
from deim_lab.study.ablation.activity import activity, loss_of
from deim_lab.study.ablation.arms import Arm, Comparison, Trial, defined
from deim_lab.study.ablation.standings import (
    SCORES,
    against_baseline,
    check_metric,
    higher_is_better,
    standing,
)
from deim_lab.study.ablation.statistics import first_reach, spread

Json = Any


def summary(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """One row per arm, the baseline first: scores over seeds and the difference in ``metric``.

    Scores are those of the last evaluation. Columns: ``arm, seeds, failed, unfinished``; ``<score>,
    <score>_sd`` for AP, AP50, AP75, best_f1 (each run's F1 at its own best threshold) and
    ``metric``;
    ``difference, low, high, p, smallest`` (NaN where undefined), ``test, pairs``, ``standing``.
    """
    check_metric(metric, comparison)
    rows = []
    for arm in comparison.arms:
        failed = sum(item.status == "failed" for item in arm.unfinished)
        row: dict[str, Json] = {
            "arm": arm.name,
            "seeds": len(arm.trials),
            "failed": failed,
            "unfinished": len(arm.unfinished) - failed,
        }
        for score in dict.fromkeys((*SCORES, metric)):
            row[score], row[f"{score}_sd"] = spread(list(arm.final(score).values()))
        if arm is not comparison.baseline and arm.trials:
            gap = against_baseline(arm, comparison, metric)
            row |= {
                "difference": gap.mean,
                "low": gap.low,
                "high": gap.high,
                "p": gap.p,
                "smallest": gap.smallest,
                "test": gap.test,
                "pairs": gap.seeds,
            }
        rows.append(row | {"standing": standing(arm, comparison)})
    columns = [
        *list(rows[0])[:-1],
        "difference",
        "low",
        "high",
        "p",
        "smallest",
        "test",
        "pairs",
        "standing",
    ]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))
    return _floats(frame).astype(dict.fromkeys(("seeds", "failed", "unfinished"), int))


def per_run(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """One row per finished run: the scores of its last evaluation and its best ``metric``.

    Columns: ``arm, seed, run, standing``, the scores, ``best`` and ``best_after`` (epochs).
    """
    rows = []
    for arm, trial in _trials(comparison):
        scores = _scores(trial, metric)
        top = _best(scores[metric], metric)
        last = trial.scores.iloc[-1]
        best, after = (
            (math.nan, math.nan)
            if top is None
            else (scores.at[top, metric], scores.at[top, "epochs_done"])
        )
        rows.append(
            {
                "arm": arm.name,
                "seed": trial.seed,
                **{
                    name: defined(name, last.get(name, math.nan))
                    for name in dict.fromkeys((*SCORES, metric))
                },
                "best": best,
                "best_after": after,
                "threshold": last.get("best_f1_threshold", math.nan),
                "standing": standing(arm, comparison),
                "run": trial.run,
            }
        )
    return pd.DataFrame(rows)


def _best(scores: pd.Series, metric: str) -> Any:
    """Label of the best score; None if no score is defined or no direction is better."""
    better = higher_is_better(metric)
    if better is None or not scores.notna().any():
        return None
    return scores.idxmax() if better else scores.idxmin()


def missing(comparison: Comparison) -> pd.DataFrame:
    """Runs that are in no mean: ``arm, seed, status, error, run``.

    Status ``lost``: the index calls the run done, but the disk does not have it.
    """
    rows = [
        {
            "arm": arm.name,
            "seed": item.seed,
            "status": item.status,
            "error": (item.error or "").split("\n")[0][:160],
            "run": item.run,
        }
        for arm in comparison.arms
        for item in arm.unfinished
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "status", "error", "run"])


def curves(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """Every evaluation: ``arm, seed, epochs_done`` and ``metric``."""
    check_metric(metric, comparison)
    rows = [
        _scores(trial, metric).assign(arm=arm.name, seed=trial.seed)
        for arm, trial in _trials(comparison)
    ]
    return pd.concat(rows, ignore_index=True)[["arm", "seed", "epochs_done", metric]]


def reaching(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """Epochs until each run first scores what the baseline scores at its end.

    The target is the baseline's last evaluation with the same seed, or its mean if the baseline
    lacks
    that seed. An epoch counts as reached at the first evaluation that is at least the target (at
    most,
    for a metric where lower is better; never, where neither direction is better). Nothing is
    interpolated, so the resolution is the interval between evaluations (``every``). The baseline is
    included: if it overfits, it passes its own final score earlier.

    Columns: ``arm, seed, target, epochs_to_reach`` (NaN: never), ``epochs`` (trained), ``every``,
    ``standing``.
    """
    finals = comparison.baseline.final(check_metric(metric, comparison))
    mean, _ = spread(list(finals.values()))
    better, rows = higher_is_better(metric), []
    for arm, trial in _trials(comparison):
        scores = _scores(trial, metric).dropna(subset=[metric])
        target = finals.get(trial.seed, mean)
        epochs_to_reach = first_reach(
            scores["epochs_done"].tolist(), scores[metric].tolist(), target, higher=better
        )
        rows.append(
            {
                "arm": arm.name,
                "seed": trial.seed,
                "target": target,
                "epochs_to_reach": math.nan if epochs_to_reach is None else epochs_to_reach,
                "epochs": trial.flat["train.epochs"],
                "every": trial.flat["train.eval_every"],
                "standing": standing(arm, comparison),
            }
        )
    return pd.DataFrame(rows)


def reached(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """Summarize ``reaching`` by arm.

    Columns: ``arm, seeds, reached`` (number of seeds that reached the target), ``mean, sd`` over
    those
    seeds, ``speedup`` (the baseline's epochs over the arm's, only if every seed reached it),
    ``standing``.
    """
    per_seed = reaching(comparison, metric)
    baseline_epochs = float(comparison.baseline.flat["train.epochs"])
    rows = []
    for name, part in per_seed.groupby("arm", sort=False):
        mean, sd = spread(part["epochs_to_reach"].tolist())
        reached_seeds = int(part["epochs_to_reach"].notna().sum())
        rows.append(
            {
                "arm": name,
                "seeds": len(part),
                "reached": reached_seeds,
                "mean": mean,
                "sd": math.nan if sd is None else sd,
                "speedup": baseline_epochs / mean if reached_seeds == len(part) else math.nan,
                "standing": part["standing"].iloc[0],
            }
        )
    return pd.DataFrame(rows)


def gammas(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """Scores against γ, for the largest set of MAL arms that differ in γ alone.

    Columns: ``gamma, seed``, the score and ``arm``. Empty (with these columns) if there is no such
    pair of arms.
    """
    check_metric(metric, comparison)
    families: dict[str, list[Arm]] = {}
    for arm in comparison.arms:
        if (
            arm.trials
            and arm.flat["loss.classification"] == "mal"
            and standing(arm, comparison) != "not active"
        ):
            families.setdefault(_without_key(arm, "loss.gamma"), []).append(arm)
    family = max(
        families.values(), key=lambda arms: len({loss_of(arm.flat)[1] for arm in arms}), default=[]
    )
    rows = [
        {"gamma": loss_of(arm.flat)[1], "seed": seed, metric: score, "arm": arm.name}
        for arm in family
        for seed, score in arm.final(metric).items()
    ]
    frame = pd.DataFrame(rows, columns=["gamma", "seed", metric, "arm"]).sort_values(
        ["gamma", "seed"], ignore_index=True
    )
    return frame if frame["gamma"].nunique() > 1 else frame.iloc[:0]


def densities(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """Measured targets per image against ``metric``.

    Columns: ``arm, seed, targets_per_image`` (over the run), ``targets_dense`` (in the epochs with
    Mosaic or MixUp), the score, ``standing``.
    """
    check_metric(metric, comparison)
    rows = []
    for arm in comparison.arms:
        scores = arm.final(metric)
        for trial in arm.trials:
            part = activity(Arm(arm.name, arm.flat, (trial,), changes=arm.changes), comparison)
            rows.append(
                {
                    "arm": arm.name,
                    "seed": trial.seed,
                    "targets_per_image": part.targets_per_image,
                    "targets_dense": part.targets_dense,
                    metric: scores.get(trial.seed, math.nan),
                    "standing": standing(arm, comparison),
                }
            )
    return pd.DataFrame(rows)


def price(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """Cost of each finished run: minutes, time per step, memory.

    Columns: ``arm, seed, minutes`` (wall time, with evaluations), ``step_ms`` (mean of the logged
    steps), ``peak_memory_mib`` (on a CPU: of the process), ``device``, the score.
    """
    check_metric(metric, comparison)
    rows = []
    for arm, trial in _trials(comparison):
        stages = trial.epochs[[name for name in trial.epochs if str(name).startswith("seconds/")]]
        memory = trial.epochs.get("peak_memory_mib", pd.Series(dtype=float))
        rows.append(
            {
                "arm": arm.name,
                "seed": trial.seed,
                "minutes": float(trial.info["seconds"]) / 60,
                "step_ms": 1000 * float(stages.sum(axis="columns").mean())
                if len(stages.columns)
                else math.nan,
                "peak_memory_mib": float(memory.max()),
                "device": trial.info.get("device"),
                metric: arm.final(metric).get(trial.seed, math.nan),
            }
        )
    return pd.DataFrame(rows)


def halves(comparison: Comparison, metric: str = "AP") -> pd.DataFrame:
    """Arms at E / 2 epochs against the baseline at E, the paper's headline claim.

    One row per arm whose budget is half the baseline's and otherwise equal. Columns: ``arm, epochs,
    baseline_epochs, seeds``, the score and ``<score>_sd``, ``baseline`` (its mean),
    ``difference, low, high, p, test``, ``standing`` (``not active``, ``unsound baseline``, else
    ``counts``).
    Empty if no arm ran half as long.
    """
    check_metric(metric, comparison)
    rows = []
    for arm in comparison.arms:
        budget = comparison.budget(arm)
        if (
            not arm.trials
            or set(budget) != {"train.epochs"}
            or abs(2 * budget["train.epochs"][0] - budget["train.epochs"][1]) > 1
        ):
            continue
        gap = against_baseline(arm, comparison, metric)
        mean, sd = spread(list(arm.final(metric).values()))
        rows.append(
            {
                "arm": arm.name,
                "epochs": budget["train.epochs"][0],
                "baseline_epochs": budget["train.epochs"][1],
                "seeds": len(arm.trials),
                metric: mean,
                f"{metric}_sd": sd,
                "baseline": spread(list(comparison.baseline.final(metric).values()))[0],
                "difference": gap.mean,
                "low": gap.low,
                "high": gap.high,
                "p": gap.p,
                "test": gap.test,
                "pairs": gap.seeds,
                "standing": "counts"
                if (status := standing(arm, comparison)) == "other budget"
                else status,
            }
        )
    columns = [
        "arm",
        "epochs",
        "baseline_epochs",
        "seeds",
        metric,
        f"{metric}_sd",
        "baseline",
        "difference",
        "low",
        "high",
        "p",
        "test",
        "pairs",
        "standing",
    ]
    return _floats(pd.DataFrame(rows, columns=columns))


def proof(comparison: Comparison) -> pd.DataFrame:
    """One row per arm: what its runs did (``Activity``), what it changes, and the doubts."""
    rows = []
    for arm in comparison.arms:
        if not arm.trials:
            continue
        of = activity(arm, comparison)
        changes = ", ".join(f"{key}={value}" for key, value in arm.changes.items()) or "(baseline)"
        rows.append(
            {
                "arm": arm.name,
                "changes": changes,
                "loss": of.classification,
                "matching": of.matching,
                "targets_per_image": of.targets_per_image,
                "targets_dense": of.targets_dense,
                "dense_epochs": of.dense_epochs,
                "mosaic_share": of.mosaic_share,
                "mixup_share": of.mixup_share,
                **{f"applied/{name}": share for name, share in of.applied.items()},
                "positives_per_image": of.positives_per_image,
                "lr_reached": of.lr_reached,
                "doubts": "; ".join(of.doubts),
            }
        )
    return pd.DataFrame(rows)


def _trials(comparison: Comparison) -> list[tuple[Arm, Trial]]:
    return [(arm, trial) for arm in comparison.arms for trial in arm.trials]


def _scores(trial: Trial, metric: str) -> pd.DataFrame:
    """``epochs_done`` and the metric, NaN where it is undefined (-1 in the log)."""
    values = (
        pd.to_numeric(trial.scores[metric])
        if metric in trial.scores
        else pd.Series(math.nan, index=trial.scores.index)
    )
    return pd.DataFrame(
        {
            "epochs_done": trial.epochs_done,
            metric: [defined(metric, float(value)) for value in values],
        }
    )


def _without_key(arm: Arm, key: str) -> str:
    """The arm's configuration without one key, as text."""
    flat = {name: value for name, value in arm.flat.items() if name not in NOT_IDENTITY}
    return json.dumps(
        {name: value for name, value in (flat | arm.changes).items() if name != key}, sort_keys=True
    )


def _floats(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert numbers to floats and None to NaN; a frame without rows keeps its columns."""
    return frame.astype(
        {name: float for name in frame.columns if name not in ("arm", "test", "standing")}
    )
