"""Read and check a COCO annotation file: json on disk → ``Annotations``.

A fault raises ``DataError``, which names the file, the id, the value and the remedy. Nothing here
opens a picture. What exported files commonly do in another way is read, and gives a notice: ids as
text, flags as text, boxes that only a polygon or a mask states, Roboflow's unused class 0.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deim_lab.data import fields, outlines
from deim_lab.data.annotations import Annotations, Categories
from deim_lab.data.faults import Faults
from deim_lab.errors import DataError, first_few, nearest
from deim_lab.host import files

Json = Any

_log = logging.getLogger(__name__)

_NAMED = 12  # largest number of names in a message


def read(path: str | Path, faults: Faults | None = None) -> Annotations:
    """Read and check a COCO ``instances`` file for training (see ``parse_coco``)."""
    content, sha256 = _load(Path(path))
    return parse_coco(content, name=str(path), sha256=sha256, faults=faults)


def parse_coco(
    content: Json,
    *,
    name: str,
    sha256: str = "",
    strict: bool = True,
    faults: Faults | None = None,
) -> Annotations:
    """Check the content of a COCO file.

    Raises ``DataError`` for every fault that can be found without the pictures. Required keys:
    ``images`` (``id``, ``file_name``), ``annotations`` (``id``, ``image_id``, ``category_id``,
    ``bbox`` or ``segmentation``) and ``categories`` (``id``, ``name``). ``iscrowd`` defaults to 0;
    other keys are ignored.

    Args:
        name: name of the file, for messages.
        strict: True: check as required for training. False: check as required for scoring. Then
            names, sizes and annotation ids are ignored. Annotations of an unlisted image or
            category are left out, with a counted warning.
        faults: collects the faults of single entries, which are then left out. None: raise all of
            them as one error.
    """
    check_lists(content, name)
    collected = Faults() if faults is None else faults
    disguises = fields.Disguises()
    shapes = outlines.Counter()
    if strict:
        images = _images(name, content["images"], disguises, collected)
        categories = Categories.from_coco(content["categories"], source=name, disguises=disguises)
        ids = [image.id for image in images]
        rows = _training_rows(name, content["annotations"], set(ids), disguises, shapes, collected)
    else:
        ids = _ids(content["images"], f"{name}: image", disguises)
        images = [_Image(image_id, "", 0, 0) for image_id in ids]
        categories = _scored_categories(content["categories"], name, disguises)
        rows = _scored_rows(
            name, content["annotations"], set(ids), set(categories.ids), disguises, shapes
        )
    if faults is None:
        collected.stop()
    notices = [*disguises.notices(), *shapes.notices()]
    if strict:
        categories, left_out = _without_roboflows_zero(content["categories"], categories, rows)
        notices += [*left_out, *_equal_names(categories)]
    return _arrays(name, sha256, images, rows, categories, notices)


def _arrays(
    name: str,
    sha256: str,
    images: Sequence[_Image],
    rows: Sequence[_Row],
    categories: Categories,
    notices: Sequence[str],
) -> Annotations:
    place = {image.id: index for index, image in enumerate(images)}
    sizes_wh = [(image.width, image.height) for image in images]
    return Annotations(
        path=Path(name),
        sha256=sha256,
        image_ids=np.asarray([image.id for image in images], dtype=np.int64),
        file_names=tuple(image.file_name for image in images),
        sizes_wh=np.asarray(sizes_wh, dtype=np.int64).reshape(-1, 2),
        ids=np.asarray([row.id for row in rows], dtype=np.int64),
        image_index=np.asarray([place[row.image_id] for row in rows], dtype=np.int64),
        category_ids=np.asarray([row.category_id for row in rows], dtype=np.int64),
        boxes_xywh=np.asarray([row.box_xywh for row in rows], dtype=np.float64).reshape(-1, 4),
        areas=np.asarray([row.area for row in rows], dtype=np.float64),
        crowd=np.asarray([row.crowd for row in rows], dtype=bool),
        categories=categories,
        notices=tuple(notices),
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


def _ids(items: Iterable[Json], where: str, disguises: fields.Disguises) -> list[int]:
    """The distinct ids of a list, in order."""
    ids: dict[int, None] = {}
    for position, item in enumerate(items):
        place = f"{where} at position {position}"
        ids[fields.integer(fields.get(item, "id", place), "id", place, disguises)] = None
    return list(ids)


def _scored_categories(items: Sequence[Json], name: str, disguises: fields.Disguises) -> Categories:
    """Classes by ascending id, with or without a name. The later of two equal ids counts."""
    names: dict[int, str] = {}
    for position, item in enumerate(items):
        where = f"{name}: category at position {position}"
        category_id = fields.integer(fields.get(item, "id", where), "id", where, disguises)
        names[category_id] = str(item.get("name"))
    return Categories(tuple(sorted(names)), tuple(names[key] for key in sorted(names)))


class _Image(NamedTuple):
    id: int
    file_name: str
    width: int
    height: int


def _images(
    path: str, items: list[Json], disguises: fields.Disguises, faults: Faults
) -> list[_Image]:
    seen: dict[int, str] = {}
    images: list[_Image] = []
    if not items:
        raise DataError(f"{path}: the list of images is empty. Add at least one image.")
    for position, item in enumerate(items):
        where = f"{path}: image at position {position}"
        with faults.collecting("image"):
            image_id = fields.integer(fields.get(item, "id", where), "id", where, disguises)
            file_name = fields.get(item, "file_name", where)
            if not isinstance(file_name, str) or not file_name:
                raise DataError(f"{where} (id {image_id}): file_name {file_name!r} is not a name.")
            if image_id in seen:
                raise DataError(
                    f"{path}: image id {image_id} occurs twice ({seen[image_id]!r} and "
                    f"{file_name!r}). Give every image its own id."
                )
            seen[image_id] = file_name
            width = fields.side(item, "width", where, disguises)
            height = fields.side(item, "height", where, disguises)
            images.append(_Image(image_id, file_name, width, height))
    return images


class _Row(NamedTuple):
    id: int
    image_id: int
    category_id: int
    box_xywh: list[float]
    area: float
    crowd: bool


def _training_rows(
    name: str,
    items: Sequence[Json],
    image_ids: Container[int],
    disguises: fields.Disguises,
    shapes: outlines.Counter,
    faults: Faults,
) -> list[_Row]:
    """Check that annotations have distinct ids and listed images."""
    rows: list[_Row] = []
    seen: set[int] = set()
    for position, item in enumerate(items):
        where = f"{name}: annotation at position {position}"
        with faults.collecting("annotation"):
            annotation_id = fields.integer(fields.get(item, "id", where), "id", where, disguises)
            where = f"{name}: annotation {annotation_id}"
            if annotation_id in seen:
                raise DataError(
                    f"{where} occurs twice. Give every annotation its own id. The evaluator would "
                    f"count only one."
                )
            seen.add(annotation_id)
            image_id = fields.integer(
                fields.get(item, "image_id", where), "image_id", where, disguises
            )
            if image_id not in image_ids:
                raise DataError(
                    f"{where} is of image {image_id}, which is not in the list of images. Remove "
                    f"the annotation or add the image."
                )
            where_of_box = f"{where} of image {image_id}"
            rows.append(_row(item, annotation_id, where, where_of_box, disguises, shapes))
    return rows


def _scored_rows(
    name: str,
    items: Sequence[Json],
    image_ids: Container[int],
    category_ids: Container[int],
    disguises: fields.Disguises,
    shapes: outlines.Counter,
) -> list[_Row]:
    """Annotations of listed images and categories, numbered from 1. Warns about the others."""
    rows: list[_Row] = []
    for position, item in enumerate(items):
        where = f"{name}: annotation at position {position}"
        if isinstance(item, Mapping) and "id" in item:
            where = f"{name}: annotation {item['id']}"
        row = _row(item, len(rows) + 1, where, where, disguises, shapes)
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


def _row(
    item: Json,
    annotation_id: int,
    where: str,
    where_of_box: str,
    disguises: fields.Disguises,
    shapes: outlines.Counter,
) -> _Row:
    image_id = fields.integer(fields.get(item, "image_id", where), "image_id", where, disguises)
    box: Any = item.get("bbox")
    if box is None or (isinstance(box, list) and not box):
        box = shapes.box_of(item.get("segmentation"))
    if box is None:
        box = fields.get(item, "bbox", where)
    if not fields.is_box(box):
        raise DataError(
            f"{where_of_box}: bbox {box!r} is not [x, y, width, height] in finite pixels."
        )
    category_id = fields.integer(
        fields.get(item, "category_id", where), "category_id", where, disguises
    )
    area = item.get("area")
    return _Row(
        annotation_id,
        image_id,
        category_id,
        [float(value) for value in box],
        float(area) if fields.is_number(area) else math.nan,
        fields.flag(item, "iscrowd", where, disguises),
    )


def _without_roboflows_zero(
    items: Sequence[Mapping[str, Json]], categories: Categories, rows: Sequence[_Row]
) -> tuple[Categories, list[str]]:
    """Leave out class 0 of Roboflow's exports: supercategory "none", never used by a box.

    Roboflow names its project there; the classes proper have it as their supercategory.
    """
    zero = next((item for item in items if item["id"] in (0, "0")), None)
    if zero is None or zero.get("supercategory") != "none" or categories.count < 2:
        return categories, []
    if any(row.category_id == 0 for row in rows):
        return categories, []
    others = [item for item in categories.as_list() if item["id"] != 0]
    notice = (
        f"category-unused: category 0 ({zero['name']!r}, supercategory 'none') has no box and is "
        f"left out, as Roboflow writes it"
    )
    return Categories.from_list(others), [notice]


def _equal_names(categories: Categories) -> list[str]:
    """A notice on categories of one name, with the merge that would mend it."""
    ids_of: dict[str, list[int]] = defaultdict(list)
    names: dict[str, str] = {}
    for category_id, name in zip(categories.ids, categories.names, strict=True):
        key = " ".join(name.split()).casefold()
        ids_of[key].append(category_id)
        names.setdefault(key, name)
    groups = [
        f"{names[key]!r} has the ids {first_few(ids, _NAMED)}: replace category_id "
        f"{first_few(ids[1:], _NAMED)} by {ids[0]}"
        for key, ids in ids_of.items()
        if len(ids) > 1
    ]
    if not groups:
        return []
    return [
        f"category-name-twice: {len(groups)} names stand for several categories. They are trained "
        f"as separate classes. To merge them: {first_few(groups, _NAMED)}"
    ]
