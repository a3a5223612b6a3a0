"""Write a data set as COCO, YOLO or Pascal VOC, from any format that the lab reads.

Nothing half-written is left: the files are made in a temporary folder, which gets its name at the
end. Polygons, keypoints and other fields beyond boxes and classes are not kept.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from deim_lab.config.data import BoxFormat, DataConfig
from deim_lab.data import layouts
from deim_lab.data.annotations import Categories
from deim_lab.data.formats.content import Labels, counted, header, is_picture
from deim_lab.data.half import read_half
from deim_lab.data.writers import Box, Half, Picture, write_coco, write_voc, write_yolo
from deim_lab.errors import ConfigError, DataError, nearest

FORMATS = ("coco", "yolo", "voc")
PICTURES = ("link", "copy", "none")

_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Written:
    """Result of a conversion: the halves as written, and what was changed on the way."""

    folder: Path
    halves: tuple[Half, ...]
    notices: tuple[str, ...]


def read(folder: str | Path, *, boxes: BoxFormat = "auto") -> list[Half]:
    """Read all halves of a folder in any layout that ``layouts.resolve`` knows.

    Args:
        boxes: what the four numbers of a box are, as the setting ``data.boxes``.

    Raises:
        DataError: names every fault of a half, the worst first.
    """
    source = layouts.resolve(folder)
    settings = DataConfig(boxes=boxes)
    halves = {"train": source.train, "val": source.val, "test": source.test}
    return [
        half_of(name, *half, settings=settings) for name, half in halves.items() if half is not None
    ]


def half_of(
    name: str, images_dir: Path, labels: Path | Labels, *, settings: DataConfig | None = None
) -> Half:
    """Read one half. Compares the stated sizes with the pictures."""
    opened = read_half(labels, images_dir, settings or DataConfig())
    annotations, sizes_wh = opened.annotations, opened.sizes.served_wh
    paths, notices = opened.paths, opened.notices
    areas = np.where(
        np.isfinite(annotations.areas), annotations.areas, annotations.boxes_xywh[:, 2:].prod(1)
    )
    boxes: list[list[Box]] = [[] for _ in paths]
    for row, index in enumerate(annotations.image_index.tolist()):
        left, top, width, height = annotations.boxes_xywh[row].tolist()
        boxes[index].append(
            Box(
                int(annotations.category_ids[row]),
                (left, top, width, height),
                float(areas[row]),
                bool(annotations.crowd[row]),
            )
        )
    pictures = tuple(
        Picture(
            int(annotations.image_ids[index]),
            path,
            annotations.file_names[index],
            (int(sizes_wh[index, 0]), int(sizes_wh[index, 1])),
            tuple(boxes[index]),
        )
        for index, path in enumerate(paths)
    )
    return Half(name, annotations.categories, pictures, tuple(notices))


def write(
    format: str, to: str | Path, halves: Sequence[Half], *, pictures: str = "link"
) -> Written:
    """Write halves into a new folder.

    Args:
        format: ``"coco"``, ``"yolo"`` or ``"voc"``.
        to: the folder; it must be absent or empty.
        halves: what to write. All halves share their classes.
        pictures: ``"link"``: hard links, or copies where the disk has no links. ``"copy"``:
            copies. ``"none"``: labels only.

    Raises:
        DataError: names the file or class that the format can't hold, or the folder in the way.
            Then nothing is written.
    """
    for value, allowed in ((format, FORMATS), (pictures, PICTURES)):
        if value not in allowed:
            hint = nearest(value, allowed)
            raise ConfigError(f"{value!r} is unknown{hint}. Expected {', '.join(allowed)}.")
    target = Path(to).resolve()
    _check_free(target)
    halves = [_checked_names(half) for half in halves]
    categories = _shared_categories(halves)
    notices: list[str] = []
    if format != "coco":
        halves = [_boxes_in_pictures(half, notices, crowds=format == "voc") for half in halves]
        for half in halves:
            _check_pictures(half, format)
    if format == "voc":
        _check_class_names(categories)
        halves = _distinct_halves(halves, notices)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    writers: dict[str, Callable[[Path, Sequence[Half], Categories], Iterator[tuple[Path, Path]]]]
    writers = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}
    copied: list[str] = []
    try:
        temporary.mkdir()
        for source, place in writers[format](temporary, halves, categories):
            if not _place(source, place, pictures):
                copied.append(place.name)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    notices += counted("convert-copied", "pictures were copied; they can't be linked", copied)
    return Written(target, tuple(halves), tuple(notices))


# ---- checks before anything is written ------------------------------------------------------


def _check_free(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        kind = "is not empty" if target.is_dir() else "is a file"
        raise DataError(f"{target} {kind}. Nothing is overwritten. Give a new folder.")


def _checked_names(half: Half) -> Half:
    """The half with plain file names. Refuses names that leave the folder or occur twice."""
    seen: set[str] = set()
    pictures: list[Picture] = []
    for picture in half.pictures:
        path = PurePosixPath(picture.file_name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise DataError(
                f"{half.name}: file_name {picture.file_name!r} is not inside the folder of "
                f"pictures. Write a relative name."
            )
        name = path.as_posix()
        if name in seen:
            raise DataError(f"{half.name}: file_name {name!r} occurs twice. Merge the two images.")
        seen.add(name)
        pictures.append(replace(picture, file_name=name))
    return replace(half, pictures=tuple(pictures))


def _shared_categories(halves: Sequence[Half]) -> Categories:
    """The classes of all halves by ascending id. One id must name one class."""
    names: dict[int, str] = {}
    for half in halves:
        for category_id, name in zip(half.categories.ids, half.categories.names, strict=True):
            if names.setdefault(category_id, name) != name:
                raise DataError(
                    f"{half.name}: category id {category_id} is {name!r} here and "
                    f"{names[category_id]!r} in another half. Give one class one id."
                )
    return Categories(tuple(sorted(names)), tuple(names[key] for key in sorted(names)))


def _check_pictures(half: Half, format: str) -> None:
    """Refuse pictures that readers would not find, or that would share a label file."""
    by_stem: dict[str, str] = {}
    for picture in half.pictures:
        name = picture.file_name
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if not is_picture(name):
            raise DataError(
                f"{half.name}: {name!r} is hidden or has an unusual suffix, so readers of "
                f"{format} don't find it. Rename it to a usual name, such as a.jpg."
            )
        if stem in by_stem:
            raise DataError(
                f"{half.name}: {by_stem[stem]!r} and {name!r} would share their label file. "
                f"Rename one of them."
            )
        by_stem[stem] = name
        lines = f"{stem}\n".splitlines()
        if format == "voc" and (lines != [stem.strip()] or _NOT_IN_XML.search(name)):
            raise DataError(
                f"{half.name}: {name!r} has control characters, line breaks or blanks at an end, "
                f"which the lists and xml files of voc can't hold. Rename it."
            )


def _check_class_names(categories: Categories) -> None:
    for name in categories.names:
        if f"{name}\n".splitlines() != [name.strip()] or _NOT_IN_XML.search(name):
            raise DataError(
                f"class {name!r} is empty or has control characters, line breaks or blanks at an "
                f"end, which voc can't hold. Rename it."
            )
        if categories.names.count(name) > 1:
            raise DataError(
                f"two classes are named {name!r}. Pascal VOC knows classes by their names, so they "
                f"would become one. Rename or merge them."
            )


def _distinct_halves(halves: Sequence[Half], notices: list[str]) -> list[Half]:
    """Put the halves into sub-folders if names would clash: VOC has one folder of pictures."""
    stems = [
        PurePosixPath(picture.file_name).with_suffix("").as_posix()
        for half in halves
        for picture in half.pictures
    ]
    clashing = len(stems) - len(set(stems))
    if not clashing:
        return list(halves)
    notices.append(
        f"convert-sub-folders: {clashing} names occur in several halves; the pictures of each half "
        f"are in a sub-folder"
    )
    return [
        replace(
            half,
            pictures=tuple(
                replace(picture, file_name=f"{half.name}/{picture.file_name}")
                for picture in half.pictures
            ),
        )
        for half in halves
    ]


# ---- boxes ----------------------------------------------------------------------------------


def _boxes_in_pictures(half: Half, notices: list[str], *, crowds: bool) -> Half:
    """Boxes as YOLO and VOC can hold them: in the upright picture, clipped, with an area."""
    changes: dict[str, list[str]] = {"crowd": [], "empty": [], "clipped": [], "turned": []}
    pictures: list[Picture] = []
    for original in half.pictures:
        picture = upright(original)
        if picture is not original:
            changes["turned"].append(picture.file_name)
        boxes: list[Box] = []
        for box in picture.boxes:
            inside = _clip(box.xywh, picture.size_wh)
            if box.crowd:
                changes["crowd"].append(picture.file_name)
            if box.crowd and not crowds:
                continue
            if inside[2] <= 0 or inside[3] <= 0:
                changes["empty"].append(picture.file_name)
                continue
            if max(abs(a - b) for a, b in zip(inside, box.xywh, strict=True)) > 0.01:
                changes["clipped"].append(picture.file_name)
            boxes.append(box._replace(xywh=inside))
        pictures.append(replace(picture, boxes=tuple(boxes)))
    crowd_text = "crowd regions are left out, because YOLO has no mark for them"
    if crowds:
        crowd_text = "crowd regions are marked as difficult"
    notices += counted("convert-crowd", f"{half.name}: {crowd_text}", changes["crowd"])
    notices += counted(
        "convert-empty", f"{half.name}: boxes without area in the picture", changes["empty"]
    )
    notices += counted(
        "convert-clipped", f"{half.name}: boxes are clipped to the picture", changes["clipped"]
    )
    notices += counted(
        "convert-turned",
        f"{half.name}: pictures have boxes of the stored pixels; turned as a viewer shows them",
        changes["turned"],
    )
    return replace(half, pictures=tuple(pictures))


def upright(picture: Picture) -> Picture:
    """The picture with boxes that fit it as a viewer shows it.

    COCO's boxes may fit the stored pixels of a picture that its EXIF orientation turns
    (``data.pictures``). YOLO and VOC have no way to say so.
    """
    stored, orientation = header(picture.path)
    width, height = picture.size_wh
    if orientation not in (5, 6, 7, 8) or picture.size_wh != stored or width == height:
        return picture
    from_right = orientation in (6, 7)  # the shown x runs against the stored y
    from_bottom = orientation in (7, 8)  # the shown y runs against the stored x
    boxes: list[Box] = []
    for box in picture.boxes:
        x, y, w, h = box.xywh
        left = height - y - h if from_right else y
        top = width - x - w if from_bottom else x
        boxes.append(box._replace(xywh=(left, top, h, w)))
    return replace(picture, size_wh=(height, width), boxes=tuple(boxes))


def _clip(
    xywh: tuple[float, float, float, float], size_wh: tuple[int, int]
) -> tuple[float, float, float, float]:
    x, y, w, h = xywh
    left, right = (min(max(value, 0.0), float(size_wh[0])) for value in (x, x + w))
    top, bottom = (min(max(value, 0.0), float(size_wh[1])) for value in (y, y + h))
    if (left, top, right, bottom) == (x, y, x + w, y + h):
        return xywh
    return left, top, right - left, bottom - top


def _place(source: Path, place: Path, pictures: str) -> bool:
    """Put a picture at its place; False if it was copied instead of linked."""
    if pictures == "none":
        return True
    place.parent.mkdir(parents=True, exist_ok=True)
    if pictures == "link":
        try:
            os.link(os.path.realpath(source), place)
            return True
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(source, place)
    return pictures == "copy"
