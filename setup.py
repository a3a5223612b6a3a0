"""Build step: a wheel carries copies of the repository's notebooks and grids.

All other settings are in pyproject.toml. ``deim_lab.host.shipped`` finds the copies.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("notebooks/*.ipynb", "grids/*.yaml")


class BuildWithCopies(build_py):
    """Build the package, then copy the files of ``SHIPPED`` into ``deim_lab/shipped``."""

    def run(self) -> None:
        super().run()
        shutil.rmtree(self._target(), ignore_errors=True)  # of an earlier build
        for source, copy in self._copies().items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The built files, with the copies."""
        return [*super().get_outputs(include_bytecode), *map(str, self._copies().values())]

    def get_source_files(self) -> list[str]:
        """The files that a source distribution needs, with the originals of the copies."""
        return [*super().get_source_files(), *map(str, self._sources())]

    def _target(self) -> Path:
        return Path(self.build_lib, "deim_lab", "shipped")

    def _sources(self) -> list[Path]:
        return sorted(path for pattern in SHIPPED for path in Path().glob(pattern))

    def _copies(self) -> dict[Path, Path]:
        """Original → copy; none for an editable install, which uses the originals."""
        if self.editable_mode:
            return {}
        return {source: self._target() / source for source in self._sources()}


setup(cmdclass={"build_py": BuildWithCopies})
