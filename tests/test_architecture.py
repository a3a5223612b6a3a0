"""The house rules: imports go down, no cycles, no print or sys.exit in library code, rooms of
readable size, nothing of one machine.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import house
from places import ROOT

PACKAGE = ROOT / "deim_lab"
FILES = house.files()
TESTS = sorted(
    path
    for path in (ROOT / "tests").rglob("*.py")
    if "reference" not in path.relative_to(ROOT).parts
)
ORDER = {room: place for place, room in enumerate(house.ROOMS)}
FIGURES_MAY_IMPORT = {
    "errors",
    "boxes",
    "palette",
    "structures",
    "host",
    "config",
    "schedule",
    "losses",
    "study",
    "figures",
}
MOST_LINES_OF_A_FILE = 450
LONGEST_FIRST_LINE = 88  # characters
MOST_LINES_OF_A_FUNCTION = 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    module = house.module_of(path)
    room = house.room_of(module)
    if room == "deim_lab":
        return
    assert room in ORDER, (
        f"{room} has no place: give it one in tests/support/house.py and architecture.md"
    )
    for other in house.graph()[module]:
        below = house.room_of(other)
        assert below == room or ORDER[below] < ORDER[room], (
            f"{module} imports {other}, which is above"
        )
        if room == "figures":
            assert below in FIGURES_MAY_IMPORT, (
                f"{module} imports {other}: figures draw from tables"
            )


def test_no_circles_between_files() -> None:
    assert house.circles() == []


def test_every_room_of_the_list_is_there() -> None:
    rooms = {house.room_of(house.module_of(path)) for path in FILES} - {"deim_lab"}
    assert rooms <= set(house.ROOMS)


def test_the_figures_of_the_house_can_be_printed() -> None:
    assert "circles between files    0" in house.report()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_of_readable_size(path: Path) -> None:
    module = house.module_of(path)
    assert house.lines(path) <= MOST_LINES_OF_A_FILE, f"{module}: {house.lines(path)} lines"
    for name, size in house.functions(path):
        assert size <= MOST_LINES_OF_A_FUNCTION, f"{module}.{name}: {size} lines"


def test_tests_mirror_the_package() -> None:
    """``tests/<room>/test_<file>.py`` stands for ``deim_lab/<room>/<file>.py``."""
    tests = [path for path in TESTS if path.name.startswith("test_")]
    others = [path for path in tests if not mirrored(path).is_file()]
    assert len(others) <= 0.1 * len(tests), "\n".join(map(str, others))


def mirrored(test: Path) -> Path:
    """The file of the package that a test file is named after; ``_moved.py`` for ``test_moved``."""
    place = test.relative_to(ROOT / "tests")
    name = place.name.removeprefix("test_")
    private = PACKAGE / place.with_name(f"_{name}")
    return private if private.is_file() else PACKAGE / place.with_name(name)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_test_files_are_of_readable_size(path: Path) -> None:
    assert house.lines(path) <= MOST_LINES_OF_A_FILE, f"{path}: {house.lines(path)} lines"


def test_no_conditional_expression_is_nested_or_inside_an_f_string() -> None:
    nested = [
        f"{house.module_of(path)}:{line}"
        for path in FILES
        for line, inside in house.conditionals(path)
        if inside
    ]
    assert not nested, "\n".join(nested)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_library_manners(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} does not say what is inside"
    if house.room_of(house.module_of(path)) != "cli":
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                manners = {"print", "sys.exit", "exit", "quit", "os._exit"}
                assert called not in manners, f"{path}:{node.lineno} calls {called}"
    assert path.stem not in {"utils", "misc", "helpers"}


def test_importing_the_package_and_its_help_stay_light() -> None:
    heavy = (
        "torch",
        "torchvision",
        "pandas",
        "scipy",
        "matplotlib",
        "papermill",
        "pycocotools",
        "plotly",
    )
    code = f"import sys, deim_lab, deim_lab.cli; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_have_an_encoding(path: Path) -> None:
    """Without one it is the machine's own, and a name with an accent is read otherwise
    elsewhere.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"read_text", "write_text"}
        ):
            assert any(keyword.arg == "encoding" for keyword in node.keywords), (
                f"{path.name}:{node.lineno}: {ast.unparse(node)}"
            )


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8")
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\n") if name and (ROOT / name).is_file()]


def test_the_repository_speaks_of_the_project_alone() -> None:
    pattern = re.compile(
        r"(/work/|/root/|/tmp/(?!\{)|/home/\w|pypi\.org|pythonhosted|registry\.npmjs|index-url|extra-index)"
    )
    for path in tracked():
        if path.suffix in {".png", ".npz", ".gz", ".jpg", ".svg", ".pdf"} or path == Path(__file__):
            continue
        hit = pattern.search(path.read_text(errors="replace", encoding="utf-8"))
        assert hit is None, f"{path.relative_to(ROOT)} names {hit.group() if hit else ''}"


def test_notebooks_are_stored_without_outputs_and_thin() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [
            cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])
        ]
        assert len(tagged) == 1, f"{path.name}: {len(tagged)} cells tagged parameters"
        for cell in cells:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code":
                assert not cell["outputs"], f"{path.name} is stored with outputs"
                assert cell["execution_count"] is None, (
                    f"{path.name} is stored with execution counts"
                )
                assert not re.search(r"^\s*(def|class) ", source, re.M), (
                    f"{path.name} defines a function or class: that belongs in the package"
                )
                assert len(source.splitlines()) <= 15, (
                    f"{path.name} has a cell of {len(source.splitlines())} lines"
                )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_first_lines_of_docstrings_are_whole_and_short(path: Path) -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text:
            first = text.splitlines()[0]
            assert len(first) <= LONGEST_FIRST_LINE, first
            assert first[-1] in '.?:)`"', f"{first!r} goes on in the next line"
