"""Annotations held against their picture files: where each file lies, which way up it is served,
and which boxes lie inside it.

Only the heads of the files are read.

Which way up. A json's boxes fit *some* pixels: COCO's own those stored in the file, most annotation
tools' those a viewer shows after the EXIF orientation. The stated width and height decide, image by
image: orientation is followed where they equal the turned size, and not where they equal only the
stored one; where both fit (square, mirrored or half-turned) or none is stated, it is followed, as
annotation tools do. Prediction on bare files always follows it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deim_lab.data.annotations import Annotations
from deim_lab.errors import DataError, nearest
from deim_lab.host import files

_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height


def find_pictures(images_dir: Path, annotations: Annotations) -> tuple[list[Path], list[int]]:
    """Path and size in bytes of each picture listed. One listing a folder: no system call an
    image.
    """
    if not images_dir.is_dir():
        beside = [item.name for item in files.beside(images_dir) if item.is_dir()]
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


def fit_sizes(
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


def clip_boxes(
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
    more = ", …" if len(ids) > 5 else ""
    return f"{name}: {len(ids)} {text} (ids {', '.join(map(str, ids[:5]))}{more})"
