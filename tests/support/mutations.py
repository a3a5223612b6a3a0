"""The mutants of a Python file: each one is the source with one place changed.

Changed are comparisons, arithmetic, ``and``/``or``, signs and ``not``, numbers (± 1), booleans and
strings, keyword arguments (removed), branches and filters (swapped), calls and item assignments
that stand alone (dropped), returned values (``None``), ``break`` and ``continue``.

Not changed: annotations, decorators, docstrings, asserts, f-strings, ``raise`` statements and what
the log says.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_BINARY: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,),
}
_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


@dataclass(frozen=True)
class Mutant:
    """One change: the bytes ``start:end`` of the file become ``text``."""

    file: str
    line: int
    kind: str
    start: int
    end: int
    text: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _of_constant(node: ast.Constant, parent: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield from (ast.Constant(node.value + step) for step in (1, -1))
    elif isinstance(node.value, str) and not isinstance(parent, ast.Expr):
        yield ast.Constant("" if node.value else "x")


def _of_statement(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Statements in place of this one."""
    if isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "return None", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call dropped", ast.Pass()
    elif isinstance(node, ast.AugAssign):
        yield "assignment dropped", ast.Pass()
        for operator in _BINARY.get(type(node.op), ()):
            yield "operator", ast.AugAssign(node.target, operator(), node.value)
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        yield "assignment dropped", ast.Pass()
    elif isinstance(node, ast.Break):
        yield "break", ast.Continue()
    elif isinstance(node, ast.Continue):
        yield "continue", ast.Break()


def _of_expression(node: ast.expr, parent: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Expressions in place of this one."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in _COMPARED.get(type(operator), ()):
                ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                yield "comparison", ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp):
        for arithmetic in _BINARY.get(type(node.op), ()):
            yield "operator", ast.BinOp(node.left, arithmetic(), node.right)
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", ast.BoolOp(other_op, node.values)
    elif isinstance(node, ast.UnaryOp):
        yield "sign or not removed", node.operand
    elif isinstance(node, ast.IfExp):
        yield "branches swapped", ast.IfExp(_negated(node.test), node.body, node.orelse)
    elif isinstance(node, ast.Constant):
        yield from (("constant", new) for new in _of_constant(node, parent))
    elif isinstance(node, ast.Call):
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                rest = [*node.keywords[:place], *node.keywords[place + 1 :]]
                yield f"{keyword.arg}= removed", ast.Call(node.func, node.args, rest)
    if isinstance(parent, ast.If) and node is parent.test:
        yield "branches swapped", _negated(node)
    elif isinstance(parent, ast.comprehension) and node in parent.ifs:
        yield "filter negated", _negated(node)


def _is_log(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.")


def _places(node: ast.AST, parent: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Nodes that may be mutated, each with its parent."""
    yield node, parent
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            skipped = isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr | ast.alias)
            documented = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            listed = isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__"
            logged = _is_log(node) and name in ("args", "keywords")
            if isinstance(child, ast.AST) and not (skipped or documented or listed or logged):
                yield from _places(child, node)


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Every mutant of a file that can be compiled, in the order of the source."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[tuple[int, int, str], Mutant] = {}
    for node, parent in _places(tree, tree):
        changes: Iterable[tuple[str, ast.AST]] = ()
        if isinstance(node, ast.stmt):
            changes = _of_statement(node)
        elif isinstance(node, ast.expr):
            changes = _of_expression(node, parent)
        for kind, new in changes:
            assert isinstance(node, ast.stmt | ast.expr)
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            written = ast.unparse(ast.fix_missing_locations(new))
            text = f"({written})" if isinstance(new, ast.expr) else written
            if isinstance(new, ast.Constant):
                text = written
            mutant = Mutant(file, node.lineno, kind, start, end, text)
            if _differs(mutant.applied(source), tree):
                found[start, end, text] = mutant
    return [found[key] for key in sorted(found)]


def _differs(source: bytes, tree: ast.Module) -> bool:
    try:
        return ast.dump(ast.parse(source)) != ast.dump(tree)
    except SyntaxError:
        return False


def sample_of(file: str, source: bytes, size: int, seed: int) -> list[Mutant]:
    """``size`` mutants of a file; a larger sample contains every smaller one."""
    mutants = mutants_of(file, source)
    random.Random(f"{seed} {file}").shuffle(mutants)
    return mutants[:size]
