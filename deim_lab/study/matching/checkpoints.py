"""Follow a run over its checkpoints: low-quality matches, and targets that change query."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from deim_lab.errors import DataError
from deim_lab.host.files import user_path
from deim_lab.structures import Targets
from deim_lab.study.matching.view import View, inspect
from deim_lab.weights.own import load_detector

_log = logging.getLogger(__name__)


LOW_QUALITY = 0.5  # a match below this IoU is of low quality (DEIM, section 3.2)


def look_back(run_folder: str | Path, images: Tensor, targets: Targets) -> dict[int, View]:
    """View a run at every checkpoint that it kept, with the run's own kind of matching.

    Returns epoch → view. ``train.keep_checkpoints=all`` keeps a checkpoint of every epoch.
    Otherwise the best and the last checkpoint are used, with a warning.

    Raises:
        DataError: there is no checkpoint.
        WeightsError: a checkpoint cannot be read.
    """
    views: dict[int, View] = {}
    for epoch, path in kept_checkpoints(run_folder).items():
        loaded = load_detector(path)
        views[epoch] = inspect(loaded.model, images, targets, loaded.config.match)
    return views


def kept_checkpoints(run_folder: str | Path) -> dict[int, Path]:
    """Map epochs to checkpoint files, in order: one per epoch, or else best and last."""
    folder = user_path(run_folder) / "checkpoints"
    paths = {
        int(path.stem.removeprefix("epoch_")): path for path in sorted(folder.glob("epoch_*.pt"))
    }
    if paths:
        return paths
    others = [folder / name for name in ("best.pt", "last.pt") if (folder / name).is_file()]
    if not others:
        raise DataError(f"{folder} has no checkpoint: was this run started and saved?")
    _log.warning(
        "%s did not keep the checkpoint of every epoch (train.keep_checkpoints=all does); using %s",
        run_folder,
        " and ".join(path.name for path in others),
    )
    for path in others:
        epoch = int(torch.load(path, map_location="cpu", weights_only=True)["epoch"])
        paths[epoch - (path.name == "last.pt")] = path  # the last checkpoint stores the next epoch
    return dict(sorted(paths.items()))


def pairs_over(views: Mapping[int, View]) -> pd.DataFrame:
    """Concatenate ``View.pairs`` of several checkpoints, with the column ``epoch``."""
    return pd.concat(
        [view.pairs().assign(epoch=epoch) for epoch, view in views.items()], ignore_index=True
    )


def low_quality(pairs: pd.DataFrame) -> pd.DataFrame:
    """Share of the pairs with an IoU below ``LOW_QUALITY``: ``epoch, level, share, pairs``."""
    grouped = pairs.assign(share=pairs["iou"] < LOW_QUALITY).groupby(
        ["epoch", "level"], sort=False
    )["share"]
    return grouped.agg(share="mean", pairs="size").reset_index()


def stability(previous: View, current: View) -> dict[str, float]:
    """Share of targets per level whose query changed between two views.

    Only targets that are matched in both views count. A target with several queries changed if any
    of them is different. A query is identified by its anchor, not by its rank in the selection.
    (Compare the instability of DN-DETR, Li et al. 2022, section 3.1, for queries that keep their
    place.) NaN where no target is matched in both views.

    Raises:
        ValueError: the views have different targets or levels.
    """
    if previous.levels != current.levels or not torch.equal(
        previous.targets.boxes_cxcywh, current.targets.boxes_cxcywh
    ):
        raise ValueError(
            f"the two views have different images or levels: {len(previous.targets)} targets at "
            f"{', '.join(previous.levels)}, "
            f"and {len(current.targets)} at {', '.join(current.levels)}. Compare views of one batch"
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
    """``stability`` of each checkpoint against the one before: ``epoch, level, changed``."""
    epochs = list(views)
    rows = [
        (epoch, level, share)
        for before, epoch in itertools.pairwise(epochs)
        for level, share in stability(views[before], views[epoch]).items()
    ]
    return pd.DataFrame(rows, columns=["epoch", "level", "changed"])


def _queries_of_targets(view: View, level: int) -> dict[int, frozenset[int]]:
    matches = view.matches.of_level(level)
    queries: dict[int, set[int]] = {}
    for target, name in zip(
        matches.target.tolist(), view.names[matches.image, matches.query].tolist(), strict=True
    ):
        queries.setdefault(target, set()).add(name)
    return {target: frozenset(names) for target, names in queries.items()}
