"""Mutation testing itself: what is changed in a file, the sample, the interval, the table."""

from __future__ import annotations

import re

import pytest

import mutants
from mutations import mutants_of, sample_of
from places import ROOT

SNIPPET = b'''"""Say nothing."""

def clipped(x: float, low: float = 0.5, *, strict: bool = True) -> float:
    """Text."""
    if x < low and not strict:
        raise ValueError("below", 3)
    values = sorted([x, -x], reverse=True)
    values.append(2 * x)
    return values[0] if strict else f"{x + 1}"
'''


def test_one_place_changes_and_the_rest_stays() -> None:
    changed = {
        mutant.applied(SNIPPET).decode().splitlines()[mutant.line - 1].strip()
        for mutant in mutants_of("snippet.py", SNIPPET)
    }
    assert changed == {
        "def clipped(x: float, low: float = 1.5, *, strict: bool = True) -> float:",
        "def clipped(x: float, low: float = -0.5, *, strict: bool = True) -> float:",
        "def clipped(x: float, low: float = 0.5, *, strict: bool = False) -> float:",
        "if (x <= low) and not strict:",
        "if (x >= low) and not strict:",
        "if (x < low or not strict):",
        "if x < low and (strict):",
        "if (not (x < low and (not strict))):",
        "values = (sorted([x, -x]))",
        "values = sorted([x, (x)], reverse=True)",
        "values = sorted([x, -x], reverse=False)",
        "pass",
        "values.append((2 / x))",
        "values.append(3 * x)",
        "values.append(1 * x)",
        "return None",
        "return (values[0] if not strict else f'{x + 1}')",
        'return values[1] if strict else f"{x + 1}"',
        'return values[-1] if strict else f"{x + 1}"',
    }


def test_a_larger_sample_contains_the_smaller_one() -> None:
    source = (ROOT / "deim_lab" / "boxes.py").read_bytes()
    few, more = (sample_of("boxes.py", source, size, seed=0) for size in (5, 20))
    assert more[:5] == few
    assert len(set(more)) == 20
    assert few != sample_of("boxes.py", source, 5, seed=1)


def test_the_interval_is_wilsons() -> None:
    """9 of 10, as in Brown, Cai and DasGupta (2001): 0.596 to 0.982."""
    assert mutants.wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert mutants.wilson(0, 0) == (0.0, 1.0)


def test_files_and_tests_of_the_table_exist() -> None:
    for file, tests in mutants.TESTS.items():
        assert (ROOT / "deim_lab" / file).is_file()
        for name in re.findall(r"[\w/]*test_\w+", tests):
            assert (ROOT / "tests" / f"{name}.py").is_file()
        room, slash, name = file.removesuffix(".py").rpartition("/")
        own_tests = f"{room}{slash}test_{name}"
        if (ROOT / "tests" / f"{own_tests}.py").is_file():
            assert own_tests in re.findall(r"[\w/]*test_\w+", tests), f"{file}: not {own_tests}"
