"""The parameters cell of a notebook, and whether a sweep's values fit it. Papermill itself only
warns of a name that the cell lacks.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deim_lab.errors import ConfigError, nearest
from deim_lab.host.files import nearest_beside

Json = Any

UNKNOWN = object()  # the value of a parameter that isn't written as a literal


def read(notebook: str | Path) -> dict[str, Json]:
    """Name → default of the cell tagged ``parameters``; ``UNKNOWN`` for a default that is no
    literal.

    Raises:
        ConfigError: there is no such notebook, it can't be read, or it has no parameters cell that
            can be understood.
    """
    path = Path(notebook)
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
            f"notebook {str(path)!r} does not exist{nearest_beside(path, '*.ipynb')}; "
            "paths count from the current folder"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"notebook {str(path)!r} can't be read as a notebook: {type(error).__name__}: {error}"
        ) from error
    if len(tagged) != 1:
        raise ConfigError(
            f"notebook {str(path)!r} has {len(tagged) or 'no'} cells tagged 'parameters', expected "
            f"one: that is where a sweep's "
            "values go in (in JupyterLab: property inspector, common tools, cell tags)"
        )
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ConfigError(
            f"notebook {str(path)!r}: its parameters cell is no Python: {error}"
        ) from error
    return {
        target.id: _literal(value)
        for statement in statements
        for target, value in _assigned(statement)
        if isinstance(target, ast.Name)
    }


def check(notebook: str | Path, own: Mapping[str, Json], further: Mapping[str, Json]) -> None:
    """Raise ``ConfigError`` unless the notebook's parameters cell takes all these.

    Args:
        own: what a sweep fills in every notebook (``overrides``, ``seed``, …), by name.
        further: the grid's ``parameters``; their types must be those of the cell's defaults too.
    """
    known = read(notebook)
    for name in own:
        if name not in known:
            raise ConfigError(
                f"notebook {str(notebook)!r}: its parameters cell has no {name!r}, which a sweep "
                f"sets"
                f"{nearest(name, known)}; it has: {', '.join(known) or 'nothing'}"
            )
    for name, value in further.items():
        if name not in known:
            raise ConfigError(
                f"parameter {name!r} is not in the parameters cell of "
                f"{str(notebook)!r}{nearest(name, known)}; "
                f"it has: {', '.join(known)}"
            )
        if not _fits(value, known[name]):
            raise ConfigError(
                f"parameter {name!r}: {value!r} ({type(value).__name__}), and its default in "
                f"{str(notebook)!r} is "
                f"{known[name]!r} ({type(known[name]).__name__})"
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
