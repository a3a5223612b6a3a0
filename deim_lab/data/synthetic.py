"""Draw a seeded data set in COCO layout, with any number and size of images.

The embedded data set was drawn with the default values. It is shipped (``data/embedded``, 4.1 MB),
because other versions of the JPEG library write other bytes, and the bytes are part of its
identity. ``layouts.resolve`` opens the shipped files and draws nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from deim_lab.data import drawing
from deim_lab.errors import DataError
from deim_lab.host import files
from deim_lab.host.files import user_path

log = logging.getLogger(__name__)

_MARKER = "spec.json"
_VERSION = (
    1  # increase when the drawing changes: older folders are then redrawn, the shipped set stays
)


def make(
    folder: str | Path,
    *,
    train_images: int = 300,
    val_images: int = 100,
    size_px: tuple[int, int] = (160, 160),
    seed: int = 0,
) -> Path:
    """Draw the set into ``folder``, or keep a complete set with the same settings.

    Args:
        folder: gets ``images/{train,val}`` and ``annotations/instances_{train,val}.json``. It
            appears only when complete. A set drawn by this function is redrawn if it is incomplete
            or has other settings. Any other non-empty folder is an error.
        train_images, val_images: at least 1 each. An image depends only on seed, half and position,
            not on the number of images.
        size_px: height and width, at least 32.
        seed: not negative.

    Returns:
        The folder.

    Raises:
        DataError: a value out of range, or a folder with other content.
    """
    folder = user_path(folder)
    spec = _checked_spec(train_images, val_images, size_px, seed)
    if _is_complete(folder, spec):
        return folder
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        log.info("drawing %d + %d images into %s", train_images, val_images, folder)
        _draw_half(draft, "train", train_images, size_px, (seed, 0))
        _draw_half(draft, "val", val_images, size_px, (seed, 1))
        files.write_json(draft / _MARKER, spec, compact=True)
        draft.chmod(0o755)
        _put_in_place(draft, folder, spec)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _checked_spec(
    train_images: int, val_images: int, size_px: tuple[int, int], seed: int
) -> dict[str, Any]:
    """Settings that identify a drawn set. Raises ``DataError`` for a value out of range."""
    for name, value, least in (
        ("train_images", train_images, 1),
        ("val_images", val_images, 1),
        ("size_px", min(size_px), 32),
        ("seed", seed, 0),
    ):
        if value < least:
            raise DataError(f"drawn data set: {name} {value!r} is below {least}.")
    return {
        "version": _VERSION,
        "train_images": train_images,
        "val_images": val_images,
        "size_px": list(size_px),
        "seed": seed,
    }


def _refuse_foreign(folder: Path) -> None:
    """Raise ``DataError`` if the folder holds files that ``make`` did not write."""
    if not folder.exists() or (folder / _MARKER).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise DataError(
            f"{folder} exists and is not a drawn data set. Name another folder, or remove it."
        )


def _draw_half(
    folder: Path, split: str, count: int, size_px: tuple[int, int], seed: tuple[int, int]
) -> None:
    images_dir = folder / "images" / split
    images_dir.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for position in range(count):
        picture, things = drawing.scene(np.random.default_rng([*seed, position]), size_px)
        file_name = f"{position + 1:06d}.jpg"
        picture.save(images_dir / file_name, quality=92, subsampling=0)
        images.append(
            {"id": position + 1, "file_name": file_name, "width": size_px[1], "height": size_px[0]}
        )
        for thing in things:
            annotations.append(_annotation(thing, len(annotations) + 1, position + 1))
    categories = [
        {"id": index + 1, "name": name, "supercategory": "shape"}
        for index, name in enumerate(drawing.CLASSES)
    ]
    (folder / "annotations").mkdir(exist_ok=True)
    files.write_json(
        folder / "annotations" / f"instances_{split}.json",
        {
            "info": {
                "description": "DEIM Lab's embedded data set, drawn by code",
                "version": str(_VERSION),
            },
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        },
        compact=True,
    )


def _annotation(thing: drawing.Thing, annotation_id: int, image_id: int) -> dict[str, Any]:
    left, top, right, bottom = thing.box_xyxy
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": thing.label + 1,
        "iscrowd": 0,
        "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
        "area": round(thing.visible_px, 1),
    }


def _is_complete(folder: Path, spec: dict[str, Any]) -> bool:
    try:
        if files.read_json(folder / _MARKER) != spec:
            return False
        for split in ("train", "val"):
            listed = files.read_json(folder / "annotations" / f"instances_{split}.json")["images"]
            nonempty_files = {
                entry.name
                for entry in os.scandir(folder / "images" / split)
                if entry.stat().st_size
            }
            if not nonempty_files.issuperset(image["file_name"] for image in listed):
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def _put_in_place(draft: Path, folder: Path, spec: dict[str, Any]) -> None:
    """Rename the draft to ``folder``.

    If two processes draw the same set at once, the set of the earlier process stays.
    """
    if folder.exists() and not _is_complete(folder, spec):
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        os.rename(folder, old / "old")
        shutil.rmtree(old, ignore_errors=True)
    try:
        os.rename(draft, folder)
    except OSError:
        if not _is_complete(folder, spec):
            raise
