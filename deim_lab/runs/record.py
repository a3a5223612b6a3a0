"""What a run records about its machine: time, library versions, commit of this source."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

Json = Any


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def stamp() -> str:
    return now().isoformat(timespec="milliseconds")


def versions() -> dict[str, str | None]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    names = {
        "torch": "torch",
        "torchvision": "torchvision",
        "numpy": "numpy",
        "deim_lab": "deim-lab",
    }
    return {
        "python": platform.python_version(),
        **{key: version(name) for key, name in names.items()},
    }


def git_commit() -> dict[str, Json] | None:
    """Commit of this source, and whether tracked files differ from it.

    None if this source is no checkout, or if another repository ignores it.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, timeout=20
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
