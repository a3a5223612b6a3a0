"""A COCO-layout data set as samples: uint8 RGB pictures with clipped pixel boxes and contiguous
labels.

``resolve`` says where the files are, ``open_source`` reads both halves, ``CocoDataset`` checks and
serves one.

Which way up. A json's boxes fit *some* pixels: COCO's own those stored in the file, most annotation
tools' those a viewer shows after the EXIF orientation. The stated width and height decide, image by
image: orientation is followed where they equal the turned size, and not where they equal only the
stored one; where both fit (square, mirrored or half-turned) or none is stated, it is followed, as
annotation tools do. Prediction on bare files always follows it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deim_lab.data import images
from deim_lab.data.annotations import Annotations, Categories, read
from deim_lab.errors import DataError, nearest

__all__ = [
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

EMBEDDED = "embedded"
_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height
# (images of a split, its annotations): the layout of this lab, then COCO 2017's own, unpacked
# either way.
_LAYOUTS = (
    ("images/{split}", "annotations/instances_{split}.json"),
    ("{split}2017", "annotations/instances_{split}2017.json"),
    ("images/{split}2017", "annotations/instances_{split}2017.json"),
)


@dataclass(frozen=True)
class Sample:
    """One image and what is to be found in it.

    Attributes:
        image: uint8 ``[3, H, W]`` RGB. Shared with the data set's cache: never change it in place.
        boxes_xyxy: float32 ``[n, 4]`` pixels, inside the image, of positive size. Crowd regions are
            left out.
        labels: int64 ``[n]`` contiguous class index.
        image_id: the json's own id.
        size_wh: width and height of ``image``, for scaling predictions back to the json's pixels.
    """

    image: Tensor
    boxes_xyxy: Tensor
    labels: Tensor
    image_id: int
    size_wh: tuple[int, int]


@dataclass(frozen=True)
class DataSource:
    """Where a data set lies: ``(folder of images, annotation json)`` of each half, and its name."""

    train: tuple[Path, Path]
    val: tuple[Path, Path]
    name: str


class CocoDataset:
    """One half of a data set, in the order of its json. Build with ``CocoDataset.load``.

    Attributes:
        name: of the data set.
        annotations_path: the json, for the evaluator.
        categories: class index ↔ category id, of the training file.
        image_ids: ``N`` ids.
        notices: what was repaired or left out: a named, counted warning each, with the first ids.
            Already logged.
        fingerprint: hex sha256 of the json's bytes and of each picture's name and size in bytes.
            Pixels aren't hashed.
        sizes_wh: int64 ``[N, 2]`` size of each image as it is served.
        crowd_counts: int64 ``[N]`` crowd regions of each image, none of which is a target.
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
        """Read and check everything that can be known without decoding a picture.

        Args:
            images_dir: folder that the json's ``file_name`` is relative to.
            annotations_json: COCO ``instances`` file.
            categories: those of the training file, to read another half with; ``None`` reads a
                training file, whose own they then are, and which must have at least one usable box.
            cache: keep decoded pictures in memory once they are read (uint8, 3·H·W bytes an image,
                in each loader process).
            name: for logs and runs; ``None``: the folder that holds the ``annotations`` folder.

        Raises:
            DataError: naming file, id, value and remedy. Boxes outside the image or of no area are
                dropped and those that stick out clipped, each with a counted notice; images without
                boxes stay as negatives.
        """
        annotations = read(annotations_json)
        labels = annotations.labels(categories or annotations.categories)
        paths, sizes_bytes = _find_pictures(Path(images_dir), annotations)
        sizes_wh, follow_exif, notices = _fit_sizes(annotations, paths)
        boxes_xyxy, keep, dropped = _clip(annotations, sizes_wh)
        notices += dropped
        if categories is None and not keep.any():
            raise DataError(
                f"{annotations.path}: none of its {len(annotations.ids)} annotations is a usable "
                f"box, so there is nothing to "
                f"learn in {len(paths)} images; is this the right file?"
            )
        order = np.flatnonzero(keep)[np.argsort(annotations.image_index[keep], kind="stable")]
        for notice in notices:
            log.warning("%s: %s", annotations.path, notice)
        return cls(
            name=name or _name_of(annotations.path),
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

    def __getitem__(self, index: int) -> Sample:
        """The image at a position in ``[0, N)``, decoded. Raises ``DataError`` for a picture that
        can't be.
        """
        image = self.decode(index)
        boxes_xyxy, labels = self.targets(index)
        return Sample(
            image=image,
            boxes_xyxy=boxes_xyxy,
            labels=labels,
            image_id=self.image_ids[index],
            size_wh=(image.shape[2], image.shape[1]),
        )

    @property
    def counts(self) -> Tensor:
        """int64 ``[N]`` targets of each image; nothing is decoded."""
        return self._counts

    def targets(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes ``[n, 4]`` (xyxy, pixels) and labels ``[n]`` of one image, copied; nothing is
        decoded.
        """
        index = range(len(self))[index]
        rows = slice(self._offsets[index], self._offsets[index + 1])
        return self._boxes_xyxy[rows].clone(), self._labels[rows].clone()

    def all_targets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``[T, 4]`` (xyxy, pixels), labels ``[T]`` and image position ``[T]`` of the whole
        set, ordered by image.
        """
        return (
            self._boxes_xyxy,
            self._labels,
            torch.repeat_interleave(torch.arange(len(self)), self._counts),
        )

    def decode(self, index: int) -> Tensor:
        """uint8 ``[3, H, W]`` RGB, turned as the json's boxes need it (see the module). Modes:
        ``deim_lab.data.images.decode``.
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
                f"{image.shape[2]}×{image.shape[1]} and was "
                f"{size_wh[0]}×{size_wh[1]} when the data set was opened; it must not change "
                f"during a run"
            )
        if self._cache is not None:
            self._cache[index] = image
        return image


def resolve(data: str | Path | Mapping[str, Any] | None, *, cache_dir: str | Path) -> DataSource:
    """Find a data set's files; nothing but their existence is looked at.

    Args:
        data: ``None`` or ``"embedded"``: the set that the lab draws itself, made in ``cache_dir``
            on first use. A folder: the lab's layout (``images/{train,val}``,
            ``annotations/instances_{train,val}.json``) or COCO 2017's own (``train2017``, …). A
            mapping: ``{"train": {"images": folder, "annotations": json}, "val": {…}}``, optionally
            with ``"name"``.
        cache_dir: where the embedded set is kept.

    Raises:
        DataError: saying what was looked for, and the nearest name that exists.
    """
    if data is None or data == EMBEDDED:
        from deim_lab.data import synthetic  # draws; not needed for a set of one's own

        return resolve(
            {
                **_in_layout(synthetic.make(Path(cache_dir) / EMBEDDED), _LAYOUTS[0]),
                "name": EMBEDDED,
            },
            cache_dir=cache_dir,
        )
    if isinstance(data, Mapping):
        return _from_mapping(data)
    folder = Path(data)
    if not folder.is_dir():
        beside = (
            [str(folder.parent / item.name) for item in folder.parent.iterdir()]
            if folder.parent.is_dir()
            else []
        )
        raise DataError(
            f"data folder {str(folder)!r} does not exist{nearest(str(folder), [*beside, EMBEDDED])}"
        )
    for layout in _LAYOUTS:
        if all(
            (folder / part.format(split=split)).exists()
            for part in layout
            for split in ("train", "val")
        ):
            return _from_mapping({**_in_layout(folder, layout), "name": folder.resolve().name})
    raise DataError(_layout_message(folder))


def open_source(source: DataSource, *, cache: bool = False) -> tuple[CocoDataset, CocoDataset]:
    """``(train, val)`` of a source; val is read with train's categories."""
    train = CocoDataset.load(*source.train, cache=cache, name=source.name)
    return train, CocoDataset.load(
        *source.val, categories=train.categories, cache=cache, name=source.name
    )


def joint_fingerprint(train: CocoDataset, val: CocoDataset) -> str:
    """One hex sha256 for both halves: what a run was trained on and scored with."""
    return hashlib.sha256(f"{train.fingerprint} {val.fingerprint}".encode()).hexdigest()


def _in_layout(folder: Path, layout: tuple[str, str]) -> dict[str, dict[str, Path]]:
    return {
        split: {
            "images": folder / layout[0].format(split=split),
            "annotations": folder / layout[1].format(split=split),
        }
        for split in ("train", "val")
    }


def _from_mapping(data: Mapping[str, Any]) -> DataSource:
    for key in data:
        if key not in ("train", "val", "name"):
            raise DataError(
                f"data: unknown key {key!r}{nearest(str(key), ['train', 'val', 'name'])}; known: "
                f"train, val, name"
            )
    halves: dict[str, tuple[Path, Path]] = {}
    for split in ("train", "val"):
        half = data.get(split)
        if not isinstance(half, Mapping) or set(half) != {"images", "annotations"}:
            found = (
                f"has {', '.join(map(str, half)) or 'nothing'}"
                if isinstance(half, Mapping)
                else f"is {half!r}"
            )
            raise DataError(
                f"data: {split!r} {found}; expected {{'images': folder, 'annotations': json file}}"
            )
        folder, json_file = Path(half["images"]), Path(half["annotations"])
        for path, kind in ((folder, "folder of images"), (json_file, "annotation file")):
            if not path.exists():
                beside = (
                    [str(path.parent / item.name) for item in path.parent.iterdir()]
                    if path.parent.is_dir()
                    else []
                )
                raise DataError(
                    f"data: {kind} {str(path)!r} of {split!r} does not "
                    f"exist{nearest(str(path), beside)}"
                )
        halves[split] = (folder, json_file)
    return DataSource(
        halves["train"], halves["val"], str(data.get("name") or _name_of(halves["train"][1]))
    )


def _layout_message(folder: Path) -> str:
    """What a folder lacks of the layout that it comes closest to."""

    def missing(layout: tuple[str, str]) -> list[str]:
        wanted = [part.format(split=split) for split in ("train", "val") for part in layout]
        return [part for part in wanted if not (folder / part).exists()]

    absent = min((missing(layout) for layout in _LAYOUTS), key=len)
    parent = (folder / absent[0]).parent
    base = parent if parent.is_dir() else folder
    existing = [(base / item.name).relative_to(folder).as_posix() for item in base.iterdir()]
    layouts = " or ".join(
        f"{pictures.format(split='{train,val}')} + {file.format(split='{train,val}')}"
        for pictures, file in _LAYOUTS
    )
    return (
        f"data folder {str(folder)!r} has no {', no '.join(absent)}{nearest(absent[0], existing)}. "
        f"Looked for {layouts}; "
        "of any other layout name the image folders and json files one by one"
    )


def _name_of(json_file: Path) -> str:
    parent = json_file.resolve().parent
    return parent.parent.name if parent.name == "annotations" else parent.name


def _find_pictures(images_dir: Path, annotations: Annotations) -> tuple[list[Path], list[int]]:
    """Path and size in bytes of each picture listed. One listing a folder: no system call an
    image.
    """
    if not images_dir.is_dir():
        beside = (
            [item.name for item in images_dir.parent.iterdir() if item.is_dir()]
            if images_dir.parent.is_dir()
            else []
        )
        raise DataError(
            f"{images_dir}: no such folder of images (for "
            f"{annotations.path}){nearest(images_dir.name, beside)}"
        )
    listings: dict[Path, dict[str, int]] = {}
    paths, sizes_bytes, absent = [], [], []
    for position, file_name in enumerate(annotations.file_names):
        path = images_dir / file_name
        if path.parent not in listings:
            listings[path.parent] = _listing(path.parent)
        size = listings[path.parent].get(path.name)
        paths.append(path)
        sizes_bytes.append(size or 0)
        if size is None:
            absent.append(position)
    if absent:
        first = paths[absent[0]]
        hint = nearest(first.name, list(listings[first.parent])[:2000])
        raise DataError(
            f"{annotations.path} lists image {annotations.image_ids[absent[0]]} "
            f"({annotations.file_names[absent[0]]!r}), "
            f"which is not in {images_dir}{hint}; {len(absent)} of {len(paths)} images are absent. "
            "Check the folder, or take them out of the json"
        )
    return paths, sizes_bytes


def _listing(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def _fit_sizes(
    annotations: Annotations, paths: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Size ``[N, 2]`` of each image as it will be served, whether its EXIF orientation is followed
    ``[N]``, notices.

    Reads the headers. A stated size that fits neither way up is an error where there are boxes
    (they would be wrong), else a notice.
    """
    sizes_wh = np.zeros((len(paths), 2), dtype=np.int64)
    follow_exif = np.ones(len(paths), dtype=bool)
    has_boxes = np.bincount(annotations.image_index, minlength=len(paths)) > 0
    unstated, different, turned = [], [], []
    for position, path in enumerate(paths):
        image_id, stated = (
            int(annotations.image_ids[position]),
            tuple(annotations.sizes_wh[position].tolist()),
        )
        stored, orientation = _header(path, image_id, stated)
        upright = (stored[1], stored[0]) if orientation in _TURNED else stored
        follow_exif[position] = orientation != 1 and (stated == upright or stated != stored)
        served = upright if follow_exif[position] else stored
        sizes_wh[position] = served
        if orientation != 1 and follow_exif[position]:
            turned.append(image_id)
        if 0 in stated:
            unstated.append(image_id)
        elif stated != served:
            if (
                has_boxes[position]
                and max(abs(a - b) for a, b in zip(stated, served, strict=True)) > 1
            ):
                raise DataError(
                    f"{annotations.path}: image {image_id} ({annotations.file_names[position]}) is "
                    f"stated as "
                    f"{stated[0]}×{stated[1]} and its file is {served[0]}×{served[1]}, so its "
                    f"boxes can't fit; "
                    "scale the boxes with the image or restore the file"
                )
            different.append(image_id)
    notices = [
        _notice(
            "size-missing",
            unstated,
            "images have no width and height in the json; the files' were taken",
        ),
        _notice(
            "size-differs",
            different,
            "images differ in size from the json, without boxes or by one pixel; the files' were "
            "taken",
        ),
        _notice(
            "exif-turned", turned, "images are turned by their EXIF orientation to fit their boxes"
        ),
    ]
    return sizes_wh, follow_exif, [notice for notice in notices if notice]


def _header(path: Path, image_id: int, stated: tuple[int, ...]) -> tuple[tuple[int, int], int]:
    """Stored (width, height) and EXIF orientation (1: upright), from the file's head."""
    try:
        with Image.open(path) as image:
            # Pillow decodes a whole PNG to find EXIF data that may follow the pixels; do so only if
            # the size is a riddle.
            if image.format == "PNG" and "exif" not in image.info and image.size == stated:
                return image.size, 1
            return image.size, int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception as error:  # Pillow raises almost anything on a damaged file
        raise DataError(
            f"{path} (image id {image_id}) is not a readable picture: {error}; "
            "replace it or take it out of the json"
        ) from error


def _clip(
    annotations: Annotations, sizes_wh: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Boxes ``[A, 4]`` float32 xyxy inside their image, which of them are targets ``[A]``,
    notices.
    """
    xywh = annotations.boxes_xywh
    limit = np.tile(sizes_wh[annotations.image_index], 2).astype(np.float64)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, limit).astype(np.float32)
    regular = ~annotations.crowd
    no_area = regular & ~(xywh[:, 2:] > 0).all(1)
    empty = ~(clipped[:, 2:] > clipped[:, :2]).all(1)
    outside = regular & ~no_area & empty
    keep = regular & ~no_area & ~outside
    sticks_out = keep & (np.abs(clipped - corners) > 1).any(1)
    notices = [
        _notice(
            "box-no-area",
            annotations.ids[no_area].tolist(),
            "annotations have a box of no width or height; dropped",
        ),
        _notice(
            "box-outside",
            annotations.ids[outside].tolist(),
            "annotations have a box outside their image; dropped",
        ),
        _notice(
            "box-clipped",
            annotations.ids[sticks_out].tolist(),
            "annotations have a box that sticks out by over a pixel; clipped",
        ),
    ]
    return clipped, keep, [notice for notice in notices if notice]


def _notice(name: str, ids: Sequence[int], text: str) -> str:
    """``"box-outside: 3 annotations …; dropped (ids 7, 9, 12)"``, or "" for no case."""
    if not ids:
        return ""
    return (
        f"{name}: {len(ids)} {text} (ids "
        f"{', '.join(map(str, ids[:5]))}{', …' if len(ids) > 5 else ''})"
    )


def _fingerprint(annotations: Annotations, sizes_bytes: Sequence[int]) -> str:
    digest = hashlib.sha256(annotations.sha256.encode())
    for file_name, size in zip(annotations.file_names, sizes_bytes, strict=True):
        digest.update(f"\n{file_name}\t{size}".encode())
    return digest.hexdigest()
