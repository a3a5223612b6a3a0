"""Read the parameters cell of a notebook, and check a sweep's values against it.

Papermill itself only warns of a name that the cell lacks.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deim_lab.errors import ConfigError, nearest
from deim_lab.host.files import nearest_beside, user_path

Json = Any

UNKNOWN = object()  # the value of a parameter that isn't written as a literal


def read(notebook: str | Path) -> dict[str, Json]:
    """The defaults in the cell tagged ``parameters``, by name.

    A default that is no literal is ``UNKNOWN``.

    Raises:
        ConfigError: the notebook does not exist, can't be read, or has no valid parameters cell.
    """
    path = user_path(notebook)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [
            cell
            for cell in cells
            if cell["cell_type"] == "code"
            and "parameters" in cell.get("metadata", {}).get("tags", [])
        ]
        source = "".join(tagged[0]["source"]) if tagged else ""
    except FileNotFoundError as error:
        raise ConfigError(
            f"notebook {str(path)!r} does not exist{nearest_beside(path, '*.ipynb')}. "
            "Paths are relative to the current folder"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"notebook {str(path)!r} can't be read as a notebook: {type(error).__name__}: {error}"
        ) from error
    if len(tagged) != 1:
        raise ConfigError(
            f"notebook {str(path)!r} has {len(tagged) or 'no'} cells tagged 'parameters', expected "
            f"one, into which a sweep writes its values. Set the tag in JupyterLab: property "
            f"inspector, common tools, cell tags"
        )
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ConfigError(
            f"notebook {str(path)!r}: its parameters cell is not valid Python: {error}"
        ) from error
    return {
        target.id: _literal(value)
        for statement in statements
        for target, value in _assigned(statement)
        if isinstance(target, ast.Name)
    }


def check(notebook: str | Path, own: Mapping[str, Json], further: Mapping[str, Json]) -> None:
    """Raise ``ConfigError`` unless the notebook's parameters cell has all given parameters.

    Args:
        own: parameters that a sweep sets in every notebook (``overrides``, ``seed``, …), by name.
        further: the grid's ``parameters``; their types must match those of the cell's defaults.
    """
    defaults = read(notebook)
    for name in own:
        if name not in defaults:
            raise ConfigError(
                f"notebook {str(notebook)!r}: its parameters cell has no {name!r}, which a sweep "
                f"sets{nearest(name, defaults)}. The cell has: {', '.join(defaults) or 'nothing'}"
            )
    for name, value in further.items():
        if name not in defaults:
            raise ConfigError(
                f"parameter {name!r} is not in the parameters cell of "
                f"{str(notebook)!r}{nearest(name, defaults)}. The cell has: {', '.join(defaults)}"
            )
        if not _fits(value, defaults[name]):
            raise ConfigError(
                f"parameter {name!r} is {value!r} ({type(value).__name__}), but its default in "
                f"{str(notebook)!r} is {defaults[name]!r} ({type(defaults[name]).__name__})"
            )


def _assigned(statement: ast.stmt) -> list[tuple[ast.expr, ast.expr]]:
    """Target and value of every assignment in a statement."""
    if isinstance(statement, ast.Assign):
        return [(target, statement.value) for target in statement.targets]
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return [(statement.target, statement.value)]
    return []


def _literal(node: ast.expr) -> Json:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _fits(value: Json, default: Json) -> bool:
    if value is None or default is None or default is UNKNOWN:
        return True
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, list if isinstance(default, (list, tuple)) else type(default))
