"""Serve a data set in COCO layout as samples: pictures, boxes and labels.

Pictures are uint8 RGB, boxes are clipped and in pixels, labels are contiguous. ``layouts`` finds
the files. ``pictures`` compares the annotations with the picture files. ``CocoDataset`` serves one
half, ``open_source`` opens both halves.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deim_lab.data import images
from deim_lab.data.annotations import Annotations, Categories, read
from deim_lab.data.layouts import EMBEDDED, DataSource, name_of, resolve
from deim_lab.data.pictures import clip_boxes, find_pictures, fit_sizes
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


class CocoDataset:
    """One half of a data set, in the order of its json. Build with ``CocoDataset.load``.

    Attributes:
        name: name of the data set.
        annotations_path: the json, for the evaluator.
        categories: class index ↔ category id, of the training file.
        image_ids: ``N`` ids.
        notices: warnings about repaired or dropped items. Each has a name, a count and the first
            ids. They are already logged.
        fingerprint: hex sha256 of the json's bytes and of each picture's name and size in bytes.
            Pixels are not hashed.
        sizes_wh: int64 ``[N, 2]`` size of each image as it is served.
        crowd_counts: int64 ``[N]`` crowd regions of each image. Crowd regions are never targets.
    """

    def __init__(
        self,
        *,
        name: str,
        annotations: Annotations,
        categories: Categories,
        paths: Sequence[Path],
        sizes_wh: np.ndarray,
        follow_exif: np.ndarray,
        boxes_xyxy: Tensor,
        labels: Tensor,
        image_index: Tensor,
        fingerprint: str,
        notices: Sequence[str],
        cache: bool,
    ) -> None:
        self.name = name
        self.annotations_path = annotations.path
        self.categories = categories
        self.image_ids: list[int] = annotations.image_ids.tolist()
        self.paths = list(paths)
        self.sizes_wh = torch.from_numpy(sizes_wh)
        self.crowd_counts = torch.from_numpy(
            np.bincount(annotations.image_index[annotations.crowd], minlength=len(paths))
        )
        self.fingerprint = fingerprint
        self.notices = list(notices)
        self._follow_exif = follow_exif
        self._boxes_xyxy, self._labels = boxes_xyxy, labels
        self._counts = torch.bincount(image_index, minlength=len(paths))
        self._offsets: list[int] = [0, *self._counts.cumsum(0).tolist()]
        self._cache: dict[int, Tensor] | None = {} if cache else None

    @classmethod
    def load(
        cls,
        images_dir: str | Path,
        annotations_json: str | Path,
        *,
        categories: Categories | None = None,
        cache: bool = False,
        name: str | None = None,
    ) -> CocoDataset:
        """Read and check a data set without decoding its pictures.

        Args:
            images_dir: folder of the images; each ``file_name`` of the json is relative to it.
            annotations_json: COCO ``instances`` file.
            categories: classes of the training file, to read another half. ``None`` reads a
                training file and takes its classes. It must have at least one usable box.
            cache: keep decoded pictures in memory (uint8, 3·H·W bytes per image, in each loader
                process).
            name: name in logs and runs; ``None``: the folder that holds the ``annotations`` folder.

        Raises:
            DataError: names file, id, value and remedy. Some faults give only a counted notice.
                Boxes outside the image or without area are dropped. Boxes that extend beyond the
                image are clipped. Images without boxes stay as negatives.
        """
        annotations = read(annotations_json)
        labels = annotations.labels(categories or annotations.categories)
        paths, sizes_bytes = find_pictures(Path(images_dir), annotations)
        sizes_wh, follow_exif, notices = fit_sizes(annotations, paths)
        boxes_xyxy, keep, dropped = clip_boxes(annotations, sizes_wh)
        notices += dropped
        if categories is None and not keep.any():
            raise DataError(
                f"{annotations.path}: none of the {len(annotations.ids)} annotations of "
                f"{len(paths)} images is a usable box. Training needs at least one. Check that "
                f"this is the right file."
            )
        order = np.flatnonzero(keep)[np.argsort(annotations.image_index[keep], kind="stable")]
        for notice in notices:
            log.warning("%s: %s", annotations.path, notice)
        return cls(
            name=name or name_of(annotations.path),
            annotations=annotations,
            categories=categories or annotations.categories,
            paths=paths,
            sizes_wh=sizes_wh,
            follow_exif=follow_exif,
            boxes_xyxy=torch.from_numpy(boxes_xyxy[order]),
            labels=torch.from_numpy(labels[order]),
            image_index=torch.from_numpy(annotations.image_index[order]),
            fingerprint=_fingerprint(annotations, sizes_bytes),
            notices=notices,
            cache=cache,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Scene:
        """The decoded image at a position in ``[0, N)``, with its clipped, non-empty boxes.

        Crowd regions are left out. The cache shares the image, so never change it in place.
        Raises ``DataError`` for a picture that can't be decoded.
        """
        return Scene(self.decode(index), *self.targets(index), (self.image_ids[index],))

    @property
    def counts(self) -> Tensor:
        """Number of targets of each image, int64 ``[N]``; nothing is decoded."""
        return self._counts

    def targets(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes ``[n, 4]`` (xyxy, pixels) and labels ``[n]`` of one image, as copies.

        Nothing is decoded.
        """
        index = range(len(self))[index]
        rows = slice(self._offsets[index], self._offsets[index + 1])
        return self._boxes_xyxy[rows].clone(), self._labels[rows].clone()

    def all_targets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``[T, 4]`` (xyxy, pixels), labels ``[T]`` and image positions ``[T]`` of the set.

        Ordered by image.
        """
        return (
            self._boxes_xyxy,
            self._labels,
            torch.repeat_interleave(torch.arange(len(self)), self._counts),
        )

    def decode(self, index: int) -> Tensor:
        """Decode an image to uint8 ``[3, H, W]`` RGB, oriented to fit its boxes.

        ``data.pictures`` decides the orientation, ``data.images.decode`` converts the pixels.
        """
        index = range(len(self))[index]
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        try:
            image = images.decode(self.paths[index], follow_exif=bool(self._follow_exif[index]))
        except DataError as error:
            raise DataError(f"image id {self.image_ids[index]}: {error}") from error
        size_wh = self.sizes_wh[index].tolist()
        if [image.shape[2], image.shape[1]] != size_wh:
            raise DataError(
                f"{self.paths[index]} (image id {self.image_ids[index]}) is "
                f"{image.shape[2]}×{image.shape[1]}, but was "
                f"{size_wh[0]}×{size_wh[1]} when the data set was opened. Do not change files "
                f"during a run."
            )
        if self._cache is not None:
            self._cache[index] = image
        return image


def open_source(source: DataSource, *, cache: bool = False) -> tuple[CocoDataset, CocoDataset]:
    """Open ``(train, val)`` of a source; val is read with the categories of train."""
    train = CocoDataset.load(*source.train, cache=cache, name=source.name)
    return train, CocoDataset.load(
        *source.val, categories=train.categories, cache=cache, name=source.name
    )


def joint_fingerprint(train: CocoDataset, val: CocoDataset) -> str:
    """One hex sha256 of both halves, to identify the data of a run."""
    return hashlib.sha256(f"{train.fingerprint} {val.fingerprint}".encode()).hexdigest()


def _fingerprint(annotations: Annotations, sizes_bytes: Sequence[int]) -> str:
    digest = hashlib.sha256(annotations.sha256.encode())
    for file_name, size in zip(annotations.file_names, sizes_bytes, strict=True):
        digest.update(f"\n{file_name}\t{size}".encode())
    return digest.hexdigest()
