"""Notebooks and ready grids: those of the repository, or the copies inside an installed package.

The repository's top-level folders are the only source. ``setup.py`` copies them into the package
when a wheel is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deim_lab.errors import ConfigError, nearest

Kind = Literal["notebooks", "grids"]

SUFFIX: dict[Kind, str] = {"notebooks": ".ipynb", "grids": ".yaml"}
_PACKAGE = Path(__file__).parents[1]


def folder(kind: Kind) -> Path:
    """The folder that holds the ready files of a kind."""
    copies = _PACKAGE / "shipped" / kind
    return copies if copies.is_dir() else _PACKAGE.parent / kind


def files(kind: Kind) -> dict[str, Path]:
    """The ready files of a kind by their names without ending."""
    return {path.stem: path for path in sorted(folder(kind).glob(f"*{SUFFIX[kind]}"))}


def locate(kind: Kind, name_or_path: str | Path) -> Path:
    """The ready file of a bare name such as ``components``; anything else is a path already.

    Raises:
        ConfigError: no ready file has this name. Names the nearest one.
    """
    path = Path(name_or_path)
    if path.suffix or str(path) != path.name:
        return path
    ready = files(kind)
    if path.name not in ready:
        listed = ", ".join(ready) or "none"
        raise ConfigError(
            f"there is no ready {kind.removesuffix('s')} {path.name!r}"
            f"{nearest(path.name, ready)}; ready: {listed}. A path needs its ending, "
            f"such as {path.name}{SUFFIX[kind]}"
        )
    return ready[path.name]


def copy_out(kind: Kind, target: Path) -> dict[Path, bool]:
    """Copy the ready files of a kind into ``target``; returns whether each copy was written.

    A file that exists is never overwritten. It counts as written where it is equal already.
    """
    target.mkdir(parents=True, exist_ok=True)
    written = {}
    for source in files(kind).values():
        copy = target / source.name
        try:
            with copy.open("xb") as handle:
                handle.write(source.read_bytes())
        except FileExistsError:
            written[copy] = copy.is_file() and copy.read_bytes() == source.read_bytes()
        else:
            written[copy] = True
    return written
