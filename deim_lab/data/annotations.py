"""Labels of a data set as flat arrays: classes, images, boxes.

``data/parse.py`` reads them from json. Checks that need pictures are in ``data/pictures.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deim_lab.data import fields
from deim_lab.errors import DataError, first_few

Json = Any

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
        cls,
        items: Iterable[Mapping[str, Json]],
        *,
        source: str = "categories",
        disguises: fields.Disguises | None = None,
    ) -> Categories:
        """Inverse of ``as_list``: classes in the order of ``items``.

        ``source`` names the origin of the items in errors. With ``disguises``, ids may be texts.
        """
        pairs: dict[int, str] = {}
        for position, item in enumerate(items):
            where = f"{source}: category at position {position}"
            category_id = fields.integer(fields.get(item, "id", where), "id", where, disguises)
            if category_id in pairs:
                raise DataError(
                    f"{source}: category id {category_id} occurs twice ({pairs[category_id]!r} and "
                    f"{item.get('name')!r}). Give every category its own id."
                )
            pairs[category_id] = str(fields.get(item, "name", where))
        if not pairs:
            raise DataError(
                f"{source}: the list of categories is empty. A detector needs at least one class."
            )
        return cls(tuple(pairs), tuple(pairs.values()))

    @classmethod
    def from_coco(
        cls,
        items: Iterable[Mapping[str, Json]],
        *,
        source: str = "categories",
        disguises: fields.Disguises | None = None,
    ) -> Categories:
        """Classes of a COCO file's ``categories``, sorted by ascending id."""
        listed = cls.from_list(items, source=source, disguises=disguises).as_list()
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
        path: the json file, or the file or folder of another format.
        sha256: hash of the file's bytes, or of the content of another format.
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
        notices: what was read with tolerance, each with a name and a count.
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
    notices: tuple[str, ...] = ()

    def take(self, images: np.ndarray) -> Annotations:
        """Only the images at these positions, in this order, with their annotations."""
        place = np.full(len(self.image_ids), -1, dtype=np.int64)
        place[images] = np.arange(len(images))
        rows = np.flatnonzero(place[self.image_index] >= 0)
        return replace(
            self,
            image_ids=self.image_ids[images],
            file_names=tuple(self.file_names[image] for image in images),
            sizes_wh=self.sizes_wh[images],
            ids=self.ids[rows],
            image_index=place[self.image_index[rows]],
            category_ids=self.category_ids[rows],
            boxes_xywh=self.boxes_xywh[rows],
            areas=self.areas[rows],
            crowd=self.crowd[rows],
        )

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
