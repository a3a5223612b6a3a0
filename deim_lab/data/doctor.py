"""What a data set will do to a run, before the run: a report of counts, box sizes at the network's
input, and known troubles.

Composed images (Mosaic, MixUp) are counted on the very pipeline that trains, without pixels: images
with a size and no memory.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deim_lab.augment import sampling
from deim_lab.augment.pipeline import Pipeline, generator_of
from deim_lab.config import AugmentConfig
from deim_lab.data.coco import CocoDataset
from deim_lab.errors import first_few
from deim_lab.schedule import Phase

# a box of less than this (square root of its area) falls between the cells of the finest feature
# level
TINY_PX = 8.0
_EVALUATED = 100  # detections an image that COCO's AP looks at
_RARE = 10  # boxes below which a class is said to be rare
_NAMED = 5  # cases that a notice lists


@dataclass(frozen=True)
class Spread:
    """Median, 99th percentile, largest and mean of a count or a length."""

    median: float
    p99: float
    largest: float
    mean: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Spread:
        """Of ``[n]`` values; all 0 for none."""
        if not len(values):
            return cls(0.0, 0.0, 0.0, 0.0)
        return cls(
            float(np.median(values)),
            float(np.percentile(values, 99)),
            float(values.max()),
            float(values.mean()),
        )


@dataclass(frozen=True)
class Report:
    """What ``examine`` found.

    Attributes:
        name: of the data set.
        images, boxes, negatives, crowds: images, targets, images without targets, crowd regions
            (never targets).
        per_class: (name, boxes, images with one) of each class.
        input_size: height and width that box sizes are given at.
        size_px, size_dense_px: square root of the box area at the input, of the images as they are
            and of composed ones.
        tiny_share, tiny_dense_share: of boxes below ``TINY_PX``, likewise.
        targets, targets_dense: targets an image, likewise. Dense: with the Mosaic and MixUp
            probabilities of the given augmentation.
        num_queries: of the model.
        unmatched_share, unmatched_dense_share: of targets beyond the number of queries, which
            one-to-one matching leaves out.
        proposed_queries: ``num_queries``, or enough for every image and 99 % of the composed ones,
            in steps of 50.
        duplicates: boxes that repeat another of the same image and class (to the pixel).
        conflicts: boxes that repeat another of the same image under another class.
        copies: pairs of equal files within the set.
        leaked: pairs of equal files, one in the set, one in ``val``; ``None`` without ``val``.
        notices: troubles, each named, counted and with what to do; the reader's own
            (``dataset.notices``) first.
    """

    name: str
    images: int
    boxes: int
    negatives: int
    crowds: int
    per_class: tuple[tuple[str, int, int], ...]
    input_size: tuple[int, int]
    size_px: Spread
    size_dense_px: Spread
    tiny_share: float
    tiny_dense_share: float
    targets: Spread
    targets_dense: Spread
    num_queries: int
    unmatched_share: float
    unmatched_dense_share: float
    proposed_queries: int
    duplicates: int
    conflicts: int
    copies: tuple[tuple[str, str], ...]
    leaked: tuple[tuple[str, str], ...] | None
    notices: tuple[str, ...]

    def table(self) -> list[tuple[str, str]]:
        """(what, value) a line, for printing or a data frame."""
        height, width = self.input_size
        leaked = "?" if self.leaked is None else str(len(self.leaked))
        return [
            ("data set", self.name),
            (
                "images",
                f"{self.images}, {self.negatives} of them without targets "
                f"({_percent(self.negatives, self.images)})",
            ),
            (
                "boxes",
                f"{self.boxes} in {len(self.per_class)} classes; {self.crowds} crowd regions left "
                f"out",
            ),
            ("targets an image", _spread(self.targets)),
            ("  composed (Dense O2O)", _spread(self.targets_dense)),
            (
                "queries",
                f"{self.num_queries}; targets beyond them: {self.unmatched_share:.2%}, composed "
                f"{self.unmatched_dense_share:.2%}",
            ),
            (
                f"box size at {width}×{height} px",
                f"{_spread(self.size_px)}; below {TINY_PX:g} px: {self.tiny_share:.1%}",
            ),
            (
                "  composed (Dense O2O)",
                f"{_spread(self.size_dense_px)}; below {TINY_PX:g} px: {self.tiny_dense_share:.1%}",
            ),
            (
                "repeated boxes",
                f"{self.duplicates} of one class, {self.conflicts} under two classes",
            ),
            (
                "equal files",
                f"{len(self.copies)} within, {leaked} also in val",
            ),
            *(
                (f"class {index} {name}", f"{boxes} boxes in {images} images")
                for index, (name, boxes, images) in enumerate(self.per_class)
            ),
        ]

    def __str__(self) -> str:
        rows = self.table()
        wide = max(len(name) for name, _ in rows)
        return "\n".join(
            [
                *(f"{name:<{wide}}  {value}" for name, value in rows),
                *(f"! {notice}" for notice in self.notices),
            ]
        )


def examine(
    dataset: CocoDataset,
    *,
    num_queries: int,
    input_size: tuple[int, int],
    augment: AugmentConfig,
    val: CocoDataset | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Report:
    """Look a training set over. No picture is decoded; files are hashed only where two have the
    same size in bytes.

    Args:
        dataset: the training half.
        num_queries: of the model.
        input_size: (height, width) of the network's input.
        augment: whose Mosaic and MixUp compose the images.
        val: the other half, to look for images that stand in both.
        samples: composed images to estimate from.
        seed: of the estimate.
    """
    boxes_xyxy, labels, image_index = dataset.all_targets()
    size_px = _sizes_px(boxes_xyxy, dataset.sizes_wh[image_index], input_size)
    counts = dataset.counts.numpy().astype(np.float64)
    dense_counts, dense_px = _compose(dataset, augment, input_size, samples, seed)
    duplicates, conflicts = _repeats(boxes_xyxy, labels, image_index)
    targets, targets_dense = Spread.of(counts), Spread.of(dense_counts)
    report = Report(
        name=dataset.name,
        images=len(dataset),
        boxes=len(labels),
        negatives=int((counts == 0).sum()),
        crowds=int(dataset.crowd_counts.sum()),
        per_class=_per_class(dataset.categories.names, labels, image_index),
        input_size=input_size,
        size_px=Spread.of(size_px),
        size_dense_px=Spread.of(dense_px),
        tiny_share=_share(size_px < TINY_PX),
        tiny_dense_share=_share(dense_px < TINY_PX),
        targets=targets,
        targets_dense=targets_dense,
        num_queries=num_queries,
        unmatched_share=_beyond(counts, num_queries),
        unmatched_dense_share=_beyond(dense_counts, num_queries),
        proposed_queries=_propose(num_queries, max(targets.largest, targets_dense.p99)),
        duplicates=duplicates,
        conflicts=conflicts,
        copies=tuple(_equal_files(dataset.paths)),
        leaked=None if val is None else tuple(_equal_files(dataset.paths, val.paths)),
        notices=(),
    )
    val_notices = [f"val: {notice}" for notice in val.notices] if val is not None else []
    return replace(report, notices=(*dataset.notices, *val_notices, *_notices(report, counts)))


def _notices(report: Report, counts: NDArray[np.float64]) -> list[str]:
    """The troubles that the numbers show, each with what to do about it."""
    return [*_count_notices(report, counts), *_size_notices(report), *_label_notices(report)]


def _count_notices(report: Report, counts: NDArray[np.float64]) -> list[str]:
    """Too many targets for the queries, or for the evaluation."""
    found = []
    queries, proposed = report.num_queries, report.proposed_queries
    if report.unmatched_share > 0:
        found.append(
            f"queries-too-few: {int((counts > queries).sum())} images have more targets (up to "
            f"{report.targets.largest:.0f}) than "
            f"the {queries} queries; {report.unmatched_share:.2%} of the targets can never be "
            f"matched. "
            f"Set model.num_queries={proposed}"
        )
    elif proposed > queries:
        found.append(
            f"queries-too-few-dense: 1 % of composed images have over "
            f"{report.targets_dense.p99:.0f} targets, more than the "
            f"{queries} queries; {report.unmatched_dense_share:.2%} of their targets go unmatched. "
            f"Set model.num_queries={proposed}, or lower augment.mosaic_prob or augment.mixup_prob"
        )
    over = int((counts > _EVALUATED).sum())
    if over:
        found.append(
            f"over-100-targets: {over} images have more than {_EVALUATED} targets, "
            f"and COCO's AP looks at {_EVALUATED} detections an image"
        )
    return found


def _size_notices(report: Report) -> list[str]:
    """Boxes too small for the finest feature level."""
    plain, dense = report.tiny_share, report.tiny_dense_share
    height, width = report.input_size
    if plain > 0.1:
        return [
            f"tiny-boxes: {plain:.0%} of the boxes are below {TINY_PX:g} px at {width}×{height}; "
            f"use a larger data.input_size"
        ]
    if dense > max(0.1, 2 * plain):
        return [
            f"tiny-boxes-dense: {dense:.0%} of the boxes of composed images are below {TINY_PX:g} "
            f"px at {width}×{height} ({plain:.0%} "
            "without composing); raise data.input_size or the lower end of augment.mosaic_scale, "
            "or lower augment.mosaic_prob"
        ]
    return []


def _label_notices(report: Report) -> list[str]:
    """Classes with little to learn from, boxes and files that stand twice."""
    found = []
    empty = [name for name, boxes, _ in report.per_class if boxes == 0]
    if empty:
        found.append(
            f"class-without-boxes: {len(empty)} classes have no box to learn from: "
            f"{first_few(empty, _NAMED)}"
        )
    rare = [f"{name} ({boxes})" for name, boxes, _ in report.per_class if 0 < boxes < _RARE]
    if rare:
        found.append(
            f"class-rare: {len(rare)} classes have fewer than {_RARE} boxes: "
            f"{first_few(rare, _NAMED)}"
        )
    if report.duplicates:
        found.append(
            f"box-repeated: {report.duplicates} boxes repeat another of the same image and class, "
            f"and one-to-one matching "
            "asks for each of them; remove them"
        )
    if report.conflicts:
        found.append(
            f"box-two-classes: {report.conflicts} boxes repeat another of the same image under "
            f"another class; keep one of the two"
        )
    if report.copies:
        pairs = first_few((f"{first} = {second}" for first, second in report.copies), _NAMED)
        found.append(
            f"image-repeated: {len(report.copies)} pairs of images are the same file: {pairs}"
        )
    if report.leaked:
        pairs = first_few((f"{first} = {second}" for first, second in report.leaked), _NAMED)
        found.append(
            f"leak: {len(report.leaked)} images of val are also in train: {pairs}; AP measures "
            f"memory there. "
            "Take them out of one half"
        )
    return found


def _compose(
    dataset: CocoDataset,
    augment: AugmentConfig,
    input_size: tuple[int, int],
    samples: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Targets of each of ``samples`` composed images, and the size in input pixels of each of their
    boxes.
    """
    pipeline = Pipeline(augment=augment, input_size=input_size)
    drawn = torch.randint(len(dataset), (samples,), generator=generator_of(seed, "doctor"))
    counts, sizes = [], []
    for _, batch in sampling.composed(
        pipeline,
        sampling.WithoutPixels(dataset),
        drawn.tolist(),
        Phase.DENSE,
        seed,
        "doctor",
    ):
        sides = batch.targets.boxes_cxcywh[:, 2:]
        counts.append(batch.targets.counts)
        sizes.append((sides.prod(-1) * input_size[0] * input_size[1]).sqrt())
    return torch.cat(counts).numpy().astype(np.float64), torch.cat(sizes).numpy().astype(np.float64)


def _sizes_px(
    boxes_xyxy: Tensor, sizes_wh: Tensor, input_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Square root of each box's area once its image is squashed to the input."""
    relative = ((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).double() / sizes_wh).prod(-1)
    sizes: NDArray[np.float64] = (relative * input_size[0] * input_size[1]).sqrt().numpy()
    return sizes


def _per_class(
    names: Sequence[str], labels: Tensor, image_index: Tensor
) -> tuple[tuple[str, int, int], ...]:
    boxes = torch.bincount(labels, minlength=len(names)).tolist()
    pairs = torch.unique(torch.stack([labels, image_index], dim=1), dim=0)
    with_one = torch.bincount(pairs[:, 0], minlength=len(names)).tolist()
    return tuple(zip(names, boxes, with_one, strict=True))


def _repeats(boxes_xyxy: Tensor, labels: Tensor, image_index: Tensor) -> tuple[int, int]:
    """Boxes that repeat one of the same image: under the same class, and (counted apart) under
    another.
    """
    keys = torch.cat([image_index[:, None], boxes_xyxy.round().long(), labels[:, None]], dim=1)
    distinct = len(torch.unique(keys, dim=0))
    places = len(torch.unique(keys[:, :-1], dim=0))
    return len(keys) - distinct, distinct - places


def _equal_files(
    paths: Sequence[Path], others: Sequence[Path] | None = None
) -> list[tuple[str, str]]:
    """Pairs of file names with the same bytes: within ``paths``, or one of each."""
    by_size: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    for side, group in enumerate((paths, others or ())):
        for path in group:
            by_size[path.stat().st_size].append((side, path))
    pairs: list[tuple[str, str]] = []
    for candidates in by_size.values():
        by_content: dict[bytes, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        if len(candidates) > 1 and (others is None or len({side for side, _ in candidates}) == 2):
            for side, path in candidates:
                by_content[hashlib.blake2b(path.read_bytes()).digest()][side].append(path.name)
        for own, other in by_content.values():
            partners = own[1:] if others is None else other
            pairs += [(own[0], name) for name in partners if own]
    return pairs


def _beyond(counts: NDArray[np.float64], limit: int) -> float:
    return float(np.maximum(counts - limit, 0).sum() / max(1.0, counts.sum()))


def _share(mask: NDArray[np.bool_]) -> float:
    return float(mask.mean()) if len(mask) else 0.0


def _propose(num_queries: int, targets: float) -> int:
    return num_queries if targets <= num_queries else int(-(-targets // 50) * 50)


def _spread(spread: Spread) -> str:
    return (
        f"mean {spread.mean:.1f}, median {spread.median:.0f}, p99 {spread.p99:.0f}, largest "
        f"{spread.largest:.0f}"
    )


def _percent(part: int, whole: int) -> str:
    return f"{part / max(1, whole):.1%}"
