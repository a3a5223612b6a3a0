"""Compare annotations with picture files: orientation, size, boxes inside the image.

Only the headers of the files are read, and the pixels of a few 16-bit pictures.

Orientation: COCO's boxes fit the pixels stored in the file. Boxes of most annotation tools fit the
picture after its EXIF orientation. The width and height stated in the json decide for each image.
The orientation is ignored if they equal only the stored size. It is followed if they equal the
turned size. It is also followed if both sizes fit (square, mirrored or half-turned) or no size is
stated, as in annotation tools. Prediction on files without a json always follows the orientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deim_lab.data import images
from deim_lab.data.annotations import Annotations
from deim_lab.data.faults import Faults
from deim_lab.errors import DataError

_DARK_BITS = 14  # a 16-bit picture with no more bits in use becomes almost black
_CHECKED = 8  # 16-bit pictures that are decoded to find their largest value


class Sizes(NamedTuple):
    """What the headers of ``N`` pictures say.

    Attributes:
        served_wh: ``[N, 2]`` size of each image as it is served; 0 without a readable header.
        follow_exif: ``[N]`` whether to turn it by its EXIF orientation.
        notices: differences to the json, each with a name and a count.
        unreadable: position → why the header can't be read.
    """

    served_wh: np.ndarray
    follow_exif: np.ndarray
    notices: list[str]
    unreadable: dict[int, str]


def fit_sizes(annotations: Annotations, paths: Sequence[Path], faults: Faults) -> Sizes:
    """Read the headers of the pictures, and compare them with the stated sizes.

    A stated size that fits no orientation is a fault if the image has boxes, because they would be
    wrong. Without boxes it is a notice.
    """
    sizes_wh = np.zeros((len(paths), 2), dtype=np.int64)
    follow_exif = np.ones(len(paths), dtype=bool)
    has_boxes = np.bincount(annotations.image_index, minlength=len(paths)) > 0
    unstated, different, turned, deep = [], [], [], []
    unreadable: dict[int, str] = {}
    for position, path in enumerate(paths):
        image_id, stated = (
            int(annotations.image_ids[position]),
            tuple(annotations.sizes_wh[position].tolist()),
        )
        try:
            header = _header(path, image_id, stated)
        except DataError as error:
            unreadable[position] = str(error)
            continue
        stored, orientation = header.size_wh, header.orientation
        upright = (stored[1], stored[0]) if orientation in images.TURNED else stored
        if header.sixteen_bit:
            deep.append(position)
        follow_exif[position] = orientation != 1 and (stated == upright or stated != stored)
        served = upright if follow_exif[position] else stored
        sizes_wh[position] = served
        if orientation != 1 and follow_exif[position]:
            turned.append(image_id)
        if 0 in stated:
            unstated.append(image_id)
        elif stated != served:
            gap = max(abs(a - b) for a, b in zip(stated, served, strict=True))
            if gap > 1 and has_boxes[position]:
                name = annotations.file_names[position]
                faults.add("size", _size_message(annotations.path, image_id, name, stated, served))
            else:
                different.append(image_id)
    notices = [
        _notice(
            "size-missing",
            unstated,
            "images have no width and height in the json; the sizes of the files are used",
        ),
        _notice(
            "size-differs",
            different,
            "images differ in size from the json, without boxes or by one pixel; the sizes of the "
            "files are used",
        ),
        _notice(
            "exif-turned", turned, "images are turned by their EXIF orientation to fit their boxes"
        ),
        _dark_notice(annotations, paths, deep),
    ]
    return Sizes(sizes_wh, follow_exif, [notice for notice in notices if notice], unreadable)


def _size_message(
    path: Path, image_id: int, name: str, stated: tuple[int, ...], served: tuple[int, int]
) -> str:
    return (
        f"{path}: image {image_id} ({name}) is stated as {stated[0]}×{stated[1]}, but its file is "
        f"{served[0]}×{served[1]}, so its boxes can't fit. Scale the boxes with the image or "
        f"restore the file."
    )


def _dark_notice(annotations: Annotations, paths: Sequence[Path], deep: Sequence[int]) -> str:
    """A notice if the 16-bit pictures at positions ``deep`` use few of their bits.

    Decodes some of them, spread over the set. One picture that uses the range silences the notice.
    """
    checked = list(deep[:: max(1, -(-len(deep) // _CHECKED))])
    used = 0
    for position in checked:
        try:
            used = max(used, images.bits_in_use(paths[position]))
        except Exception:  # a damaged picture is reported where it is decoded
            continue
    if not 0 < used <= _DARK_BITS:
        return ""
    return _notice(
        "16-bit-dark",
        [int(annotations.image_ids[position]) for position in checked],
        f"of {len(deep)} 16-bit images were checked and use at most {used} of 16 bits; as 8-bit "
        f"pictures they are almost black (at most {2**used // 257} of 255). Multiply their pixel "
        f"values by {2 ** (16 - used)} and save them again",
    )


@dataclass(frozen=True)
class _Header:
    """The stored size, EXIF orientation (1: upright) and depth of a picture file."""

    size_wh: tuple[int, int]
    orientation: int
    sixteen_bit: bool


def _header(path: Path, image_id: int, stated: tuple[int, ...]) -> _Header:
    """Read the header of a picture file; no pixels."""
    try:
        with Image.open(path) as image:
            deep = images.is_sixteen_bit(image)
            # Pillow decodes a whole PNG to find EXIF data after the pixels. Do so only if the
            # stored size differs from the stated size.
            if image.format == "PNG" and "exif" not in image.info and image.size == stated:
                return _Header(image.size, 1, deep)
            return _Header(image.size, images.orientation(image), deep)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} (image id {image_id}) {images.too_large(error)}") from error
    except Exception as error:  # Pillow raises almost anything on a damaged file
        raise DataError(
            f"{path} (image id {image_id}) is not a readable picture: {error}. "
            "Replace it or remove it from the json."
        ) from error


def clip_boxes(
    annotations: Annotations, sizes_wh: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Clip boxes to their image; return xyxy ``[A, 4]`` float32, target flags, notices."""
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
            "annotations have a box without width or height; dropped",
        ),
        _notice(
            "box-outside",
            annotations.ids[outside].tolist(),
            "annotations have a box outside their image; dropped",
        ),
        _notice(
            "box-clipped",
            annotations.ids[sticks_out].tolist(),
            "annotations have a box more than a pixel beyond the image; clipped",
        ),
    ]
    return clipped, keep, [notice for notice in notices if notice]


def _notice(name: str, ids: Sequence[int], text: str) -> str:
    """A notice such as ``"box-outside: 3 annotations …; dropped (ids 7, 9)"``; "" without ids."""
    if not ids:
        return ""
    more = ", …" if len(ids) > 5 else ""
    return f"{name}: {len(ids)} {text} (ids {', '.join(map(str, ids[:5]))}{more})"
