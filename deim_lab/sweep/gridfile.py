"""Read the YAML or JSON text of a grid as plain JSON values, with the types as written.

PyYAML reads YAML 1.1: ``1e-3`` is text, ``no`` is false, ``010`` is 8. Of two equal keys it
silently keeps the latter. This module reads the scalars of YAML 1.2 (those of JSON):
``null``/``None``/``~``, ``true``/``false`` and decimal numbers. Everything else is text, and
so is everything in quotes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deim_lab.config.values import plain as without_arrays
from deim_lab.errors import ConfigError
from deim_lab.host.files import nearest_beside

Json = Any

SUFFIXES = (".yaml", ".yml", ".json")


def load(path: Path) -> dict[str, Json]:
    """The content of a grid file. Raises ``ConfigError`` naming the file and the line."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"grid file {str(path)!r} is neither YAML nor JSON by its name. "
            f"Expected one of the endings {', '.join(SUFFIXES)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"grid file {str(path)!r} does not exist{nearest_beside(path)}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"grid file {str(path)!r} can't be read: {error}") from error
    return parse(text, str(path), as_json=path.suffix == ".json")


def parse(text: str, said: str, *, as_json: bool = False) -> dict[str, Json]:
    """Parse ``text`` into a mapping of plain values; ``said`` is the name of it in messages."""
    try:
        content = (
            json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, said))
            if as_json
            else yaml.load(text, _Loader)
        )
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(
            f"{said}{line}: no readable YAML: {error.problem or error.context}"
        ) from error
    except (yaml.YAMLError, json.JSONDecodeError, RecursionError) as error:
        language = "JSON" if as_json else "YAML"
        raise ConfigError(f"{said}: no readable {language}: {error}") from error
    except ConfigError as error:
        raise ConfigError(
            f"{said}: {error}" if not str(error).startswith(said) else str(error)
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{said} holds {type(content).__name__}. Expected a mapping with preset, arms or axes, "
            f"seeds, …"
        )
    return plain(content, said)


def plain(values: Mapping[str, Json], said: str) -> dict[str, Json]:
    """``values`` as plain JSON values; tuples become lists.

    Raises ``ConfigError`` for a key that isn't text, a number that isn't finite, or a type that
    JSON lacks. ``said`` is the name of the values in messages.
    """
    result: dict[str, Json] = _plain(values, said, ())
    return result


def _plain(value: Json, label: str, inside: tuple[int, ...]) -> Json:
    value = without_arrays(value)
    if id(value) in inside:
        raise ConfigError(f"{label} contains itself")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{label}: key {key!r} is {type(key).__name__}, expected text")
        return {
            key: _plain(item, f"{label}: {key}", (*inside, id(value)))
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, label, (*inside, id(value))) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{label}: {value!r} is not finite")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ConfigError(f"{label}: {value!r} ({type(value).__name__}) is not a JSON value")


def _unique(pairs: list[tuple[str, Json]], label: str) -> dict[str, Json]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"{label}: key {key!r} appears twice in one mapping")
    return dict(pairs)


class _Loader(yaml.SafeLoader):
    """A YAML loader with JSON's types. Keys must be text and unique."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - no types of YAML 1.1; those of 1.2 are added below

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[str, Json] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"line {line}: a key must be text")
            if key_node.value in mapping:
                raise ConfigError(
                    f"line {line}: key {key_node.value!r} appears twice in one mapping"
                )
            mapping[key_node.value] = self.construct_object(value_node, deep=deep)
        return mapping


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )
