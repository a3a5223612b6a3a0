"""Import modules that add entries; record and recall the entries of a run.

A config names its modules in ``train.plugins``. A notebook cell needs no module: its entry is
available in that kernel.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab.config.entries import CLASSIFICATION, KINDS, OPERATIONS, VALIDATION, Entries, Source
from deim_lab.errors import ConfigError
from deim_lab.host.files import nearest_beside, user_path

if TYPE_CHECKING:
    from deim_lab.config.schema import Config

Json = Any


@dataclass(frozen=True)
class _Table:
    """A table of entries, and the function that lists the entries a config uses.

    ``identifies``: whether these entries change what a run computes, not only what is measured.
    """

    entries: Entries[Any]
    used: Callable[[Config], Iterable[str]]
    identifies: bool = True


TABLES = [
    _Table(CLASSIFICATION, lambda config: [config.loss.classification]),
    _Table(KINDS, lambda config: [config.match.name]),
    _Table(OPERATIONS, lambda config: config.augment.extra),
    _Table(VALIDATION, lambda config: list(VALIDATION), identifies=False),
]


def watch(entries: Entries[Any], used: Callable[[Config], Iterable[str]]) -> None:
    """Include the entries of a further table in the identity and record of a run.

    Args:
        entries: the table.
        used: config → the names that the config uses. Names without an entry are ignored.
    """
    TABLES.append(_Table(entries, used))


def ready(config: Config) -> None:
    """Import the plugins of a config. Raises ``ConfigError`` if code that it uses is absent.

    Call it before creating any part of a run.
    """
    load(config.train.plugins)
    for table, name in _in_use(config):
        if table.identifies:
            table.entries.callable(name)


def load(modules: Iterable[str]) -> None:
    """Import modules, so that they add their entries.

    Args:
        modules: importable names, or paths of ``.py`` files. A bare name is also looked up in the
            current folder.

    Raises:
        ConfigError: no such module or file, two files with one name, or an error in the module.
    """
    for name in modules:
        try:
            if name.endswith(".py"):
                _import_file(user_path(name))
            else:
                _import_name(name)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"train.plugins: importing {name!r} failed: {type(error).__name__}: {error}. "
                f"Correct the module or the name."
            ) from error


def absolute(modules: Iterable[str], *folders: Path) -> list[str]:
    """Module names that a process in another folder can import.

    A path becomes an absolute path. So does a bare name of a file in one of ``folders``. Any other
    name stays unchanged.
    """
    result = []
    for name in modules:
        file = str(user_path(name)) if name.endswith(".py") else f"{name}.py"
        matching_files = [folder / file for folder in folders if (folder / file).is_file()]
        if not matching_files and name.endswith(".py"):
            raise ConfigError(
                f"train.plugins: {name!r} does not exist{nearest_beside(user_path(name))}."
            )
        result.append(str(matching_files[0].resolve()) if matching_files else name)
    return result


def record(config: Config) -> list[dict[str, Json]]:
    """Describe the added entries that a config uses, for storing with a run.

    Each row has ``table, name, module, sha256`` and ``entry``, the values of the entry.
    """
    rows = []
    for table, name in _in_use(config):
        entries = table.entries
        source = entries.source(name)
        rows.append(
            {
                "table": entries.table,
                "name": name,
                "module": source.module,
                "sha256": source.sha256,
                "entry": entries[name].values(),
            }
        )
    return rows


def recall(rows: Iterable[Mapping[str, Json]]) -> None:
    """Add stored entries by name, so that the config of their run can be read.

    No plugin code runs. An entry whose code is not loaded gets no function. Training with it raises
    ``ConfigError``.
    """
    tables = {table.entries.table: table.entries for table in TABLES}
    for row in rows:
        table = tables.get(str(row["table"]))
        if table is not None:
            table.recall(row["name"], row["entry"], Source(row["module"], row["sha256"]))


def identity(config: Config) -> list[list[str]]:
    """Names and hashes of the added entries in use, for the fingerprint; empty without any."""
    return [
        [name, table.entries.source(name).sha256]
        for table, name in _in_use(config)
        if table.identifies
    ]


def _in_use(config: Config) -> Iterator[tuple[_Table, str]]:
    for table in TABLES:
        for name in table.used(config):
            if table.entries.is_added(name):
                yield table, name


def _import_name(name: str) -> None:
    """Import a module by name, also from the current folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"train.plugins: there is no module {name!r} in {here} or on Python's path"
            f"{nearest_beside(Path(f'{name}.py'))}. Check the name, or give the path of a .py file."
        )
    importlib.import_module(name)


def _import_file(path: Path) -> None:
    """Import a file as a module with the name of the file."""
    if not path.is_file():
        raise ConfigError(f"train.plugins: {str(path)!r} does not exist{nearest_beside(path)}.")
    name, file = path.stem, path.resolve()
    loaded = sys.modules.get(name)
    if loaded is not None:
        other = getattr(loaded, "__file__", None)
        if other is None or Path(other).resolve() != file:
            raise ConfigError(
                f"train.plugins: {str(path)!r} has the same name as the loaded module {name!r} "
                f"({other}). Rename the file."
            )
        return
    # Data loader processes find the module in this folder.
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"train.plugins: {str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
