"""Locate notebooks and ready grids, in the repository or an installed package.

The top-level folders of the repository are the only source. ``setup.py`` copies them into the
package when it builds a wheel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deim_lab.errors import ConfigError, nearest
from deim_lab.host.files import user_path

Kind = Literal["notebooks", "grids"]

SUFFIX: dict[Kind, str] = {"notebooks": ".ipynb", "grids": ".yaml"}
_PACKAGE = Path(__file__).parents[1]


def folder(kind: Kind) -> Path:
    """The folder that holds the ready files of a kind."""
    copies = _PACKAGE / "shipped" / kind
    return copies if copies.is_dir() else _PACKAGE.parent / kind


def files(kind: Kind) -> dict[str, Path]:
    """The ready files of a kind, by name without suffix."""
    return {path.stem: path for path in sorted(folder(kind).glob(f"*{SUFFIX[kind]}"))}


def locate(kind: Kind, name_or_path: str | Path) -> Path:
    """The path of a ready file from its bare name, such as ``components``.

    Any other value is already a path and is returned unchanged.

    Raises:
        ConfigError: no ready file has this name (with the nearest name), or the path does not exist
            but a ready file has its name.
    """
    path, ready, one = user_path(name_or_path), files(kind), kind.removesuffix("s")
    if path.suffix or str(path) != path.name:
        if path.suffix == SUFFIX[kind] and path.stem in ready and not path.exists():
            raise ConfigError(
                f"{one} file {str(path)!r} does not exist. For the ready {one}, give the name "
                f"alone: {path.stem}."
            )
        return path
    if path.name not in ready:
        listed = ", ".join(ready) or "none"
        raise ConfigError(
            f"there is no ready {one} {path.name!r}{nearest(path.name, ready)}. The ready {kind} "
            f"are {listed}. A path needs its suffix, such as {path.name}{SUFFIX[kind]}."
        )
    return ready[path.name]


def copy_out(kind: Kind, target: Path) -> dict[Path, bool]:
    """Copy the ready files of a kind into ``target``; return whether each was written.

    An existing file is never overwritten. It counts as written if it is already equal.
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
