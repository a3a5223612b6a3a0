"""Check one value of a config: its type and its range.

A wrong value raises ``ConfigError``, which names the key and the value.
"""

from __future__ import annotations

import math
import types
import typing
from typing import Any, Literal

from deim_lab.errors import ConfigError, nearest

Json = Any


def coerce(key: str, value: Json, kind: Any) -> Any:
    """``value`` converted to the type ``kind``.

    There are three conversions: int → float, one number → a square (``data.input_size``), and one
    name → a list (``train.plugins``).
    """
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
        if key == "data.input_size" and isinstance(value, int):
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
