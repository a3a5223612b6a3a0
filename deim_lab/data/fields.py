"""Read one value of a json object: an integer, a flag, a side in pixels, a box.

Training, evaluation and scoring share these readers, so they understand a file alike. A value that
is an integer in disguise (``"7"``, ``7.0``) is read, and its key is noted. Anything else raises
``DataError`` with the place and the value.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from deim_lab.errors import DataError, nearest

Json = Any

_DIGITS = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)


class Disguises:
    """Counts, per key, the values that were read although they are no integers in the json."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, Json] = {}

    def note(self, key: str, value: Json) -> None:
        """Count one value."""
        self._counts[key] += 1
        self._examples.setdefault(key, value)

    def notices(self) -> list[str]:
        """One notice per key."""
        return [
            f"number-as-text: {count} values of {key!r} are read as integers "
            f"(such as {self._examples[key]!r})"
            for key, count in self._counts.items()
        ]


def get(item: Json, key: str, where: str) -> Json:
    """The value of a required key."""
    if not isinstance(item, Mapping):
        raise DataError(f"{where} is {item!r}. Expected an object.")
    if key not in item:
        raise DataError(
            f"{where}: key {key!r} is missing{nearest(key, item)}. The keys are "
            f"{', '.join(map(str, item)) or 'none'}."
        )
    return item[key]


def integer(value: Json, key: str, where: str, disguises: Disguises | None = None) -> int:
    """An integer of at most 64 bits. Text of digits and whole floats need ``disguises``."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return in_64_bits(int(value), key, where)
    undisguised = _undisguised(value)
    if disguises is None or undisguised is None:
        raise DataError(f"{where}: {key} {value!r} ({type(value).__name__}) is not an integer.")
    disguises.note(key, value)
    return in_64_bits(undisguised, key, where)


def _undisguised(value: Json) -> int | None:
    """The integer that a text or a float stands for; None if it stands for none."""
    if isinstance(value, str) and len(value) < 40 and _DIGITS.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def in_64_bits(value: int, key: str, where: str) -> int:
    """``value``, if 64 bits can hold it."""
    if not -(2**63) <= value < 2**63:
        raise DataError(f"{where}: {key} {value} needs more than 64 bits. Use a smaller number.")
    return value


def flag(item: Mapping[str, Json], key: str, where: str, disguises: Disguises) -> bool:
    """A yes or no, written as 0, 1, false, true, null (no), "0" or "1"; no if it is missing."""
    value = item.get(key)
    if value is None or isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)) and value in (0, 1):
        return bool(value)
    undisguised = _undisguised(value)
    if undisguised not in (0, 1):
        raise DataError(f"{where}: {key} {value!r} is neither 0 nor 1.")
    disguises.note(key, value)
    return bool(undisguised)


def side(item: Mapping[str, Json], key: str, where: str, disguises: Disguises) -> int:
    """A stated width or height; 0 if it is missing, null or 0, as in some exported files."""
    value = item.get(key)
    if value is None or value == "":
        return 0
    if isinstance(value, str):
        pixels = integer(value, key, where, disguises)
    elif is_number(value) and value == int(value):
        pixels = in_64_bits(int(value), key, where)
    else:
        pixels = -1
    if pixels < 0:
        raise DataError(f"{where}: {key} {value!r} is not a whole number of pixels.")
    return pixels


def is_box(value: Json) -> bool:
    """Whether a value is a list of four finite numbers."""
    return (
        not isinstance(value, (str, bytes, Mapping))
        and hasattr(value, "__len__")
        and len(value) == 4
        and all(is_number(number) for number in value)
    )


def is_number(value: Json) -> bool:
    """Whether a value is a finite number of Python or NumPy."""
    try:
        return not isinstance(value, (str, bool)) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
