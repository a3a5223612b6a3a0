"""The import graph and the size of the package, read from its source; run it to see the figures.

``python tests/support/house.py`` prints rooms, arrows, circles, depth and lines. The same functions
serve ``test_architecture``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from places import ROOT

PACKAGE = ROOT / "deim_lab"

# Rooms from the foundation up. A room imports only the rooms before it.
ROOMS = (
    "errors",
    "_moved",
    "boxes",
    "palette",
    "structures",
    "host",
    "config",
    "schedule",
    "augment",
    "data",
    "detector",
    "weights",
    "matching",
    "losses",
    "detections",
    "evaluation",
    "inference",
    "runs",
    "training",
    "sweep",
    "study",
    "figures",
    "widgets",
    "cli",
)


def files() -> list[Path]:
    """Every Python file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Dotted name of a file of the package, ``deim_lab.data.coco``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Room of a module; the package itself is ``deim_lab``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _runs(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, except those that only a type checker sees."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from _runs(other)
            continue
        yield child
        yield from _runs(child)


@cache
def graph() -> dict[str, frozenset[str]]:
    """Module → modules of the package that it imports, at its top or inside a function.

    A package that re-exports names counts as the module that an import names, not as what lies
    behind it.
    """
    known = {module_of(path) for path in files()}
    arrows: dict[str, frozenset[str]] = {}
    for path in files():
        targets: set[str] = set()
        for node in _runs(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    targets.add(inner if inner in known else node.module)
            elif isinstance(node, ast.Import):
                targets.update(alias.name for alias in node.names)
        arrows[module_of(path)] = frozenset((targets & known) - {module_of(path), "deim_lab"})
    return arrows


def room_arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    return {
        (room_of(module), room_of(other))
        for module, others in graph().items()
        for other in others
        if room_of(module) not in (room_of(other), "deim_lab")
    }


def circles() -> list[tuple[str, ...]]:
    """Groups of modules that import one another, directly or around a corner (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[tuple[str, ...]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph()[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = tuple(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(group) > 1:
                groups.append(group)

    for module in sorted(graph()):
        if module not in index:
            visit(module)
    return groups


@cache
def depth_below(module: str) -> int:
    """Length of the longest chain of imports that starts at ``module`` (no circles allowed)."""
    return max((1 + depth_below(other) for other in graph()[module]), default=0)


def reached_from(module: str) -> set[str]:
    """Modules that an import of ``module`` can bring in."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        for other in graph()[waiting.pop()] - reached:
            reached.add(other)
            waiting.append(other)
    return reached


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function of a file, decorators left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def conditionals(path: Path) -> Iterator[tuple[int, bool]]:
    """Line of every conditional expression, and whether it is nested or inside an f-string."""

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.IfExp):
                yield child.lineno, inside
            deeper = isinstance(child, (ast.IfExp, ast.FormattedValue))
            yield from visit(child, inside or deeper)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def lines(path: Path) -> int:
    """Number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def report() -> str:
    """The figures of the house, a line each."""
    number = sum(lines(path) for path in files())
    expressions = [item for path in files() for item in conditionals(path)]
    longest = max(files(), key=lines)
    order = {room: place for place, room in enumerate(ROOMS)}
    up = [pair for pair in room_arrows() if order[pair[0]] <= order[pair[1]]]
    function = max(
        ((size, f"{module_of(path)}.{name}") for path in files() for name, size in functions(path)),
    )
    loop = "deim_lab.training.loop"
    return "\n".join(
        [
            f"rooms                    {len({room_of(module_of(path)) for path in files()}) - 1}",
            f"arrows between rooms     {len(room_arrows())}, of which {len(up)} go up",
            f"circles between files    {len(circles())}",
            f"depth below the loop     {depth_below(loop)}",
            f"files the loop reaches   {len(reached_from(loop))} of {len(files())}",
            f"lines                    {number}",
            f"longest file             {lines(longest)} ({module_of(longest)})",
            f"longest function         {function[0]} ({function[1]})",
            f"conditional expressions  {1000 * len(expressions) / number:.1f} per 1,000 lines, "
            f"{sum(bad for _, bad in expressions)} nested or in an f-string",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
