"""Check one value of a config: its type and its range.

A wrong value raises ``ConfigError``, which names the key and the value.
"""

from __future__ import annotations

import math
import re
import struct
import types
import typing
from typing import Any, Literal

from deim_lab.errors import ConfigError, nearest

Json = Any

_WHOLE = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
_LAYOUTS = {2: "e", 4: "f"}  # bytes of a short float → its layout in ``struct``


def coerce(key: str, value: Json, kind: Any) -> Any:
    """``value`` converted to the type ``kind``.

    There are four conversions: int → float, one number → a square (``data.input_size``), one name →
    a list (``train.plugins``), and text of a number → the number. The last one is for parameters of
    papermill, whose YAML reads ``1e-3`` as text. Values of numpy, pandas and torch count as the
    numbers that they show.
    """
    value = plain(value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return coerce(key, value, next(item for item in arguments if item is not type(None)))
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f"{key}: {value!r} is not one of "
                f"{', '.join(map(repr, arguments))}{nearest(str(value), map(str, arguments))}."
            )
        return value
    if origin is tuple:
        if key == "data.input_size" and isinstance(_number(value), int):
            value = [value, value]
        if key == "train.plugins" and isinstance(value, str):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key}: expected a list, got {value!r} ({type(value).__name__}).")
        item_kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(item_kinds) != len(value):
            raise ConfigError(
                f"{key}: expected {len(item_kinds)} values, got {len(value)}: {value!r}."
            )
        return tuple(
            coerce(key, item, item_kind) for item, item_kind in zip(value, item_kinds, strict=True)
        )
    if kind in (int, float):
        value = _number(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{key}: {value!r} is not finite. Give a finite number.")
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ConfigError(
        f"{key}: expected {getattr(kind, '__name__', kind)}, got {value!r} "
        f"({type(value).__name__})."
    )


def plain(value: Json) -> Json:
    """A scalar or an array of numpy, pandas or torch as plain Python; other values unchanged.

    A float of 16 or 32 bits becomes the shortest decimal number that it stands for:
    ``float32(0.1)`` is 0.1, not 0.10000000149011612. So both give the same experiment.
    """
    dimensions = getattr(value, "ndim", None)
    if not isinstance(dimensions, int) or not hasattr(value, "item"):
        return value
    if dimensions:
        return [plain(item) for item in value]
    number, layout = value.item(), _LAYOUTS.get(getattr(value, "itemsize", 8))
    if layout is None or not isinstance(number, float) or not math.isfinite(number):
        return number
    if number.is_integer():
        return number  # exact
    rounded = (float(f"{number:.{digits}g}") for digits in range(1, 10))
    stored = struct.pack(layout, number)
    return next((item for item in rounded if _packed(layout, item) == stored), number)


def _packed(layout: str, number: float) -> bytes:
    """The bytes of a number as a short float; none if it is too large for one."""
    try:
        return struct.pack(layout, number)
    except OverflowError:
        return b""


def _number(value: Json) -> Json:
    """Text of a decimal number as that number; any other value unchanged."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else value


def within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} {value!r} is outside [{low}, {high}].")


def at_least(key: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"{key} {value!r} is below {low}, the smallest value allowed.")


def positive(key: str, value: float) -> None:
    if value <= 0:
        raise ConfigError(f"{key} {value!r} must be above 0.")


def ordered(key: str, pair: tuple[float, float], low: float, high: float) -> None:
    if not low <= pair[0] <= pair[1] <= high:
        raise ConfigError(f"{key} {list(pair)} must be ordered and inside [{low}, {high}].")


def check_device(device: str) -> None:
    """Raise ``ConfigError`` unless ``device`` is auto, cpu, cuda or cuda:N.

    ``training.compute`` checks whether the machine has the device.
    """
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not index.isdigit())):
        raise ConfigError(
            f"device {device!r} is unknown{nearest(kind, ['auto', 'cpu', 'cuda'])}. "
            f"Choose auto, cpu, cuda or cuda:N."
        )
