"""One half of a data set as samples: pictures, boxes and labels.

Pictures are uint8 RGB, boxes are clipped and in pixels, labels are contiguous. ``parse`` reads the
labels, ``find`` and ``pictures`` compare them with the picture files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deim_lab.config.data import DataConfig
from deim_lab.data import images
from deim_lab.data.annotations import Annotations, Categories
from deim_lab.data.faults import Faults
from deim_lab.data.formats.content import Labels
from deim_lab.data.half import read_half
from deim_lab.data.layouts import name_of
from deim_lab.data.pictures import clip_boxes
from deim_lab.errors import DataError, first_few
from deim_lab.structures import Scene

log = logging.getLogger(__name__)


class CocoDataset:
    """One half of a data set, in the order of its json. Build with ``CocoDataset.load``.

    Attributes:
        name: name of the data set.
        origin: where the data come from, in words.
        annotations: what was read; the evaluator's ground truth.
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
        boxes: _Boxes,
        fingerprint: str,
        notices: Sequence[str],
        cache: bool,
    ) -> None:
        self.name = name
        self.origin = str(annotations.path)
        self.annotations = annotations
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
        self._boxes = boxes
        image_index = annotations.image_index
        order = np.flatnonzero(boxes.keep)[np.argsort(image_index[boxes.keep], kind="stable")]
        self._boxes_xyxy = torch.from_numpy(boxes.clipped_xyxy[order])
        self._labels = torch.from_numpy(boxes.labels[order])
        self._counts = torch.bincount(torch.from_numpy(image_index[order]), minlength=len(paths))
        self._offsets: list[int] = [0, *self._counts.cumsum(0).tolist()]
        self._cache: dict[int, Tensor] | None = {} if cache else None

    @property
    def annotations_path(self) -> Path:
        """The json, or the file or folder of another format."""
        return self.annotations.path

    @classmethod
    def load(
        cls,
        images_dir: str | Path,
        annotations_json: str | Path | Labels,
        *,
        categories: Categories | None = None,
        cache: bool = False,
        name: str | None = None,
        settings: DataConfig | None = None,
        faults: Faults | None = None,
    ) -> CocoDataset:
        """Read and check a data set without decoding its pictures.

        Args:
            images_dir: folder of the images; each ``file_name`` of the json is relative to it.
            annotations_json: COCO ``instances`` file, or labels in another format.
            categories: classes of the training file, to read another half. ``None`` reads a
                training file and takes its classes. It must have at least one usable box.
            cache: keep decoded pictures in memory (uint8, 3·H·W bytes per image, in each loader
                process).
            name: name in logs and runs; ``None``: the folder that holds the ``annotations`` folder.
            settings: ``data.boxes`` and ``data.cache``; None: the defaults. ``cache=True`` counts
                in any case.
            faults: collects all faults. The images without a fault are then the data set. None:
                raise all faults as one error.

        Raises:
            DataError: names every fault that can be known, each with file, id, value and remedy,
                the worst first. Some faults give only a counted notice. Boxes outside the image or
                without area are dropped. Boxes that extend beyond the image are clipped. Images
                without boxes stay as negatives.
        """
        settings = settings or DataConfig()
        collected = Faults() if faults is None else faults
        half = read_half(annotations_json, Path(images_dir), settings, collected)
        annotations = half.annotations
        classes = categories or annotations.categories
        labels, known = _labels(annotations, classes, collected)
        clipped_xyxy, keep, dropped = clip_boxes(annotations, half.sizes.served_wh)
        if categories is None and not keep.any() and not collected:
            collected.add("nothing-to-train", _nothing_to_train(annotations))
        if faults is None:
            collected.stop()
        notices = [*half.notices, *dropped]
        for notice in notices:
            log.warning("%s: %s", annotations.path, notice)
        dataset = cls(
            name=name or name_of(annotations.path),
            annotations=annotations,
            categories=classes,
            paths=half.paths,
            sizes_wh=half.sizes.served_wh,
            follow_exif=half.sizes.follow_exif,
            boxes=_Boxes(clipped_xyxy, labels, keep & known),
            fingerprint=_fingerprint(annotations, half.sizes_bytes),
            notices=notices,
            cache=cache or settings.cache,
        )
        unreadable = half.sizes.unreadable
        return dataset.without(unreadable) if unreadable else dataset

    def without(self, damaged: Mapping[int, str]) -> CocoDataset:
        """The set without these images, with a notice that counts and names them."""
        sound = np.setdiff1d(np.arange(len(self)), np.asarray(list(damaged), dtype=np.int64))
        names = first_few((self.annotations.file_names[position] for position in damaged), 5)
        notice = (
            f"image-damaged: {len(damaged)} of {len(self)} images can't be decoded and are left "
            f"out (data.on_bad_image=skip): {names}"
        )
        log.warning("%s: %s", self.annotations_path, notice)
        return self.take(sound, notices=[notice])

    def take(self, images: np.ndarray, *, notices: Sequence[str] = ()) -> CocoDataset:
        """Only the images at these positions, in this order; with another fingerprint."""
        rows = np.isin(self.annotations.image_index, images)
        annotations = self.annotations.take(images)
        ids = ",".join(map(str, annotations.image_ids.tolist()))
        return CocoDataset(
            name=self.name,
            annotations=annotations,
            categories=self.categories,
            paths=[self.paths[index] for index in images],
            sizes_wh=self.sizes_wh.numpy()[images],
            follow_exif=self._follow_exif[images],
            boxes=_Boxes(*(array[rows] for array in self._boxes)),
            fingerprint=hashlib.sha256(f"{self.fingerprint} {ids}".encode()).hexdigest(),
            notices=[*self.notices, *notices],
            cache=self._cache is not None,
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


def _fingerprint(annotations: Annotations, sizes_bytes: Sequence[int]) -> str:
    digest = hashlib.sha256(annotations.sha256.encode())
    for file_name, size in zip(annotations.file_names, sizes_bytes, strict=True):
        digest.update(f"\n{file_name}\t{size}".encode())
    return digest.hexdigest()


class _Boxes(NamedTuple):
    """Boxes of all ``A`` annotations: clipped, with class indices; ``keep`` marks targets."""

    clipped_xyxy: np.ndarray
    labels: np.ndarray
    keep: np.ndarray


def _labels(
    annotations: Annotations, categories: Categories, faults: Faults
) -> tuple[np.ndarray, np.ndarray]:
    """Class index of each annotation ``[A]``, and whether its category is a known one ``[A]``."""
    try:
        labels = annotations.labels(categories)
        return labels, np.ones(len(labels), dtype=bool)
    except DataError as error:
        faults.add("category", str(error))
    known = np.isin(annotations.category_ids, categories.ids)
    labels = np.zeros(len(known), dtype=np.int64)
    labels[known] = [categories.index(int(key)) for key in annotations.category_ids[known]]
    return labels, known


def _nothing_to_train(annotations: Annotations) -> str:
    images_ = len(annotations.image_ids)
    return (
        f"{annotations.path}: none of the {len(annotations.ids)} annotations of {images_} images "
        f"is a usable box. Training needs at least one. Check that this is the right file."
    )
