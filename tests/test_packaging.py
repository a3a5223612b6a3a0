"""The wheel: it carries the notebooks and grids, and works from a folder without a checkout."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from deim_lab import cli, sweep
from deim_lab.errors import ConfigError
from deim_lab.host import shipped
from places import ROOT

SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
FOLDERS = ("deim_lab", "notebooks", "grids")
OLDEST_SETUPTOOLS = 77  # as pyproject.toml requires
BUILD = """
from setuptools import build_meta
build_meta.build_sdist("dist")
build_meta.build_wheel("dist")
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built from a copy of the repository."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if int(version.split(".")[0]) < OLDEST_SETUPTOOLS:
        pytest.skip(f"the build backend, setuptools >= {OLDEST_SETUPTOOLS}, is not installed")
    copy = tmp_path_factory.mktemp("packaging") / "repository"
    copy.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, copy / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    stale = copy / "build" / "lib" / "deim_lab" / "shipped" / "grids" / "renamed.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier build", encoding="utf-8")
    (copy / "dist").mkdir()
    subprocess.run([sys.executable, "-c", BUILD], cwd=copy, check=True, capture_output=True)
    return copy / "dist"


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel: what an installation puts into site-packages."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def originals(kind: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (ROOT / kind).iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", ["notebooks", "grids"])
def test_the_wheel_carries_the_files_byte_by_byte(installed: Path, kind: str) -> None:
    copies = installed / "deim_lab" / "shipped" / kind
    assert {path.name: path.read_bytes() for path in copies.iterdir()} == originals(kind)


def test_the_wheel_carries_the_package(installed: Path) -> None:
    patterns = ("*.py", "py.typed", "*.mplstyle", "*.csv")
    for path in (path for pattern in patterns for path in (ROOT / "deim_lab").rglob(pattern)):
        copy = installed / path.relative_to(ROOT)
        assert copy.read_bytes() == path.read_bytes()


def test_the_source_distribution_can_build_the_same_wheel(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {f"{kind}/{name}" for kind in ("notebooks", "grids") for name in originals(kind)}
    assert files | {"setup.py", "pyproject.toml"} <= names


def test_an_installed_package_works_in_an_empty_folder(installed: Path, elsewhere: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def command(*words: str) -> str:
        return subprocess.run(
            [sys.executable, *words],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout

    where = command("-c", "import deim_lab; print(deim_lab.__file__)").strip()
    assert Path(where).is_relative_to(installed)
    told = command("-m", "deim_lab.cli", "sweep", "components", "--preset", "smoke", "--dry-run")
    assert "12 new" in told
    assert f"notebook {installed / 'deim_lab' / 'shipped' / 'notebooks' / '03_train.ipynb'}" in told
    command("-m", "deim_lab.cli", "notebooks", "mine")
    assert {path.name: path.read_bytes() for path in Path("mine").iterdir()} == originals(
        "notebooks"
    )


@pytest.mark.parametrize("kind", ["notebooks", "grids"])
def test_a_checkout_uses_its_own_folders(kind: shipped.Kind) -> None:
    assert shipped.folder(kind) == ROOT / kind
    assert not (ROOT / "deim_lab" / "shipped").exists()


@pytest.mark.usefixtures("elsewhere")
def test_a_ready_grid_is_found_by_name_from_any_folder() -> None:
    named, by_path = sweep.read("gamma"), sweep.read(ROOT / "grids" / "gamma.yaml")
    assert (named.name, named.arms) == (by_path.name, by_path.arms)
    assert named.notebook == str(ROOT / "notebooks" / "03_train.ipynb")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "componets",
            r"no ready grid 'componets' \(did you mean 'components'\?\)\. The ready grids are",
        ),
        ("grids/gamma.yaml", r"'grids/gamma\.yaml' does not exist.* give the name alone: gamma"),
        ("gamme.yaml", r"'gamme\.yaml' does not exist$"),
        ("sub/gamma", "neither YAML nor JSON"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_a_wrong_name_proposes_the_right_one(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep.read(source)


def test_a_grid_names_a_ready_notebook() -> None:
    values = {"preset": "smoke", "arms": {"a": {}}, "notebook": "04_matching"}
    assert sweep.read(values).notebook == str(ROOT / "notebooks" / "04_matching.ipynb")
    with pytest.raises(ConfigError, match=r"no ready notebook '04_matchin'.*'04_matching'"):
        sweep.read(values | {"notebook": "04_matchin"})


def test_copying_notebooks_out_never_overwrites(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["notebooks", "mine"]) == 0
    assert capsys.readouterr().out.split() == [
        f"mine/{name}" for name in sorted(originals("notebooks"))
    ]
    edited = elsewhere / "mine" / "03_train.ipynb"
    edited.write_text("my own work", encoding="utf-8")
    (elsewhere / "mine" / "04_matching.ipynb").unlink()
    assert cli.main(["notebooks", "mine"]) == 1
    told = capsys.readouterr()
    assert "mine/03_train.ipynb exists with other content and was left unchanged" in told.err
    assert len(told.err.splitlines()) == 1
    assert edited.read_text(encoding="utf-8") == "my own work"
    assert (elsewhere / "mine" / "04_matching.ipynb").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_changes_the_folder_in_the_repository_alone(
    path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "".join("".join(cell["source"]) for cell in cells).splitlines()
    (line,) = [line for line in lines if "chdir" in line]
    names = {"os": os, "Path": Path}
    own = elsewhere / "notebooks"
    own.mkdir()
    for folder, expected in ((own, own), (ROOT / "notebooks", ROOT), (ROOT, ROOT)):
        monkeypatch.chdir(folder)
        exec(line, names)
        assert Path.cwd() == expected
