"""Read and check a COCO annotation file: json on disk → flat arrays.

A faulty file raises ``DataError``, which names the file, the id, the value and the remedy. Nothing
here opens a picture. Checks that need pictures (sizes, clipping, EXIF) are in ``data/pictures.py``.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deim_lab.errors import DataError, first_few, nearest
from deim_lab.host import files

Json = Any

_log = logging.getLogger(__name__)

_NAMED = 12  # largest number of ids in a message


@dataclass(frozen=True)
class Categories:
    """Category ids and names in class order: the class index is the position.

    Classes of a training file are in ascending order of their ids (``from_coco``). Classes of a
    weights file are in the order of the rows of its head (``from_list``). Every checkpoint holds
    the classes (``as_list``). Predictions read ``ids[label]``.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, category_id: int) -> int:
        """Class index in ``[0, len)`` of a category id; ``DataError`` for an unknown one."""
        if category_id not in self._index:
            raise DataError(
                f"category id {category_id!r} is unknown. "
                f"The classes have the ids [{first_few(self.ids, _NAMED)}]."
            )
        return self._index[category_id]

    def as_list(self) -> list[dict[str, Json]]:
        """``[{"id": …, "name": …}]`` in class order, as JSON."""
        return [
            {"id": category_id, "name": name}
            for category_id, name in zip(self.ids, self.names, strict=True)
        ]

    @classmethod
    def from_list(
        cls, items: Iterable[Mapping[str, Json]], *, source: str = "categories"
    ) -> Categories:
        """Inverse of ``as_list``: classes in the order of ``items``.

        ``source`` names the origin of the items in errors.
        """
        pairs: dict[int, str] = {}
        for position, item in enumerate(items):
            where = f"{source}: category at position {position}"
            category_id = _integer(_get(item, "id", where), "id", where)
            if category_id in pairs:
                raise DataError(
                    f"{source}: category id {category_id} occurs twice ({pairs[category_id]!r} and "
                    f"{item.get('name')!r}). Give every category its own id."
                )
            pairs[category_id] = str(_get(item, "name", where))
        if not pairs:
            raise DataError(
                f"{source}: the list of categories is empty. A detector needs at least one class."
            )
        return cls(tuple(pairs), tuple(pairs.values()))

    @classmethod
    def from_coco(
        cls, items: Iterable[Mapping[str, Json]], *, source: str = "categories"
    ) -> Categories:
        """Classes of a COCO file's ``categories``, sorted by ascending id."""
        listed = cls.from_list(items, source=source).as_list()
        return cls.from_list(sorted(listed, key=lambda item: item["id"]))

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(self.ids)

    @cached_property
    def _index(self) -> dict[int, int]:
        return {category_id: index for index, category_id in enumerate(self.ids)}


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file: ``N`` images, ``A`` annotations in the order of the file.

    Attributes:
        path: the json file.
        sha256: hash of the file's bytes.
        image_ids: ``[N]`` int64, unique.
        file_names: ``N`` names, relative to the image folder.
        sizes_wh: ``[N, 2]`` int64 width and height as stated in the json; 0 if not stated.
        ids: ``[A]`` int64 annotation ids, unique.
        image_index: ``[A]`` int64 position of each annotation's image.
        category_ids: ``[A]`` int64.
        boxes_xywh: ``[A, 4]`` float64 pixels, finite, otherwise unchanged.
        areas: ``[A]`` float64 px² as stated; NaN without a finite number.
        crowd: ``[A]`` bool.
        categories: classes of this file.
    """

    path: Path
    sha256: str
    image_ids: np.ndarray
    file_names: tuple[str, ...]
    sizes_wh: np.ndarray
    ids: np.ndarray
    image_index: np.ndarray
    category_ids: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    categories: Categories

    def labels(self, categories: Categories) -> np.ndarray:
        """``[A]`` int64 class indices in ``categories`` (the training file's).

        Raises ``DataError`` for a category that is missing from ``categories`` or has another name
        there.
        """
        for category_id, name in zip(self.categories.ids, self.categories.names, strict=True):
            if category_id in categories.ids:
                trained = categories.names[categories.index(category_id)]
                if trained.strip().casefold() != name.strip().casefold():
                    raise DataError(
                        f"{self.path}: category id {category_id} is {name!r} here and {trained!r} "
                        f"in the training file. The same id must name the same class in both."
                    )
        unknown = ~np.isin(self.category_ids, categories.ids)
        if unknown.any():
            raise DataError(
                self._unknown_category(
                    int(np.flatnonzero(unknown)[0]), int(unknown.sum()), categories
                )
            )
        ids = np.asarray(categories.ids)
        ascending = np.argsort(ids)
        return ascending[np.searchsorted(ids[ascending], self.category_ids)].astype(np.int64)

    def _unknown_category(self, row: int, count: int, categories: Categories) -> str:
        category_id = int(self.category_ids[row])
        names = dict(zip(self.categories.ids, self.categories.names, strict=True))
        image = self.image_index[row]
        same_name = [
            same_id
            for same_id, name in zip(categories.ids, categories.names, strict=True)
            if name == names.get(category_id)
        ]
        hint = f" (the training file has this name under id {same_name[0]})" if same_name else ""
        return (
            f"{self.path}: category id {category_id} ({names.get(category_id, 'no name')!r}) of "
            f"annotation {self.ids[row]} in image "
            f"{self.image_ids[image]} ({self.file_names[image]}) is not one of the training "
            f"categories [{first_few(categories.ids, _NAMED)}]{hint}. "
            f"{count} annotations have such categories. Remove them, or add the category to the "
            f"training file."
        )


def read(path: str | Path) -> Annotations:
    """Read and check a COCO ``instances`` file for training (see ``parse_coco``)."""
    content, sha256 = _load(Path(path))
    return parse_coco(content, name=str(path), sha256=sha256)


def parse_coco(content: Json, *, name: str, sha256: str = "", strict: bool = True) -> Annotations:
    """Check the content of a COCO file.

    Raises ``DataError`` for every fault that can be found without the pictures. Required keys:
    ``images`` (``id``, ``file_name``), ``annotations`` (``id``, ``image_id``, ``category_id``,
    ``bbox``) and ``categories`` (``id``, ``name``). ``iscrowd`` defaults to 0; ``segmentation`` and
    other keys are ignored.

    Args:
        name: name of the file, for messages.
        strict: True: check as required for training. False: check as required for scoring. Then
            names, sizes and annotation ids are ignored. Annotations of an unlisted image or
            category are left out, with a counted warning.
    """
    check_lists(content, name)
    if strict:
        image_ids, file_names, sizes_wh = _images(name, content["images"])
        categories = Categories.from_coco(content["categories"], source=name)
        rows = _training_rows(name, content["annotations"], set(image_ids))
    else:
        image_ids = _ids(content["images"], f"{name}: image")
        file_names, sizes_wh = [""] * len(image_ids), [(0, 0)] * len(image_ids)
        categories = _scored_categories(content["categories"], name)
        rows = _scored_rows(name, content["annotations"], set(image_ids), set(categories.ids))
    place = {image_id: index for index, image_id in enumerate(image_ids)}
    return Annotations(
        path=Path(name),
        sha256=sha256,
        image_ids=np.asarray(image_ids, dtype=np.int64),
        file_names=tuple(file_names),
        sizes_wh=np.asarray(sizes_wh, dtype=np.int64).reshape(-1, 2),
        ids=np.asarray([row.id for row in rows], dtype=np.int64),
        image_index=np.asarray([place[row.image_id] for row in rows], dtype=np.int64),
        category_ids=np.asarray([row.category_id for row in rows], dtype=np.int64),
        boxes_xywh=np.asarray([row.box_xywh for row in rows], dtype=np.float64).reshape(-1, 4),
        areas=np.asarray([row.area for row in rows], dtype=np.float64),
        crowd=np.asarray([row.crowd for row in rows], dtype=bool),
        categories=categories,
    )


def _load(path: Path) -> tuple[dict[str, Json], str]:
    if not path.is_file():
        raise DataError(f"{path}: no such annotation file{files.nearest_beside(path)}.")
    raw = path.read_bytes()
    content = files.parse_json(raw, str(path))
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: expected a json object with images, annotations and categories, got a "
            f"{type(content).__name__}."
        )
    return content, hashlib.sha256(raw).hexdigest()


def check_lists(content: Json, name: str) -> None:
    """Raise ``DataError`` unless ``content`` has the three lists of a COCO file."""
    for key in ("images", "annotations", "categories"):
        fault = _fault_of_list(content, key)
        if fault:
            raise DataError(
                f"{name} has no list {key!r}: {fault}. A COCO file has the lists images, "
                f"annotations and categories."
            )


def _fault_of_list(content: Json, key: str) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    if key not in content:
        return f"key {key!r} is missing{nearest(key, content)}"
    if not isinstance(content[key], (list, tuple)):
        return f"key {key!r} is a {type(content[key]).__name__}, not a list"
    return ""


def _ids(items: Iterable[Json], where: str) -> list[int]:
    """The distinct ids of a list, in order."""
    ids: dict[int, None] = {}
    for position, item in enumerate(items):
        place = f"{where} at position {position}"
        ids[_integer(_get(item, "id", place), "id", place)] = None
    return list(ids)


def _scored_categories(items: Sequence[Json], name: str) -> Categories:
    """Classes by ascending id, with or without a name. The later of two equal ids counts."""
    _ids(items, f"{name}: category")
    names = {int(item["id"]): str(item.get("name")) for item in items}
    return Categories(tuple(sorted(names)), tuple(names[key] for key in sorted(names)))


def _images(path: str, items: list[Json]) -> tuple[list[int], list[str], list[tuple[int, int]]]:
    seen: dict[int, str] = {}
    sizes_wh: list[tuple[int, int]] = []
    if not items:
        raise DataError(f"{path}: the list of images is empty. Add at least one image.")
    for position, item in enumerate(items):
        where = f"{path}: image at position {position}"
        image_id = _integer(_get(item, "id", where), "id", where)
        file_name = _get(item, "file_name", where)
        if not isinstance(file_name, str) or not file_name:
            raise DataError(f"{where} (id {image_id}): file_name {file_name!r} is not a name.")
        if image_id in seen:
            raise DataError(
                f"{path}: image id {image_id} occurs twice ({seen[image_id]!r} and {file_name!r}). "
                f"Give every image its own id."
            )
        seen[image_id] = file_name
        sizes_wh.append((_side(item, "width", where), _side(item, "height", where)))
    return list(seen), list(seen.values()), sizes_wh


class _Row(NamedTuple):
    id: int
    image_id: int
    category_id: int
    box_xywh: list[float]
    area: float
    crowd: bool


def _training_rows(name: str, items: Sequence[Json], image_ids: Container[int]) -> list[_Row]:
    """Check that annotations have distinct ids and listed images."""
    rows: list[_Row] = []
    seen: set[int] = set()
    for position, item in enumerate(items):
        where = f"{name}: annotation at position {position}"
        annotation_id = _integer(_get(item, "id", where), "id", where)
        where = f"{name}: annotation {annotation_id}"
        if annotation_id in seen:
            raise DataError(
                f"{where} occurs twice. Give every annotation its own id. The evaluator would "
                f"count only one."
            )
        seen.add(annotation_id)
        image_id = _integer(_get(item, "image_id", where), "image_id", where)
        if image_id not in image_ids:
            raise DataError(
                f"{where} is of image {image_id}, which is not in the list of images. Remove the "
                f"annotation or add the image."
            )
        rows.append(_row(item, annotation_id, where, f"{where} of image {image_id}"))
    return rows


def _scored_rows(
    name: str, items: Sequence[Json], image_ids: Container[int], category_ids: Container[int]
) -> list[_Row]:
    """Annotations of listed images and categories, numbered from 1. Warns about the others."""
    rows: list[_Row] = []
    for position, item in enumerate(items):
        where = f"{name}: annotation at position {position}"
        if isinstance(item, Mapping) and "id" in item:
            where = f"{name}: annotation {item['id']}"
        row = _row(item, len(rows) + 1, where, where)
        if row.image_id in image_ids and row.category_id in category_ids:
            rows.append(row)
    if len(rows) < len(items):
        _log.warning(
            "%s: %d annotations have an image or a category that the file does not list. They are "
            "not scored.",
            name,
            len(items) - len(rows),
        )
    return rows


def _row(item: Json, annotation_id: int, where: str, where_of_box: str) -> _Row:
    image_id = _integer(_get(item, "image_id", where), "image_id", where)
    box: Any = _get(item, "bbox", where)
    if not _is_box(box):
        raise DataError(
            f"{where_of_box}: bbox {box!r} is not [x, y, width, height] in finite pixels."
        )
    category_id = _integer(_get(item, "category_id", where), "category_id", where)
    area = item.get("area")
    return _Row(
        annotation_id,
        image_id,
        category_id,
        [float(value) for value in box],
        float(area) if _is_number(area) else math.nan,
        bool(item.get("iscrowd", 0)),
    )


def _is_box(value: Json) -> bool:
    return (
        not isinstance(value, (str, bytes, Mapping))
        and hasattr(value, "__len__")
        and len(value) == 4
        and all(_is_number(number) for number in value)
    )


def _get(item: Json, key: str, where: str) -> Json:
    if not isinstance(item, Mapping):
        raise DataError(f"{where} is {item!r}. Expected an object.")
    if key not in item:
        raise DataError(
            f"{where}: key {key!r} is missing{nearest(key, item)}. The keys are "
            f"{', '.join(map(str, item)) or 'none'}."
        )
    return item[key]


def _integer(value: Json, key: str, where: str) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise DataError(f"{where}: {key} {value!r} ({type(value).__name__}) is not an integer.")
    return _in_64_bits(int(value), key, where)


def _in_64_bits(value: int, key: str, where: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise DataError(f"{where}: {key} {value} needs more than 64 bits. Use a smaller number.")
    return value


def _side(item: Mapping[str, Json], key: str, where: str) -> int:
    """A stated width or height; 0 if it is missing, null or 0, as in some exported files."""
    value = item.get(key) or 0
    if not _is_number(value) or value < 0 or value != int(value):
        raise DataError(f"{where}: {key} {value!r} is not a whole number of pixels.")
    return _in_64_bits(int(value), key, where)


def _is_number(value: Json) -> bool:
    """Whether a value is a finite number of Python or NumPy."""
    try:
        return not isinstance(value, (str, bool)) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
