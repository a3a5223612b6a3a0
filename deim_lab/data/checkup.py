"""Everything that can be known about a data set before a run: faults, numbers, pictures.

``data/coco.py`` finds the faults of the files, ``data/look.py`` looks at the pictures, and
``data/doctor.py`` counts boxes. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from deim_lab.config import Config
from deim_lab.data import coco, doctor, look
from deim_lab.data.coco import CocoDataset
from deim_lab.data.faults import Fault, Faults
from deim_lab.data.layouts import DataSource
from deim_lab.errors import DataError, first_few

_NAMED = 5  # names in a notice
_LONGEST = 10.0  # long side / short side of a picture that is reported
_LARGEST_MPX = 50.0


@dataclass(frozen=True)
class Pair:
    """Two pictures that look the same: names, the halves they are in, correlation in [0, 1]."""

    first: str
    second: str
    halves: tuple[str, str]
    correlation: float


@dataclass(frozen=True)
class Checkup:
    """Result of ``check``.

    Attributes:
        source: the files that were read.
        faults: what must be mended before training, the worst first.
        report: counts and sizes of the training half without its faulty parts; None if it can't be
            opened.
        alike: pictures that look the same although their files differ; empty if not looked at.
        decoded: whether every picture was decoded.
    """

    source: DataSource
    faults: tuple[Fault, ...]
    report: doctor.Report | None
    alike: tuple[Pair, ...]
    decoded: bool

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return {
            "source": str(self.source),
            "faults": [asdict(fault) for fault in self.faults],
            "notices": [] if self.report is None else list(self.report.notices),
            "report": None if self.report is None else asdict(self.report),
            "alike": [asdict(pair) for pair in self.alike],
            "decoded": self.decoded,
        }

    def __str__(self) -> str:
        lines = [str(self.source)]
        lines += [f"{number}. {fault}" for number, fault in enumerate(self.faults, start=1)]
        if self.faults:
            title = f"{len(self.faults)} faults to mend before training, the worst first:"
            lines.insert(1, title)
        else:
            lines.append("no fault found" + ("" if self.decoded else " (pictures not decoded)"))
        if self.report is not None:
            lines.append(str(self.report))
        return "\n".join(lines)


def check(source: DataSource, config: Config, *, quick: bool = False) -> Checkup:
    """Check both halves of a data set, and go on after every fault as far as possible.

    Args:
        source: from ``layouts.resolve``.
        config: ``config.data`` says how to read, the model and the augmentation give the numbers
            to compare with.
        quick: do not decode the pictures. Then damaged files and similar pictures stay unknown.
    """
    faults = Faults()
    try:
        train, val = coco.open_source(source, config.data, faults=faults, decode=False)
    except DataError as error:
        faults.add("file", str(error))
        return Checkup(source, faults.listed(), None, (), decoded=False)
    notices: list[str] = []
    pairs: list[Pair] = []
    if not quick:
        looks = {"train": look.at_all(train.paths), "val": look.at_all(val.paths)}
        for half, dataset in (("train", train), ("val", val)):
            notices += _faults_of_pictures(dataset, looks[half], config, faults)
        pairs = _alike(train, val, looks)
        notices += _notices_of_pairs(pairs)
    notices += _notices_of_shapes(train)
    report = None
    if len(train) and train.counts.any():
        report = doctor.examine(
            train,
            num_queries=config.model.num_queries,
            input_size=config.data.input_size,
            augment=config.augment,
            val=val,
        )
        report = replace(report, notices=(*report.notices, *notices))
    return Checkup(source, faults.listed(), report, tuple(pairs), decoded=not quick)


def _faults_of_pictures(
    dataset: CocoDataset, looks: Sequence[look.Look], config: Config, faults: Faults
) -> list[str]:
    """Damaged pictures: one fault, or a notice if they are to be left out."""
    bad = {position: seen.fault for position, seen in enumerate(looks) if seen.fault}
    if not bad:
        return []
    names = first_few((dataset.annotations.file_names[position] for position in bad), _NAMED)
    if config.data.on_bad_image == "skip":
        return [f"image-damaged: {len(bad)} of {len(dataset)} images are left out: {names}"]
    first = next(iter(bad.values()))
    faults.add(
        "picture",
        f"{first} {len(bad)} of {len(dataset)} images of {dataset.annotations_path} are damaged: "
        f"{names}. To leave them out, add --set data.on_bad_image=skip.",
        key=str(dataset.annotations_path),
    )
    return []


def _notices_of_shapes(dataset: CocoDataset) -> list[str]:
    """Notices on very long and very large pictures."""
    sizes = dataset.sizes_wh.numpy().astype(np.float64)
    if not len(sizes):
        return []
    names = dataset.annotations.file_names
    aspect = sizes.max(1) / np.maximum(1, sizes.min(1))
    megapixels = sizes.prod(1) / 1e6
    notices = []
    for mask, name, text in (
        (
            aspect > _LONGEST,
            "image-long",
            f"are more than {_LONGEST:g} times as long as wide. They are squashed to the input",
        ),
        (
            megapixels > _LARGEST_MPX,
            "image-large",
            f"have more than {_LARGEST_MPX:g} million pixels. Decoding takes most of each step",
        ),
    ):
        places = np.flatnonzero(mask).tolist()
        if places:
            shown = first_few((names[place] for place in places), _NAMED)
            notices.append(f"{name}: {len(places)} images {text}: {shown}")
    return notices


def _alike(
    train: CocoDataset, val: CocoDataset, looks: Mapping[str, Sequence[look.Look]]
) -> list[Pair]:
    """Similar pictures of the two halves, then those within the training half."""
    halves = {"train": train, "val": val}
    pairs = []
    for first, second in (("train", "val"), ("train", "train")):
        others = looks[second] if first != second else None
        for pair in look.alike(looks[first], others):
            names = (
                halves[first].annotations.file_names[pair.first],
                halves[second].annotations.file_names[pair.second],
            )
            pairs.append(Pair(*names, (first, second), pair.correlation))
    return pairs


def _notices_of_pairs(pairs: Sequence[Pair]) -> list[str]:
    between = [pair for pair in pairs if pair.halves == ("train", "val")]
    within = [pair for pair in pairs if pair.halves == ("train", "train")]
    notices = []
    if between:
        shown = first_few((f"{pair.second} = {pair.first}" for pair in between), _NAMED)
        notices.append(
            f"leak-alike: {len(between)} pairs of val and train look the same: {shown}. On such "
            f"images, AP measures memory. Remove them from one half."
        )
    if within:
        shown = first_few((f"{pair.first} = {pair.second}" for pair in within), _NAMED)
        notices.append(f"image-alike: {len(within)} pairs of train look the same: {shown}")
    return notices
