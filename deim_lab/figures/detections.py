"""Images with boxes: composed training images, and predictions next to the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray
from torch import Tensor

from deim_lab import palette
from deim_lab.boxes import cxcywh_to_xyxy
from deim_lab.figures import style
from deim_lab.structures import Targets

CLASS_COLOURS = palette.CLASSES
CROWDED = 12  # with more boxes, names would hide the image: a legend names the colours instead
_NAME_SHARE = 0.06  # share of the panel's height that a name takes

Names = Sequence[str] | Mapping[int, str]


class Found(Protocol):
    """Detections of one image, as from ``detector.predict``.

    ``scores [N]``, ``labels [N]``, ``boxes_xyxy [N, 4]`` px.
    """

    @property
    def scores(self) -> Any: ...
    @property
    def labels(self) -> Any: ...
    @property
    def boxes_xyxy(self) -> Any: ...


def gallery(
    images: Sequence[Any],
    boxes_xyxy: Sequence[Any],
    labels: Sequence[Any],
    names: Names,
    *,
    columns: int = 4,
    titles: Sequence[str] | None = None,
    scores: Sequence[Any] | None = None,
) -> Figure:
    """Images in a grid with their boxes, one colour per class.

    Args:
        images: uint8 ``[3, H, W]`` tensors or ``[H, W, 3]`` arrays, or floats in [0, 1]. They may
            differ in size.
        boxes_xyxy: ``[N, 4]`` pixels, one entry per image.
        labels: ``[N]`` class indices, one entry per image.
        names: of the classes, by index.
        columns: images per row.
        titles: over each image; by default the number of its targets.
        scores: ``[N]`` in [0, 1], written behind the names.

    Raises:
        ValueError: lists of unequal length, or an entry that is not an image.
    """
    _same_length(images, boxes_xyxy=boxes_xyxy, labels=labels, titles=titles, scores=scores)
    if not len(images) or columns < 1:
        raise ValueError(
            f"{len(images)} images in {columns} columns: expected at least one image and one column"
        )
    marks = [
        _Marks(boxes, classes, score)
        for boxes, classes, score in zip(
            boxes_xyxy, labels, scores or [None] * len(images), strict=True
        )
    ]
    titles = titles or [_count(len(mark), "target") for mark in marks]
    return _grid(
        [_pixels(image) for image in images], marks, names, titles, min(columns, len(images))
    )


def composed(
    images: Tensor,
    targets: Targets,
    names: Names,
    *,
    columns: int = 4,
    titles: Sequence[str] | None = None,
) -> Figure:
    """A batch as it enters the detector: ``images [B, 3, H, W]`` in [0, 1] with ``targets``.

    Other arguments as in ``gallery``.
    """
    height, width = images.shape[-2:]
    to_px = torch.tensor([width, height, width, height])
    each = [targets.of_image(index) for index in range(targets.batch_size)]
    return gallery(
        list(images),
        [cxcywh_to_xyxy(boxes) * to_px for boxes, _ in each],
        [labels for _, labels in each],
        names,
        columns=columns,
        titles=titles,
    )


def predictions(
    images: Sequence[Any],
    found: Sequence[Found],
    wanted: Sequence[tuple[Any, Any]],
    names: Names,
    threshold: float,
    *,
    columns: int = 2,
) -> Figure:
    """Each image twice, side by side: ground truth, and detections of at least ``threshold``.

    Args:
        images: as in ``gallery``.
        found: detections, one entry per image; boxes in the pixels of these images.
        wanted: ``(boxes_xyxy [N, 4] px, labels [N])`` of the ground truth, one per image.
        names: of the classes, by index.
        threshold: score in [0, 1] below which a detection is not shown.
        columns: pairs per row.
    """
    _same_length(images, found=found, wanted=wanted)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold!r} is outside [0, 1]")
    pixels, marks, titles = [], [], []
    for image, detections, (boxes, labels) in zip(images, found, wanted, strict=True):
        keep = _array(detections.scores) >= threshold
        above = (
            _array(part)[keep]
            for part in (detections.boxes_xyxy, detections.labels, detections.scores)
        )
        marks += [_Marks(boxes, labels, None), _Marks(*above)]
        pixels += [_pixels(image)] * 2
        titles += [f"truth: {len(marks[-2])}", f"found: {len(marks[-1])}"]
    if not pixels:
        raise ValueError("0 images: expected at least one")
    fig = _grid(pixels, marks, names, titles, 2 * min(columns, len(images)))
    fig.supxlabel(f"found: score of at least {threshold:.2f}", fontsize=7, x=0.01, ha="left")
    return fig


class _Marks:
    """The boxes of one image with their classes and, if given, scores."""

    def __init__(self, boxes_xyxy: Any, labels: Any, scores: Any | None) -> None:
        self.boxes_xyxy = _array(boxes_xyxy).reshape(-1, 4).astype(float)
        self.labels = _array(labels).reshape(-1).astype(int)
        self.scores = None if scores is None else _array(scores).reshape(-1).astype(float)
        _same_length(self.boxes_xyxy, labels=self.labels, scores=self.scores)

    def __len__(self) -> int:
        return len(self.labels)


def _grid(
    pixels: Sequence[NDArray[Any]],
    marks: Sequence[_Marks],
    names: Names,
    titles: Sequence[str],
    columns: int,
) -> Figure:
    lines = -(-len(pixels) // columns)
    crowded = any(len(mark) > CROWDED for mark in marks)
    tallest = max(image.shape[0] / image.shape[1] for image in pixels)
    width = style.DOUBLE if columns > 2 else style.SINGLE * max(columns, 1.2) / 1.2
    with style.context():
        fig = style.figure(
            width, lines * (width / columns * tallest + 0.12) + 0.25 * crowded, photographic=True
        )
        panels = np.ravel(fig.subplots(lines, columns, squeeze=False))
        for ax in panels:
            ax.set_axis_off()
        for ax, image, mark, title in zip(panels, pixels, marks, titles, strict=False):
            ax.imshow(image)
            ax.set_title(title, fontsize=7, pad=2)
            _boxes(ax, mark, names, height_px=image.shape[0], written=not crowded)
        if crowded:
            shown = sorted({int(label) for mark in marks for label in mark.labels})
            fig.legend(
                handles=[
                    Patch(color=palette.of_class(label), label=_name(names, label))
                    for label in shown
                ],
                loc="outside lower left",
                ncols=min(len(shown), 8),
                handlelength=0.9,
                handleheight=0.9,
                fontsize=6,
            )
        style.attach(fig, "boxes", _table(marks, names, titles))
        return fig


def _boxes(ax: Axes, mark: _Marks, names: Names, *, height_px: int, written: bool) -> None:
    """Draw rectangles with a dark outline, visible on any background.

    Where ``written``, the name and the score are above the upper left corner. Near the image's
    upper edge they are inside the box. The best score is drawn last, so it lies on top.
    """
    order = (
        range(len(mark)) if mark.scores is None else np.argsort(mark.scores, kind="stable").tolist()
    )
    for index in order:
        x0, y0, x1, y1 = mark.boxes_xyxy[index]
        label = int(mark.labels[index])
        ax.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=palette.of_class(label),
                linewidth=1.0,
                path_effects=[Stroke(linewidth=1.9, foreground="black", alpha=0.55), Normal()],
            )
        )
        if written:
            score = "" if mark.scores is None else f" {mark.scores[index]:.2f}"
            ax.text(
                max(x0, 0),
                max(y0, 0),
                f"{_name(names, label)}{score}",
                fontsize=4.5,
                ha="left",
                color=palette.ink_on(palette.of_class(label)),
                clip_on=True,
                va="bottom" if y0 > _NAME_SHARE * height_px else "top",
                bbox={
                    "boxstyle": "square,pad=0.12",
                    "facecolor": palette.of_class(label),
                    "edgecolor": "none",
                    "alpha": 0.9,
                },
            )


def _table(marks: Sequence[_Marks], names: Names, titles: Sequence[str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        key: []
        for key in ("image", "title", "label", "name", "score", "x0_px", "y0_px", "x1_px", "y1_px")
    }
    for number, (mark, title) in enumerate(zip(marks, titles, strict=True)):
        for index, box in enumerate(mark.boxes_xyxy):
            label = int(mark.labels[index])
            row = (
                number,
                title,
                label,
                _name(names, label),
                None if mark.scores is None else float(mark.scores[index]),
                *box.tolist(),
            )
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return columns


def _pixels(image: Any) -> NDArray[Any]:
    """Convert a tensor ``[3, H, W]`` or an array ``[H, W, 3]`` to ``[H, W, 3]`` pixels.

    The result is uint8, or float in [0, 1].
    """
    values = _array(image)
    if (
        values.ndim == 3
        and values.shape[0] == 3
        and (hasattr(image, "detach") or values.shape[2] != 3)
    ):
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise ValueError(
            f"image of shape {tuple(_array(image).shape)}; expected [3, H, W] or [H, W, 3]"
        )
    if values.dtype == np.uint8:
        return values
    if (
        not np.issubdtype(values.dtype, np.floating)
        or values.min() < -1e-3
        or values.max() > 1 + 1e-3
    ):
        raise ValueError(
            f"image of {values.dtype} from {values.min():g} to {values.max():g}; expected uint8, "
            f"or floats in [0, 1]"
        )
    return values.clip(0, 1)


def _array(values: Any) -> NDArray[Any]:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _name(names: Names, label: int) -> str:
    if isinstance(names, Mapping):
        return names.get(label, f"class {label}")
    return names[label] if 0 <= label < len(names) else f"class {label}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _same_length(
    first: Sequence[Any] | NDArray[Any], **others: Sequence[Any] | NDArray[Any] | None
) -> None:
    for name, values in others.items():
        if values is not None and len(values) != len(first):
            raise ValueError(
                f"{name} has {len(values)} entries for {len(first)} images: expected one per image"
            )
