"""Find the pictures that annotations name, also where the name states another folder.

A name is first taken as it stands, relative to the folder of images. If no file is there, its tail
decides: the last parts of the name, as many as needed, compared without regard to case and to the
form of accents (Unicode NFC or NFD). A tail that fits several files, or none, finds nothing.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deim_lab.data.annotations import Annotations
from deim_lab.data.faults import Faults
from deim_lab.data.formats.content import common_end, composed, files_under
from deim_lab.errors import DataError, first_few, nearest
from deim_lab.host import files

_NAMED = 5  # names in a message
_SEPARATORS = re.compile(r"[\\/]+")


class Pictures(NamedTuple):
    """Path and size in bytes of each listed picture; None and 0 for an absent one."""

    paths: list[Path | None]
    sizes_bytes: list[int]
    notices: list[str]


def find_pictures(images_dir: Path, annotations: Annotations, faults: Faults) -> Pictures:
    """Find each listed picture; absent ones are one fault.

    Lists each folder once, instead of one system call per image. Raises ``DataError`` if the folder
    does not exist.
    """
    if not images_dir.is_dir():
        beside = [item.name for item in files.beside(images_dir) if item.is_dir()]
        raise DataError(
            f"{images_dir}: no such folder of images (for "
            f"{annotations.path}){nearest(images_dir.name, beside)}."
        )
    listings: dict[Path, dict[str, int]] = {}
    paths: list[Path | None] = []
    sizes_bytes: list[int] = []
    absent: list[int] = []
    for position, file_name in enumerate(annotations.file_names):
        path = images_dir / file_name
        inside = _is_inside(file_name)
        if inside and path.parent not in listings:
            listings[path.parent] = _listing(path.parent)
        size = listings[path.parent].get(path.name) if inside else None
        paths.append(path if size is not None else None)
        sizes_bytes.append(size or 0)
        if size is None:
            absent.append(position)
    notices = []
    if absent:
        notices = _find_by_tail(images_dir, annotations, absent, paths, sizes_bytes)
        still_absent = [position for position in absent if paths[position] is None]
        if still_absent:
            faults.add("images-absent", _absent_message(images_dir, annotations, still_absent))
    return Pictures(paths, sizes_bytes, notices)


def _is_inside(file_name: str) -> bool:
    """Whether a name, as text, stays in its folder: relative, and without ``..``."""
    parts = _SEPARATORS.split(file_name)
    return not (os.path.isabs(file_name) or ".." in parts or re.match(r"[A-Za-z]:", file_name))


def _listing(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def _find_by_tail(
    images_dir: Path,
    annotations: Annotations,
    absent: Sequence[int],
    paths: list[Path | None],
    sizes_bytes: list[int],
) -> list[str]:
    """Fill in the absent pictures whose tail fits one file that no other image uses."""
    tails = Tails(images_dir)
    used = {path for path in paths if path is not None}
    found = {position: tails.find(annotations.file_names[position]) for position in absent}
    wanted_by: dict[Path, list[int]] = defaultdict(list)
    for position, path in found.items():
        if path is not None and path not in used:
            wanted_by[path].append(position)
    mended = []
    for path, positions in wanted_by.items():
        if len(positions) == 1:
            paths[positions[0]] = path
            sizes_bytes[positions[0]] = path.stat().st_size
            mended.append(positions[0])
    if not mended:
        return []
    first = min(mended)
    path = paths[first]
    assert path is not None
    name = annotations.file_names[first]
    place = path.relative_to(images_dir).as_posix()
    reason = ""
    if name != place and composed(name) == composed(place):
        reason = " (the accents are written in another Unicode form)"
    return [
        f"name-by-tail: {len(mended)} of {len(paths)} images are found by the end of their name, "
        f"such as {name!r} as {place!r} in {images_dir}{reason}"
    ]


class Tails:
    """All files below a folder, to be found by the end of their path."""

    def __init__(self, folder: Path) -> None:
        self._by_name: dict[str, list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
        for name in files_under(folder, hidden=True):
            parts = tuple(_parts(name))
            self._by_name[parts[-1]].append((parts, folder / name))

    def find(self, name: str) -> Path | None:
        """The one file that shares the longest end with ``name``; None if none or several do."""
        parts = _parts(name)
        if not parts:
            return None
        shared: dict[int, list[Path]] = defaultdict(list)
        for other, path in self._by_name.get(parts[-1], []):
            shared[common_end(parts, other)].append(path)
        best = shared[max(shared)] if shared else []
        return best[0] if len(best) == 1 else None


def _parts(name: str) -> list[str]:
    split = _SEPARATORS.split(composed(name).casefold())
    return [part for part in split if part not in ("", ".", "..")]


def _absent_message(images_dir: Path, annotations: Annotations, absent: Sequence[int]) -> str:
    first = annotations.file_names[absent[0]]
    parts = [part for part in _SEPARATORS.split(first) if part]
    folder = images_dir.joinpath(*parts[:-1]) if _is_inside(first) else images_dir
    beside = list(_listing(folder))[:2000] if parts else []
    hint = nearest(parts[-1], beside) if parts else ""
    if not _is_inside(first):
        hint += " (a name must be relative to this folder, without '..')"
    return (
        f"{annotations.path} lists image {annotations.image_ids[absent[0]]} ({first!r}), "
        f"which is not in {images_dir}{hint}. {len(absent)} of {len(annotations.file_names)} "
        f"images are absent: {_names(annotations, absent)}. Check the folder, or remove the images "
        f"from the json."
    )


def _names(annotations: Annotations, positions: Sequence[int]) -> str:
    return first_few((annotations.file_names[position] for position in positions), _NAMED)
