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

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deim_lab"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room may import rooms of lower floors, and of its own floor only as listed in SAME_FLOOR.
FLOORS: dict[str, int] = {
    "errors": 0,
    "gpus": 1,
    "values": 1,
    "boxes": 1,
    "structures": 1,
    "coco80": 1,
    "config": 1,
    "images": 1,
    "presets": 2,
    "schedule": 2,
    "losses": 2,
    "matcher": 3,
    "one_to_many": 3,
    "augment": 3,
    "detector": 3,
    "criterion": 4,
    "data": 4,
    "evaluate": 5,
    "flops": 4,
    "latency": 5,
    "microscope": 5,
    "runs": 5,
    "tables": 2,
    "reported": 3,
    "compare": 6,
    "measured": 6,
    "scoring": 7,
    "zoo": 6,
    "training": 6,
    "sweep": 7,
    "demo": 8,
    "cli": 9,
    "figures": 7,
    "widgets": 8,
}
FIGURES_MAY_IMPORT = {
    "errors",
    "boxes",
    "losses",
    "schedule",
    "structures",
    "config",
    "presets",
    "figures",
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, lazily or not, but not those for type checking
    alone.
    """
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(n)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for n in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "deim_lab"
        ):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "deim_lab"
                else [node.module]
            )
            found.update(name.split(".")[1] for name in names)
        elif isinstance(node, ast.Import):
            found.update(
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("deim_lab.")
            )
    return found


SAME_FLOOR = {
    ("config", "values"),
    ("detector", "presets"),
    ("presets", "config"),
    ("schedule", "config"),
}


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.parent != PACKAGE or p.name != "__init__.py"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_imports_go_down_only(path: Path) -> None:
    here = room(path)
    assert here in FLOORS, f"{here} has no floor: give it one here and in docs/architecture.md"
    for other in imports(path) - {here}:
        assert other in FLOORS, f"{path.name} imports {other}, which has no floor"
        assert FLOORS[other] < FLOORS[here] or (here, other) in SAME_FLOOR, (
            f"{here} (floor {FLOORS[here]}) imports {other} (floor {FLOORS[other]})"
        )
        if here == "figures":
            assert other in FIGURES_MAY_IMPORT, (
                f"figures imports {other}: pictures are drawn from tables and arrays"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_library_manners(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path} does not say what is inside"
    if room(path) != "cli":
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "sys.exit", "exit", "quit", "os._exit"}, (
                    f"{path}:{node.lineno} calls {called}"
                )
    assert len(text.splitlines()) <= 450, (
        f"{path} has {len(text.splitlines())} lines: a room too large"
    )
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
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
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
        hit = pattern.search(path.read_text(errors="replace"))
        assert hit is None, f"{path.relative_to(ROOT)} names {hit.group() if hit else ''}"


def test_notebooks_are_stored_without_outputs_and_thin() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
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
