"""Check that picture files are whole, before anything is trained on them.

A file that was cut still has a sound header. Its end tells: a JPEG ends with the marker FF D9, a
PNG with the chunk IEND. Decoding tells for certain, and is done once per data set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from deim_lab.data import images
from deim_lab.errors import DataError
from deim_lab.host import files

_END_BYTES = 4096  # some cameras write a few bytes after the end of the picture
_MOST_THREADS = 8

T = TypeVar("T")
U = TypeVar("U")


def in_threads(function: Callable[[T], U], items: Sequence[T], what: str) -> list[U]:
    """Apply ``function`` to every item in threads, in order, with a bar on a terminal."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        results: Iterable[U] = pool.map(function, items)
        return list(tqdm(results, total=len(items), desc=what, unit="image", disable=None))


def fault_of(path: Path) -> str:
    """Why a picture can't be decoded; "" if it can."""
    try:
        images.decode(path)
    except DataError as error:
        return str(error)
    return ""


def looks_cut(path: Path) -> bool:
    """Whether the end of the file says that it was cut. Only JPEG and PNG can be told."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES))
            end = file.read()
    except OSError:
        return True
    if start.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in end
    if start == b"\x89PNG":
        return b"IEND" not in end
    return size == 0


def damaged(
    paths: Sequence[Path], *, fingerprint: str = "", what: str = "decoding"
) -> dict[int, str]:
    """Positions of the pictures that can't be decoded, and why.

    Every picture is decoded once for each ``fingerprint``. The result is kept in the user's cache
    folder. Later calls only look at the ends of the files, and decode what looks cut.
    """
    note = files.cached("decoded", fingerprint)
    known = _known_damaged(files.read_from_cache(note), len(paths))
    if known is not None:
        suspects = [position for position, path in enumerate(paths) if looks_cut(path)]
        suspects = sorted({*suspects, *known})
    else:
        suspects = list(range(len(paths)))
    reasons = in_threads(lambda position: fault_of(paths[position]), suspects, what)
    bad = {position: reason for position, reason in zip(suspects, reasons, strict=True) if reason}
    if known is None:
        files.write_to_cache(note, {"images": len(paths), "damaged": sorted(bad)})
    return bad


def _known_damaged(content: object, count: int) -> list[int] | None:
    """Positions that could not be decoded last time; None if that is unknown."""
    if not isinstance(content, dict) or content.get("images") != count:
        return None
    positions = content.get("damaged")
    if not isinstance(positions, list) or not all(isinstance(item, int) for item in positions):
        return None
    return positions
