"""Old module paths: the import hook on a made-up package, and every path of e8048b7 itself."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import deim_lab
from deim_lab import _moved

TESTS = Path(__file__).parent
PUBLIC_NAMES = json.loads(
    (TESTS / "reference" / "public_names_e8048b7.json").read_text(encoding="utf-8")
)

# What README.md, docs/*.md and notebooks/*.ipynb import or name at e8048b7.
DOCUMENTED: dict[str, tuple[str, ...]] = {
    "deim_lab": (
        "PRESETS",
        "build_detector",
        "compare",
        "export_official",
        "figures",
        "latency",
        "load_official",
        "matcher",
        "measured",
        "microscope",
        "presets",
        "reported",
        "runs",
        "schedule",
        "tables",
        "train",
        "widgets",
        "zoo",
    ),
    "deim_lab.augment": ("density",),
    "deim_lab.augment.density": ("means", "measure", "variants"),
    "deim_lab.cli": ("main",),
    "deim_lab.compare": (
        "curves",
        "densities",
        "gammas",
        "halves",
        "lacking",
        "missing",
        "overview",
        "per_run",
        "price",
        "proof",
        "reached",
        "reaching",
        "read",
        "readable",
        "summary",
        "verdicts",
    ),
    "deim_lab.config": ("fingerprint",),
    "deim_lab.criterion": ("assign",),
    "deim_lab.data": ("coco", "loader"),
    "deim_lab.data.coco": ("joint_fingerprint", "open_source", "resolve"),
    "deim_lab.data.loader": ("steps_per_epoch",),
    "deim_lab.detector.predict": ("Predictor",),
    "deim_lab.detector.weights": ("load_detector",),
    "deim_lab.evaluate": ("best_f1",),
    "deim_lab.figures": (
        "ablation",
        "claims",
        "density",
        "detections",
        "losses",
        "matching",
        "paper",
        "quality",
        "save",
        "schedule",
        "surfaces",
        "training",
    ),
    "deim_lab.figures.claims": ("claims", "gamma_table"),
    "deim_lab.figures.losses": (
        "GAMMAS",
        "RECIPE_GAMMA",
        "at_a_glance",
        "curves_grid",
        "gamma_panel",
        "minima",
        "overview",
        "paper_panels",
        "ratio",
    ),
    "deim_lab.figures.quality": (
        "f1_over_thresholds",
        "f1_table",
        "matches_under_curves",
        "share_of_gradient",
        "share_of_low",
        "share_over_all_scores",
    ),
    "deim_lab.figures.surfaces": ("contours", "turning"),
    "deim_lab.latency": ("machine",),
    "deim_lab.losses": ("mal",),
    "deim_lab.matcher": ("union",),
    "deim_lab.measured": ("evaluations", "finished_runs"),
    "deim_lab.microscope": (
        "claims",
        "compose",
        "duplicates",
        "fixed_batch",
        "inspect",
        "look_back",
        "low_quality",
        "pairs_over",
        "positives",
        "positives_over",
        "stability_over",
        "summary",
    ),
    "deim_lab.presets": ("PLAIN_RECIPE", "preset"),
    "deim_lab.reported": ("frame",),
    "deim_lab.runs": ("Run", "all_runs", "find", "table"),
    "deim_lab.schedule": ("Phase", "build"),
    "deim_lab.sweep": ("loop",),
    "deim_lab.sweep.loop": ("run",),
    "deim_lab.sweep.on_slurm": ("SlurmExecutor",),
    "deim_lab.tables": ("to_latex", "to_markdown"),
    "deim_lab.widgets": ("dense_density", "follow", "live", "mal_vs_vfl", "matching_steps"),
    "deim_lab.zoo": ("table", "times"),
}

# Import every path in one new interpreter, a package before what is in it, the top last.
IMPORT_EACH = """
import importlib, json, sys, warnings
def lacks(path, name):
    try:
        exec(f"from {path} import {name}", {})
    except ImportError:
        return True
wanted, answer = json.load(sys.stdin), {}
for path in sorted(wanted, key=lambda path: path.count(".") or 99):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        importlib.import_module(path)
    moved = [str(item.message) for item in caught if " is now deim_lab" in str(item.message)]
    answer[path] = {"warnings": moved}
for path in wanted:
    answer[path]["missing"] = [name for name in wanted[path] if lacks(path, name)]
json.dump(answer, sys.stdout)
"""

# Old path → new paths, of the package that the fixture below writes.
TABLE = {
    "lab.score": ("lab.new.scores",),
    "lab.box": ("lab.new.first", "lab.new.second"),
    "lab.arms": ("lab.new.arms",),
    "lab.arms.reading": ("lab.new.arms.reading",),
    "lab.arms.activity": ("lab.new.arms.activity",),
    "lab.kept": ("lab.new.scores",),
}
FILES = {
    "lab/__init__.py": "",
    "lab/kept.py": "here = 'the old file'",
    "lab/new/__init__.py": "",
    "lab/new/scores.py": "import json\ndef metrics(): return 0.5\nclass Scores: pass\n_own = 3",
    "lab/new/first.py": "both = 'first'\nleft = 1",
    "lab/new/second.py": "__all__ = ['both', 'right']\nboth = 'second'\nright = 2",
    "lab/new/arms/__init__.py": "from lab.new.arms.activity import activity",
    "lab/new/arms/activity.py": "def activity(): return 'active'",
    "lab/new/arms/reading.py": "def read(): return 'read'",
}

Import = Callable[[str], tuple[dict[str, Any], list[warnings.WarningMessage]]]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """``user(code)`` runs code as a user's file would; gives its names and the warnings."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    _moved.install(TABLE)

    def run(code: str) -> tuple[dict[str, Any], list[warnings.WarningMessage]]:
        names: dict[str, Any] = {"__name__": "of_the_user"}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exec(compile(textwrap.dedent(code), "user.py", "exec"), names)
        return names, caught

    yield run
    for name in [item for item in sys.modules if item.partition(".")[0] == "lab"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ("import lab.score\nx = lab.score.metrics()", 0.5, "lab.score is now lab.new.scores."),
        ("from lab import score\nx = score.metrics()", 0.5, "lab.score is now lab.new.scores."),
        ("from lab.score import metrics\nx = metrics()", 0.5, "lab.score is now lab.new.scores."),
        ("from lab.score import *\nx = metrics()", 0.5, "lab.score is now lab.new.scores."),
        (
            "score = __import__('importlib').import_module('lab.score')\nx = score.metrics()",
            0.5,
            "lab.score is now lab.new.scores.",
        ),
        (
            "import lab.arms.reading as r\nx = r.read()",
            "read",
            "lab.arms.reading is now lab.new.arms.reading.",
        ),
        (
            "from lab.arms.reading import read\nx = read()",
            "read",
            "lab.arms.reading is now lab.new.arms.reading.",
        ),
        (
            "from lab.arms import activity\nx = activity()",
            "active",
            "lab.arms is now lab.new.arms.",
        ),
        (
            "from lab.box import both, right\nx = both, right",
            ("first", 2),
            "lab.box is now lab.new.first and lab.new.second.",
        ),
    ],
)
def test_an_old_path_works_and_warns_at_the_line_of_the_import(
    user: Import, code: str, value: object, message: str
) -> None:
    names, caught = user(f"import lab\n{code}")
    assert names["x"] == value
    first, *others = caught
    assert str(first.message).startswith(message)
    assert "0.3.0" in str(first.message)
    assert first.category is DeprecationWarning
    assert (first.filename, first.lineno) == ("user.py", 2)
    assert others == [], "one warning an import statement"


def test_a_child_that_the_new_package_does_not_import_is_found(user: Import) -> None:
    names, caught = user("from lab.arms import reading\nx = reading.read()")
    assert names["x"] == "read"
    assert [item.lineno for item in caught] == [1, 1]
    assert "lab.new.arms.reading" in str(caught[1].message)


def test_a_second_import_does_not_warn(user: Import) -> None:
    _, caught = user("import lab.score\nimport lab.score\nfrom lab.score import metrics")
    assert [item.lineno for item in caught] == [1]


def test_the_default_filters_show_the_warning_in_a_script(user: Import) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
        exec(compile("import lab.score", "user.py", "exec"), {"__name__": "__main__"})
        exec(compile("import lab.box", "library.py", "exec"), {"__name__": "some.library"})
    assert [item.filename for item in caught] == ["user.py"]


def test_a_child_does_not_hide_a_function_of_its_name(user: Import) -> None:
    names, _ = user("""
        import lab.arms.activity
        import lab.arms
        import lab.new.arms
        x = lab.arms.activity()
        """)
    assert names["x"] == "active"
    assert names["lab"].arms.activity is names["lab"].new.arms.activity


def test_names_are_those_of_the_new_modules(user: Import) -> None:
    names, _ = user("import lab.box, lab.score, lab.arms, lab.new.scores")
    lab = names["lab"]
    assert dir(lab.box) == ["both", "left", "right"]
    assert {"activity", "reading"} <= set(dir(lab.arms))
    assert lab.score.Scores is lab.new.scores.Scores
    assert lab.score._own == 3
    assert "lab.new.scores" in lab.score.__doc__
    assert not hasattr(lab.score, "__file__")


def test_a_name_that_is_nowhere_is_named_with_the_nearest(user: Import) -> None:
    with pytest.raises(AttributeError) as caught:
        user("import lab.score\nlab.score.metrix")
    for part in ("lab.score", "lab.new.scores", "'metrix'", "did you mean 'metrics'"):
        assert part in str(caught.value)
    with pytest.raises(ImportError, match="mertics"):
        user("from lab.score import mertics")
    with pytest.raises(ModuleNotFoundError, match=r"lab\.scores"):
        user("import lab.scores")


def test_a_pickle_that_names_an_old_path_is_read(user: Import) -> None:
    names, caught = user("""
        import pickle
        x = pickle.loads(b"clab.score\\nScores\\n.")
        """)
    assert names["x"].__module__ == "lab.new.scores"
    assert [(item.filename, item.lineno) for item in caught] == [("user.py", 3)]
    assert b"lab.new.scores" in pickle.dumps(names["x"])


def test_a_real_module_wins(user: Import) -> None:
    names, caught = user("from lab.kept import here")
    assert names["here"] == "the old file"
    assert caught == []


def test_installing_twice_adds_one_finder(user: Import) -> None:
    before = list(sys.meta_path)
    _moved.install(TABLE)
    _moved.install()
    assert sys.meta_path == before


def test_the_package_gives_old_rooms_as_attributes(
    user: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_moved.MOVED, "deim_lab.former", ("deim_lab.errors",))
    try:
        names, caught = user("import deim_lab\nx = deim_lab.former.nearest")
        assert names["x"] is importlib.import_module("deim_lab.errors").nearest
        assert [(item.filename, item.lineno) for item in caught] == [("user.py", 2)]
        del sys.modules["deim_lab.former"], deim_lab.former
        _, caught = user("import deim_lab\nfrom deim_lab import former")
        assert [(item.filename, item.lineno) for item in caught] == [("user.py", 2)]
    finally:
        sys.modules.pop("deim_lab.former", None)
        vars(deim_lab).pop("former", None)


def file_of(module: str) -> Path | None:
    """The file of a module of this package, if it exists."""
    base = TESTS.parent.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@pytest.mark.parametrize("old", _moved.MOVED)
def test_each_entry_has_its_old_file_or_all_of_its_new_ones(old: str) -> None:
    missing = [path for path in _moved.MOVED[old] if file_of(path) is None]
    assert file_of(old) is not None or missing == []


@pytest.fixture(scope="module")
def imported() -> dict[str, dict[str, list[str]]]:
    wanted = {
        path: [*DOCUMENTED.get(path, ()), *PUBLIC_NAMES.get(path, ())]
        for path in {*DOCUMENTED, *PUBLIC_NAMES}
    }
    answer = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH],
        input=json.dumps(wanted),
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    result: dict[str, dict[str, list[str]]] = json.loads(answer.stdout)
    return result


@pytest.mark.parametrize("path", sorted({*DOCUMENTED, *PUBLIC_NAMES}))
def test_each_old_path_still_gives_its_names(
    imported: dict[str, dict[str, list[str]]], path: str
) -> None:
    assert imported[path]["missing"] == []
    if path in _moved.MOVED and file_of(path) is None:
        (message,) = imported[path]["warnings"]
        assert message.startswith(f"{path} is now {' and '.join(_moved.MOVED[path])}.")
    else:
        assert imported[path]["warnings"] == []
