"""Open a data set: find its files, read both halves, refuse it if it has a fault.

``layouts`` finds the files. ``dataset`` reads and serves one half, ``open_source`` opens both.
"""

from __future__ import annotations

import hashlib
import logging

import numpy as np

from deim_lab.config.data import DataConfig
from deim_lab.data import look, split, whole
from deim_lab.data.annotations import Annotations, Categories
from deim_lab.data.dataset import CocoDataset
from deim_lab.data.faults import Faults
from deim_lab.data.half import add_damaged
from deim_lab.data.layouts import EMBEDDED, DataSource, resolve
from deim_lab.errors import DataError
from deim_lab.structures import Scene

__all__ = [
    "EMBEDDED",
    "Annotations",
    "Categories",
    "CocoDataset",
    "DataSource",
    "Sample",
    "joint_fingerprint",
    "open_source",
    "resolve",
]

log = logging.getLogger(__name__)


Sample = Scene  # the name of Scene until 0.2


def open_source(
    source: DataSource,
    settings: DataConfig | None = None,
    *,
    cache: bool = False,
    faults: Faults | None = None,
    decode: bool = True,
) -> tuple[CocoDataset, CocoDataset]:
    """Open ``(train, val)`` of a source; val is read with the categories of train.

    Args:
        settings: how to read (``data.boxes``), what to do with damaged pictures
            (``data.on_bad_image``), and which share to validate on if the source has no validation
            half (``data.val_share``). None: the defaults.
        cache: keep decoded pictures in memory, whatever ``settings`` say.
        faults: collects the faults of both halves. None: raise all of them as one error.
        decode: decode all pictures once for every new data set, to find damaged files.

    Raises:
        DataError: names every fault that can be known, the worst first.
    """
    settings = settings or DataConfig()
    collected = Faults() if faults is None else faults
    train = CocoDataset.load(
        *source.train, cache=cache, name=source.name, settings=settings, faults=collected
    )
    if source.val is None:
        train, val = _divided(train, settings)
    else:
        val = CocoDataset.load(
            *source.val,
            categories=train.categories,
            cache=cache,
            name=source.name,
            settings=settings,
            faults=collected,
        )
    if decode and source.name != EMBEDDED:
        train = _decodable(train, settings, collected)
        val = _decodable(val, settings, collected)
    if not val.counts.any() and not collected:
        collected.add(
            "nothing-to-score",
            f"{val.annotations_path.name}: the validation half (val) has {len(val)} images and no "
            f"usable box, so nothing can be scored. Add its labels, or leave it out and give "
            f"--set data.val_share=0.2.",
        )
    if faults is None:
        collected.stop()
    train.origin = str(source)
    return train, val


def _divided(train: CocoDataset, settings: DataConfig) -> tuple[CocoDataset, CocoDataset]:
    """Take the validation half out of the training images."""
    if settings.val_share is None:
        raise DataError(
            f"data set {train.name!r} has no validation half. To take a fifth of the "
            f"{len(train)} training images for it, add --set data.val_share=0.2."
        )
    _, labels, image_index = train.all_targets()
    chosen = split.validation_images(
        labels.numpy(),
        image_index.numpy(),
        list(train.annotations.file_names),
        settings.val_share,
        seed=settings.val_seed,
        together=look.groups_alike(train.paths, train.fingerprint),
    )
    others = np.setdiff1d(np.arange(len(train)), chosen)
    notice = (
        f"val-share: {len(chosen)} of {len(train)} training images are the validation half "
        f"(data.val_share={settings.val_share:g}, data.val_seed={settings.val_seed})"
    )
    log.warning("%s: %s", train.annotations_path, notice)
    return train.take(others, notices=[notice]), train.take(chosen)


def _decodable(dataset: CocoDataset, settings: DataConfig, faults: Faults) -> CocoDataset:
    """Decode all pictures. Damaged ones are a fault, or are left out."""
    bad = whole.damaged(dataset.paths, fingerprint=dataset.fingerprint)
    if bad and settings.on_bad_image == "skip":
        return dataset.without(bad)
    add_damaged(bad, faults)
    return dataset


def joint_fingerprint(train: CocoDataset, val: CocoDataset) -> str:
    """One hex sha256 of both halves, to identify the data of a run."""
    return hashlib.sha256(f"{train.fingerprint} {val.fingerprint}".encode()).hexdigest()
