"""``~`` in a path is the home folder at every door: command line, Python and grids."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest

import deim_lab
from deim_lab import cli, runs
from deim_lab.config import plugins
from deim_lab.errors import ConfigError, DataError, WeightsError
from deim_lab.host import shipped
from deim_lab.host.files import user_path
from deim_lab.inference.predict import expand
from deim_lab.sweep import grid
from deim_lab.weights import hub, own

PACKAGE = Path(deim_lab.__file__).parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder; the working folder is another one and stays empty."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(tmp_path / "cwd")
    return folder


@pytest.mark.parametrize("text", ["~/results", "~", "~/a b/é"])
def test_the_home_folder_replaces_the_tilde(home: Path, text: str) -> None:
    assert user_path(text) == Path(str(home) + text[1:])
    assert user_path(Path(text)) == user_path(text)


@pytest.mark.parametrize("text", ["results", "a/~/b", "~nobody-of-this-name/x", "./~", "a~b"])
def test_any_other_path_stays(home: Path, text: str) -> None:
    assert user_path(text) == Path(text)


PATH_OPTIONS = [
    ("train", ["--runs=~/x", "--data=~/x", "--weights=~/x", "--backbone-weights=~/x"]),
    ("train", ["--resume=~/x", "--train-images=~/x", "--val-annotations=~/x"]),
    ("evaluate", ["~/x", "--out=~/x", "--categories=~/x", "--data=~/x", "--runs=~/x"]),
    ("evaluate", ["--weights=~/x"]),
    ("predict", ["~/x", "~/x", "--out=~/x"]),
    ("export", ["~/x", "--out=~/x", "--check-images", "~/x"]),
    ("latency", ["--weights", "~/x", "--out=~/x"]),
    ("doctor", ["--data=~/x"]),
    ("notebooks", ["~/x"]),
    ("demo", ["--runs=~/x"]),
    ("sweep", ["~/x", "--runs=~/x", "--data=~/x"]),
    ("score", ["~/x", "~/x", "--out=~/x"]),
]


@pytest.mark.parametrize(("verb", "arguments"), PATH_OPTIONS)
def test_every_path_option_of_the_command_line(home: Path, verb: str, arguments: list[str]) -> None:
    args = cli.build_parser().parse_args([verb, *arguments])
    shown = str(vars(args))
    if verb == "score":  # [NAME=]JSON is split later
        shown = shown.replace(str(args.dt) if "dt" in args else "", "")
        assert args.gt == home / "x"
        assert args.out == home / "x"
        return
    assert "~" not in shown
    assert shown.count(str(home / "x")) == len([item for item in arguments if "~" in item])


def test_every_option_that_names_a_path_takes_the_tilde() -> None:
    """A new path option must use ``user_path`` or ``path_text``; a plain ``Path`` type is none."""
    parser = cli.build_parser()
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, verb in verbs.choices.items():
        for action in verb._actions:
            assert action.type is not Path, f"{name} {action.dest}"


def test_runs_are_found_and_opened_under_the_tilde(home: Path) -> None:
    (home / "runs").mkdir()
    assert runs.all_runs("~/runs") == []
    with pytest.raises(DataError, match=str(home)):
        runs.Run.open("~/runs/absent")
    with pytest.raises(DataError, match=str(home)):
        runs.all_runs("~/absent")


def test_weights_and_pictures_under_the_tilde(home: Path) -> None:
    with pytest.raises(WeightsError, match=str(home)):
        own.load_detector("~/absent.pt")
    (home / "hub").mkdir()
    (home / "hub" / "config.json").write_text("{}", encoding="utf-8")
    (home / "hub" / "pytorch_model.bin").write_bytes(b"")
    assert hub.is_hub("~/hub")
    (home / "pictures").mkdir()
    (home / "pictures" / "a.png").write_bytes(b"")
    for source in ("~/pictures", "~/pictures/*.png", "~/pictures/a.png"):
        assert expand(source) == [home / "pictures" / "a.png"]


def test_grids_notebooks_and_plugins_under_the_tilde(home: Path) -> None:
    content = "preset: smoke\narms: {a: {}}\nseeds: [0]\ndata: ~/set\n"
    (home / "g.yaml").write_text(content, encoding="utf-8")
    assert shipped.locate("grids", "~/g.yaml") == home / "g.yaml"
    read = grid.read("~/g.yaml", parameters={"weights": "~/g.yaml"})
    assert read.data == str(home / "set")
    assert read.parameters["weights"] == str(home / "g.yaml")
    (home / "mine_here.py").write_text("", encoding="utf-8")
    assert plugins.absolute(["~/mine_here.py"], Path.cwd()) == [str(home / "mine_here.py")]
    with pytest.raises(ConfigError, match="absent"):
        plugins.absolute(["~/absent.py"], Path.cwd())


def test_a_public_function_never_makes_a_bare_path_of_its_folder_of_runs() -> None:
    """``Path(runs_dir)`` would make a folder named ``~`` next to the user."""
    for file in PACKAGE.rglob("*.py"):
        if file.parent.name == "sweep" and file.name in ("worker.py", "loop.py", "shared.py"):
            continue  # their folders come from a plan, with absolute paths
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Path" and node.args:
                argument = getattr(node.args[0], "id", "")
                assert argument not in ("runs_dir", "path_stem", "run_folder"), file
