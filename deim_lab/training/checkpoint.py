"""Checkpoints of a run: written completely or not at all, read without executing code.

``checkpoints/last.pt`` continues a run. ``checkpoints/best.pt`` is its best model by validation AP.
A new ``last.pt`` first moves the old file to ``last_previous.pt``. A file damaged by a full disk or
a crash therefore costs one interval, not the run.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from deim_lab.errors import WeightsError
from deim_lab.host import files
from deim_lab.weights.own import FORMAT

LAST, PREVIOUS, BEST = "last.pt", "last_previous.pt", "best.pt"
# EMA weights of one epoch, counted from 0; written if train.keep_checkpoints is "all"
EPOCH = "epoch_{:04d}.pt"

_log = logging.getLogger(__name__)


def save(path: Path, state: dict[str, Any], *, keep_previous: Path | None = None) -> None:
    """Write ``state`` (only tensors and plain values) under a temporary name, then rename it."""
    with files.writing_whole(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)
        if keep_previous is not None and path.exists():
            os.replace(path, keep_previous)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this package with ``weights_only=True``.

    Raises ``WeightsError`` naming the file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path}: not a readable checkpoint. The file may be truncated "
            f"({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise WeightsError(f"{path}: not a checkpoint of this package (format {FORMAT!r} expected)")
    return state


def read_last(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint of a run's ``checkpoints`` folder; None before the first.

    For a damaged ``last.pt``, logs a warning and reads the previous checkpoint. Raises
    ``WeightsError`` if files exist but none is readable.
    """
    problems: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            return read(path)
        except WeightsError as error:
            problems.append(str(error))
            _log.warning("%s. Trying the previous checkpoint", error)
    if problems:
        raise WeightsError("no readable checkpoint: " + "; ".join(problems))
    return None
