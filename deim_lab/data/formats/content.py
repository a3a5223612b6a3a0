"""Shared by all readers of other formats: content in COCO's terms, pictures of a folder.

A reader finds the halves of a folder with ``find(folder)`` and defers the reading to
``Labels.read``. Nothing here imports torch.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from PIL import Image

from deim_lab.data import images
from deim_lab.data.images import SUFFIXES as SUFFIXES
from deim_lab.errors import DataError, nearest
from deim_lab.host import files

Json = Any

# Names of the three halves in folders, files and columns.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}

_NAMED = 5  # largest number of files in a notice


@dataclass(frozen=True)
class Content:
    """One half of a data set in COCO's terms, read from files of another format.

    Attributes:
        images_dir: folder of the pictures; every ``file_name`` is relative to it, with ``/``.
        coco: the lists ``images`` (id, file_name, width, height), ``annotations`` (id, image_id,
            category_id, bbox as x, y, w, h in pixels, area, iscrowd), ``categories`` (id, name).
        notices: items that were repaired or interpreted. Each has a name, a count and some files.
    """

    images_dir: Path
    coco: dict[str, Json]
    notices: tuple[str, ...] = ()


class Labels(Protocol):
    """Labels of one half that are not in a COCO json. Reading is deferred."""

    @property
    def path(self) -> Path:
        """File or folder of the labels, for messages and for the name of the set."""

    @property
    def format(self) -> str:
        """Name of the format: ``"YOLO"``, ``"Pascal VOC"`` or ``"CSV"``."""

    def read(self) -> Content:
        """Read the labels. ``DataError`` names file, line, value, expectation and remedy."""


Halves = dict[str, tuple[Path, Labels]]


@dataclass(frozen=True)
class Box:
    """One labelled box: ``x, y, width, height`` in pixels from the upper left corner."""

    category_id: int
    xywh: tuple[float, float, float, float]
    crowd: bool = False


@dataclass(frozen=True)
class Labelled:
    """One picture with its boxes. ``size_wh`` is the size that the boxes fit."""

    file_name: str
    size_wh: tuple[int, int]
    boxes: Sequence[Box]


def build(
    images_dir: Path,
    pictures: Iterable[Labelled],
    categories: Mapping[int, str],
    notices: Sequence[str] = (),
) -> Content:
    """Number pictures and boxes from 1, in the sorted order of the file names."""
    listed_images: list[Json] = []
    annotations: list[Json] = []
    for image_id, picture in enumerate(sorted(pictures, key=lambda item: item.file_name), 1):
        width, height = picture.size_wh
        listed_images.append(
            {"id": image_id, "file_name": picture.file_name, "width": width, "height": height}
        )
        for box in picture.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": box.category_id,
                    "bbox": list(box.xywh),
                    "area": box.xywh[2] * box.xywh[3],
                    "iscrowd": int(box.crowd),
                }
            )
    listed = [{"id": category_id, "name": categories[category_id]} for category_id in categories]
    coco = {"images": listed_images, "annotations": annotations, "categories": listed}
    return Content(images_dir, coco, tuple(notices))


def counted(name: str, text: str, items: Sequence[str]) -> list[str]:
    """One notice such as ``"yolo-polygons: 3 polygons were … (files a.txt, …)"``, or none.

    ``items`` has one file name per counted thing. Each file is named once.
    """
    if not items:
        return []
    distinct = list(dict.fromkeys(items))
    more = ", …" if len(distinct) > _NAMED else ""
    return [f"{name}: {len(items)} {text} (files {', '.join(distinct[:_NAMED])}{more})"]


def split_of(name: str) -> str | None:
    """The half that a name stands for: ``"valid"`` → ``"val"``; None for any other name."""
    lower = name.strip().casefold()
    return next((split for split, names in SPLITS.items() if lower in names), None)


def is_picture(file_name: str) -> bool:
    """Whether the readers look for a file of this name: a known suffix, nothing hidden."""
    path = PurePosixPath(file_name)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES


def files_under(folder: Path, *, hidden: bool = False) -> Iterator[str]:
    """Files in a folder and its sub-folders, relative with ``/``. Follows links.

    Skips hidden folders, and hidden files unless ``hidden``.
    """
    visited: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(parent).relative_to(folder)
        for name in sorted(names):
            if hidden or not name.startswith("."):
                yield (relative / name).as_posix()


def pictures_under(folder: Path) -> list[str]:
    """Pictures in a folder and its sub-folders, sorted, relative with ``/``."""
    return sorted(name for name in files_under(folder) if is_picture(name))


class Pictures:
    """The pictures under a folder, to be found by a name, by its tail or by its stem."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = pictures_under(folder)
        self._by_last: dict[str, list[str]] = {}
        for name in self.names:
            last = PurePosixPath(composed(name))
            for key in dict.fromkeys((last.name, last.stem)):
                self._by_last.setdefault(key, []).append(name)

    def locate(self, name: str) -> list[str]:
        """The pictures whose path agrees best with ``name``, counted from its end.

        ``name`` may start with folders of another machine, may have backslashes, and may lack its
        suffix. A picture in a folder of another half never agrees. One result is the picture, two
        are ambiguous, none is absent.
        """
        parts = PurePosixPath(composed(name).replace("\\", "/")).parts
        if not parts:
            return []
        candidates = self._by_last.get(parts[-1], [])
        halves = set(map(split_of, parts[:-1])) - {None}
        best: list[str] = []
        longest = 0
        for candidate in candidates:
            folders = PurePosixPath(composed(candidate)).parts[:-1]
            other_halves = set(map(split_of, folders)) - {None}
            if halves and other_halves and not halves & other_halves:
                continue
            length = common_end(parts[:-1], folders)
            if length > longest or not best:
                best, longest = [candidate], length
            elif length == longest:
                best.append(candidate)
        exact = [candidate for candidate in best if composed(candidate) == "/".join(parts)]
        return exact or best

    def nearest(self, name: str) -> str:
        """ " (did you mean 'x'?)" for the most similar name of a picture, or ""."""
        return nearest(name, list(self._by_last)[:2000])


def common_end(left: Sequence[str], right: Sequence[str]) -> int:
    """Number of equal items at the end of two sequences."""
    length = 0
    for a, b in zip(reversed(left), reversed(right), strict=False):
        if a != b:
            break
        length += 1
    return length


def composed(name: str) -> str:
    """The name with composed accents, because file systems and tools write them differently."""
    return unicodedata.normalize("NFC", name)


def shown_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as a viewer shows it, from the file's header.

    An EXIF orientation that swaps the sides swaps them here, because most tools label the upright
    picture. ``data.pictures`` then follows the orientation, because the stated size fits it.
    """
    (width, height), orientation = header(path)
    return (height, width) if orientation in images.TURNED else (width, height)


def header(path: Path) -> tuple[tuple[int, int], int]:
    """Stored width and height, and EXIF orientation (1: upright), from the file's header."""
    try:
        with Image.open(path) as image:
            # Pillow decodes a whole PNG to look for EXIF data behind its pixels.
            if image.format == "PNG" and "exif" not in image.info:
                return image.size, 1
            return image.size, images.orientation(image)
    except Exception as error:  # Pillow raises almost anything on a damaged file
        raise DataError(
            f"{path} is not a readable picture: {error or type(error).__name__}. "
            "Replace it or remove it with its labels."
        ) from error


def read_text(path: Path) -> str:
    """Text of a small file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: byte {error.start} is wrong. Save it as UTF-8."
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist{files.nearest_beside(path)}.") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error
