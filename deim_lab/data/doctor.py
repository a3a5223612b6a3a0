"""Report on a data set before a run: counts, box sizes at the input, and problems.

Composed images (Mosaic, MixUp) are counted with the training pipeline, but without pixels: the
images have a size and no memory.
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

# boxes smaller than this (square root of the area) fall between the cells of the finest feature
# level
TINY_PX = 8.0
_EVALUATED = 100  # detections per image that COCO's AP counts
_RARE = 10  # a class with fewer boxes is reported as rare
_NAMED = 5  # largest number of cases in a notice


@dataclass(frozen=True)
class Spread:
    """Median, 99th percentile, largest and mean of a count or a length."""

    median: float
    p99: float
    largest: float
    mean: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Spread:
        """Spread of ``[n]`` values; all 0 without values."""
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
    """Result of ``examine``.

    Attributes:
        name: name of the data set.
        images, boxes, negatives, crowds: images, targets, images without targets, crowd regions
            (never targets).
        per_class: (name, boxes, images with such a box) of each class.
        input_size: height and width of the network's input, for box sizes.
        size_px, size_dense_px: square root of the box area at the input, of plain images and of
            composed images. Fields with ``dense`` are for images composed with the Mosaic and MixUp
            probabilities of the given augmentation.
        tiny_share, tiny_dense_share: share of boxes below ``TINY_PX``.
        targets, targets_dense: targets per image.
        num_queries: queries of the model.
        unmatched_share, unmatched_dense_share: share of targets beyond the number of queries, which
            one-to-one matching leaves out.
        proposed_queries: ``num_queries`` if it is enough. Else a multiple of 50, enough for every
            plain image and 99 % of the composed images.
        duplicates: boxes that repeat another box of the same image and class (to the pixel).
        conflicts: boxes that repeat another box of the same image under another class.
        copies: pairs of equal files within the set.
        leaked: pairs of equal files, one in the set, one in ``val``; ``None`` without ``val``.
        notices: problems, each with a name, a count and a remedy. The notices of the reader
            (``dataset.notices``) come first.
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
        """Rows (what, value), for printing or a data frame."""
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
            ("targets per image", _spread(self.targets)),
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
    """Examine a training set without decoding pictures.

    Only files of equal size in bytes are hashed.

    Args:
        dataset: the training half.
        num_queries: queries of the model.
        input_size: (height, width) of the network's input.
        augment: settings of Mosaic and MixUp for composed images.
        val: the other half, to find images that are in both.
        samples: number of composed images for the estimate.
        seed: seed of the estimate.
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
    """Problems that the numbers show, each with a remedy."""
    return [*_count_notices(report, counts), *_size_notices(report), *_label_notices(report)]


def _count_notices(report: Report, counts: NDArray[np.float64]) -> list[str]:
    """Notices about too many targets for the queries or for the evaluation."""
    notices = []
    queries, proposed = report.num_queries, report.proposed_queries
    if report.unmatched_share > 0:
        notices.append(
            f"queries-too-few: {int((counts > queries).sum())} images have more targets (up to "
            f"{report.targets.largest:.0f}) than "
            f"the {queries} queries. {report.unmatched_share:.2%} of the targets can never be "
            f"matched. "
            f"Set model.num_queries={proposed}."
        )
    elif proposed > queries:
        notices.append(
            f"queries-too-few-dense: 1 % of composed images have over "
            f"{report.targets_dense.p99:.0f} targets, but the model has {queries} queries. "
            f"{report.unmatched_dense_share:.2%} of composed targets are not matched. "
            f"Set model.num_queries={proposed}, or lower augment.mosaic_prob or augment.mixup_prob."
        )
    over = int((counts > _EVALUATED).sum())
    if over:
        notices.append(
            f"over-100-targets: {over} images have more than {_EVALUATED} targets. "
            f"COCO's AP counts only {_EVALUATED} detections per image."
        )
    return notices


def _size_notices(report: Report) -> list[str]:
    """Notices about boxes too small for the finest feature level."""
    plain, dense = report.tiny_share, report.tiny_dense_share
    height, width = report.input_size
    if plain > 0.1:
        return [
            f"tiny-boxes: {plain:.0%} of the boxes are below {TINY_PX:g} px at {width}×{height}. "
            f"Use a larger data.input_size."
        ]
    if dense > max(0.1, 2 * plain):
        return [
            f"tiny-boxes-dense: {dense:.0%} of the boxes of composed images are below {TINY_PX:g} "
            f"px at {width}×{height} ({plain:.0%} "
            "without composing). Raise data.input_size or the lower end of augment.mosaic_scale, "
            "or lower augment.mosaic_prob."
        ]
    return []


def _label_notices(report: Report) -> list[str]:
    """Notices about classes with few boxes, repeated boxes and repeated files."""
    notices = []
    empty = [name for name, boxes, _ in report.per_class if boxes == 0]
    if empty:
        notices.append(
            f"class-without-boxes: {len(empty)} classes have no boxes: {first_few(empty, _NAMED)}"
        )
    rare = [f"{name} ({boxes})" for name, boxes, _ in report.per_class if 0 < boxes < _RARE]
    if rare:
        notices.append(
            f"class-rare: {len(rare)} classes have fewer than {_RARE} boxes: "
            f"{first_few(rare, _NAMED)}"
        )
    if report.duplicates:
        notices.append(
            f"box-repeated: {report.duplicates} boxes repeat another of the same image and class. "
            f"One-to-one matching needs a query for each. Remove the repeated boxes."
        )
    if report.conflicts:
        notices.append(
            f"box-two-classes: {report.conflicts} boxes repeat another of the same image under "
            f"another class. Keep one of the two."
        )
    if report.copies:
        pairs = first_few((f"{first} = {second}" for first, second in report.copies), _NAMED)
        notices.append(
            f"image-repeated: {len(report.copies)} pairs of images are the same file: {pairs}"
        )
    if report.leaked:
        pairs = first_few((f"{first} = {second}" for first, second in report.leaked), _NAMED)
        notices.append(
            f"leak: {len(report.leaked)} images of val are also in train: {pairs}. On them, AP "
            f"measures memory. Remove them from one half."
        )
    return notices


def _compose(
    dataset: CocoDataset,
    augment: AugmentConfig,
    input_size: tuple[int, int],
    samples: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compose ``samples`` images; return targets per image, and box sizes in input pixels."""
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
    """Square root of each box's area in input pixels, after squashing the image to the input."""
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
    """Count boxes that repeat a box of their image: with the same class, with another class."""
    keys = torch.cat([image_index[:, None], boxes_xyxy.round().long(), labels[:, None]], dim=1)
    distinct = len(torch.unique(keys, dim=0))
    places = len(torch.unique(keys[:, :-1], dim=0))
    return len(keys) - distinct, distinct - places


def _equal_files(
    paths: Sequence[Path], others: Sequence[Path] | None = None
) -> list[tuple[str, str]]:
    """Pairs of files with equal bytes: within ``paths``, or one in each list."""
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
        for names, other_names in by_content.values():
            partners = names[1:] if others is None else other_names
            pairs += [(names[0], name) for name in partners if names]
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


def _percent(part: int, total: int) -> str:
    return f"{part / max(1, total):.1%}"
