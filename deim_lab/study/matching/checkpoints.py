"""A run looked at checkpoint by checkpoint: pairs of low quality, and who changed the query."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from deim_lab.errors import DataError
from deim_lab.structures import Targets
from deim_lab.study.matching.view import View, inspect
from deim_lab.weights.own import load_detector

_log = logging.getLogger(__name__)


LOW_QUALITY = 0.5  # a match below this IoU is of low quality (DEIM, section 3.2)


def look_back(run_folder: str | Path, images: Tensor, targets: Targets) -> dict[int, View]:
    """Epoch → view, for every checkpoint that a run kept (``train.keep_checkpoints=all``), by the
    run's own kind of matching.

    A run that kept none is seen at its best and its last checkpoint, with a warning that says so.

    Raises:
        DataError: there is no checkpoint. WeightsError: one can't be read.
    """
    views: dict[int, View] = {}
    for epoch, path in kept_checkpoints(run_folder).items():
        loaded = load_detector(path)
        views[epoch] = inspect(loaded.model, images, targets, loaded.config.match)
    return views


def kept_checkpoints(run_folder: str | Path) -> dict[int, Path]:
    """Epoch → file, in order: those of each epoch, or else best and last (see ``look_back``)."""
    folder = Path(run_folder) / "checkpoints"
    paths = {
        int(path.stem.removeprefix("epoch_")): path for path in sorted(folder.glob("epoch_*.pt"))
    }
    if paths:
        return paths
    others = [folder / name for name in ("best.pt", "last.pt") if (folder / name).is_file()]
    if not others:
        raise DataError(f"{folder} holds no checkpoint: was this run started, and saved?")
    _log.warning(
        "%s kept no checkpoint of each epoch (train.keep_checkpoints=all does); looking at %s",
        run_folder,
        " and ".join(path.name for path in others),
    )
    for path in others:
        epoch = int(torch.load(path, map_location="cpu", weights_only=True)["epoch"])
        paths[epoch - (path.name == "last.pt")] = (
            path  # the last checkpoint says which epoch comes next
        )
    return dict(sorted(paths.items()))


def pairs_over(views: Mapping[int, View]) -> pd.DataFrame:
    """``View.pairs`` of several checkpoints under one another, with the column ``epoch``."""
    return pd.concat(
        [view.pairs().assign(epoch=epoch) for epoch, view in views.items()], ignore_index=True
    )


def low_quality(pairs: pd.DataFrame) -> pd.DataFrame:
    """``epoch, level, share, pairs``: share of the matched pairs with an IoU below
    ``LOW_QUALITY``.
    """
    grouped = pairs.assign(share=pairs["iou"] < LOW_QUALITY).groupby(
        ["epoch", "level"], sort=False
    )["share"]
    return grouped.agg(share="mean", pairs="size").reset_index()


def stability(previous: View, current: View) -> dict[str, float]:
    """Level → share of targets whose query (of several: any of them) is another one in ``current``,
    of those matched in both.

    A query is known by its anchor, not by its rank in the selection (compare the instability of
    DN-DETR, Li et al. 2022, section 3.1, of queries that keep their place). NaN where no target is
    matched in both.

    Raises:
        ValueError: the views are of different targets or levels.
    """
    if previous.levels != current.levels or not torch.equal(
        previous.targets.boxes_cxcywh, current.targets.boxes_cxcywh
    ):
        raise ValueError(
            f"views of other images or levels can't be compared: {len(previous.targets)} targets "
            f"at {', '.join(previous.levels)}, "
            f"and {len(current.targets)} at {', '.join(current.levels)}"
        )
    result = {}
    for index, level in enumerate(current.levels):
        before, after = _queries_of_targets(previous, index), _queries_of_targets(current, index)
        shared = before.keys() & after.keys()
        result[level] = (
            sum(before[target] != after[target] for target in shared) / len(shared)
            if shared
            else float("nan")
        )
    return result


def stability_over(views: Mapping[int, View]) -> pd.DataFrame:
    """``epoch, level, changed``: ``stability`` of each checkpoint against the one before it."""
    epochs = list(views)
    rows = [
        (epoch, level, share)
        for before, epoch in itertools.pairwise(epochs)
        for level, share in stability(views[before], views[epoch]).items()
    ]
    return pd.DataFrame(rows, columns=["epoch", "level", "changed"])


def _queries_of_targets(view: View, level: int) -> dict[int, frozenset[int]]:
    matches = view.matches.of_level(level)
    found: dict[int, set[int]] = {}
    for target, name in zip(
        matches.target.tolist(), view.names[matches.image, matches.query].tolist(), strict=True
    ):
        found.setdefault(target, set()).add(name)
    return {target: frozenset(names) for target, names in found.items()}
