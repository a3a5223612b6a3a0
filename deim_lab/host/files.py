"""Write files atomically, read JSON, find free or similar file names."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deim_lab.errors import DataError, nearest

Json = Any

_log = logging.getLogger(__name__)


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, with ``~`` and ``~name`` replaced by the home folder.

    A shell does this only at the start of a word, so not in ``--runs=~/x``. A file, a notebook's
    parameter or a Python string never meets a shell. An unknown ``~name`` stays as it is.
    """
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def writing_whole(path: Path, *, suffix: str = ".tmp") -> Iterator[Path]:
    """Give a temporary path next to ``path``, and rename it to ``path`` when the block ends.

    A reader sees the old file or the new file, never a part. If the block raises, the old file is
    unchanged and the temporary file is removed.

    Args:
        suffix: end of the temporary name, for writers that choose the format by the name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically. The content is on disk before the file gets its name."""
    with writing_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return path


def write_json(path: Path, value: Json, *, compact: bool = False) -> Path:
    """Write ``value`` atomically as ``json_text``.

    An object has one key per line, a list is one line. ``compact`` leaves out all spaces.
    """
    if compact:
        text = json_text(value, separators=(",", ":"))
    else:
        text = json_text(value, indent=None if isinstance(value, list) else 1)
    return write_whole(path, text + "\n")


def json_text(value: Json, **form: Any) -> str:
    """``value`` as strict JSON text; ``form`` is passed to ``json.dumps``.

    Tensors and arrays become lists, paths become text, and numbers that are not finite become null.
    """
    try:
        return json.dumps(value, allow_nan=False, **form)
    except (TypeError, ValueError):  # a value that is not JSON: convert it, which is slower
        return json.dumps(_plain(value), allow_nan=False, **form)


def read_json(path: Path, *, error: type[ValueError] = DataError) -> Json:
    """Read a JSON file. Raises ``error``, which names the file and the line of a fault."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as cause:
        raise error(f"{path} does not exist{nearest_beside(path)}.") from cause
    except OSError as cause:
        raise error(f"{path} can't be read: {cause.strerror or cause}.") from cause
    return parse_json(raw, str(path), error=error)


def read_object(path: Path, *, error: type[ValueError] = DataError) -> dict[str, Json]:
    """Read a file that holds a JSON object. Raises ``error`` as ``read_json``."""
    content = read_json(path, error=error)
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}. Expected a JSON object.")
    return content


def parse_json(raw: bytes, name: str, *, error: type[ValueError] = DataError) -> Json:
    """Parse JSON bytes; ``name`` names their origin in errors."""
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as cause:
        fault = f"byte {cause.start} is not UTF-8 text"
    except json.JSONDecodeError as cause:
        fault = f"line {cause.lineno}, column {cause.colno}: {cause.msg}"
    except RecursionError:
        fault = "values are nested too deeply"
    except ValueError as cause:  # a whole number with too many digits
        fault = str(cause)
    raise error(
        f"{name} is no readable JSON: {fault} ({len(raw)} bytes in all). Expected one complete "
        "JSON value. If the file is cut short, restore it or write it again."
    )


def free_path(path: Path, *, taken: Callable[[Path], bool] = Path.exists) -> Path:
    """``path``, or the first free name of ``name-2``, ``name-3`` and so on."""
    number, free = 1, path
    while taken(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def make_free_folder(path: Path) -> Path:
    """Make the folder ``path``, or the first free of ``name-2``, ``name-3`` and so on.

    Two processes that request one name at the same time get two folders.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number, folder = 1, path
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")


def cache_folder() -> Path | None:
    """The user's folder for what can be computed again; None on a machine without a home.

    ``DEIM_LAB_CACHE``, else ``deim-lab`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    own = os.environ.get("DEIM_LAB_CACHE")
    if own:
        return user_path(own)
    try:
        general = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(general) / "deim-lab"


def cached(kind: str, fingerprint: str) -> Path | None:
    """The cache file of a kind and fingerprint; None without a cache or a fingerprint."""
    folder = cache_folder()
    if folder is None or not fingerprint:
        return None
    return folder / kind / f"{fingerprint[:32]}.json"


def read_from_cache(path: Path | None) -> Json:
    """JSON from the cache folder; None if it is absent or damaged, so that it is made anew."""
    if path is None or not path.is_file():
        return None
    try:
        return read_json(path)
    except DataError:
        return None


def write_to_cache(path: Path | None, value: Json) -> None:
    """Write JSON into the cache folder. A folder that can't be written is no error."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value, compact=True)
    except OSError as error:
        _log.debug("%s can't be written: %s", path, error)


def beside(path: Path, pattern: str = "*") -> list[Path]:
    """The entries of the folder that holds ``path``; empty if the folder does not exist."""
    try:
        return list(path.parent.glob(pattern))
    except OSError:
        return []


def nearest_beside(path: Path, pattern: str = "*") -> str:
    """ " (did you mean 'x'?)" for the entry next to ``path`` with the most similar name, or ""."""
    return nearest(path.name, [item.name for item in beside(path, pattern)])


def _plain(value: Json) -> Json:
    """Convert a value to JSON: arrays to lists, paths to text, non-finite numbers to null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
