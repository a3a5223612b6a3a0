"""Files of this machine: written whole, read as JSON, found under a free or a similar name."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deim_lab.errors import DataError, nearest

Json = Any


@contextlib.contextmanager
def writing_whole(path: Path, *, suffix: str = ".tmp") -> Iterator[Path]:
    """Give a temporary path next to ``path``, and rename it to ``path`` when the block ends.

    A reader finds the old file or the new one, never a part. A block that raises leaves the old
    file as it was, and no temporary file.

    Args:
        suffix: end of the temporary name, for writers that choose the format by it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> Path:
    """Write UTF-8 text whole. The content is on the disk before the file has its name."""
    with writing_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return path


def write_json(path: Path, value: Json, *, compact: bool = False) -> Path:
    """Write ``value`` as ``json_text``, whole.

    An object has one key a line, and a list stands on one line. ``compact`` leaves out all spaces.
    """
    if compact:
        text = json_text(value, separators=(",", ":"))
    else:
        text = json_text(value, indent=None if isinstance(value, list) else 1)
    return write_whole(path, text + "\n")


def json_text(value: Json, **form: Any) -> str:
    """``value`` as strict JSON; ``form`` as ``json.dumps`` takes it.

    Tensors and arrays become lists, paths become text, and numbers that are not finite become null.
    """
    try:
        return json.dumps(value, allow_nan=False, **form)
    except (TypeError, ValueError):  # a value that is not JSON: worth a slower walk
        return json.dumps(_plain(value), allow_nan=False, **form)


def read_json(path: Path, *, error: type[ValueError] = DataError) -> Json:
    """Read the JSON value in a file. Raises ``error`` naming the file, and the line of a fault."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as cause:
        raise error(f"{path} does not exist{nearest_beside(path)}") from cause
    except OSError as cause:
        raise error(f"{path} can't be read: {cause.strerror or cause}") from cause
    return parse_json(raw, str(path), error=error)


def read_object(path: Path, *, error: type[ValueError] = DataError) -> dict[str, Json]:
    """As ``read_json``, of a file that holds a JSON object. Raises ``error`` for another value."""
    content = read_json(path, error=error)
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}. Expected a JSON object")
    return content


def parse_json(raw: bytes, name: str, *, error: type[ValueError] = DataError) -> Json:
    """The value of JSON bytes; ``name`` says in errors where they come from."""
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as cause:
        fault = f"byte {cause.start} is not UTF-8 text"
    except json.JSONDecodeError as cause:
        fault = f"line {cause.lineno}, column {cause.colno}: {cause.msg}"
    except RecursionError:
        fault = "its values are nested too deeply"
    except ValueError as cause:  # a whole number with too many digits
        fault = str(cause)
    raise error(
        f"{name} is no readable JSON: {fault} ({len(raw)} bytes in all). Expected one complete "
        "JSON value. Is the file cut short? Restore it, or write it again"
    )


def free_path(path: Path, *, taken: Callable[[Path], bool] = Path.exists) -> Path:
    """``path``, or the first of ``name-2``, ``name-3``, … that is not taken."""
    number, free = 1, path
    while taken(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def make_free_folder(path: Path) -> Path:
    """Make the folder ``path``, or the first of ``name-2``, ``name-3``, … that does not exist.

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


def beside(path: Path, pattern: str = "*") -> list[Path]:
    """The entries of the folder that holds ``path``; none where there is no such folder."""
    try:
        return list(path.parent.glob(pattern))
    except OSError:
        return []


def nearest_beside(path: Path, pattern: str = "*") -> str:
    """ " (did you mean 'x'?)" for the entry next to ``path`` with the most similar name, or ""."""
    return nearest(path.name, [item.name for item in beside(path, pattern)])


def _plain(value: Json) -> Json:
    """``value`` as JSON: tensors and arrays as lists, paths as text, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
