"""A golden file for every preset: its resolved config and fingerprint, one knob a line.

``python tests/support/golden.py --write`` writes the files anew. The difference in git is then the
change of each recipe.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path

from deim_lab import config as configs
from deim_lab.config import PRESETS
from places import REFERENCE

FOLDER = REFERENCE / "presets"
WRITE = "python tests/support/golden.py --write"


def text(name: str) -> str:
    """The golden file of a preset as today's code makes it."""
    config = PRESETS[name]
    values = {"fingerprint": configs.fingerprint(config), "preset": config.preset}
    values |= dict(sorted(configs.flatten(config).items()))
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def path(name: str) -> Path:
    """Where the golden file of a preset lies."""
    return FOLDER / f"{name}.json"


def difference(name: str) -> str:
    """How a preset differs from its golden file, as a unified diff; empty where it does not."""
    stored = path(name).read_text(encoding="utf-8") if path(name).is_file() else ""
    lines = difflib.unified_diff(
        stored.splitlines(), text(name).splitlines(), path(name).name, name, n=0, lineterm=""
    )
    return "\n".join(lines)


def write() -> None:
    """Write the golden file of every preset, and remove those of presets that are gone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for stale in set(FOLDER.glob("*.json")) - {path(name) for name in PRESETS}:
        stale.unlink()
    for name in PRESETS:
        path(name).write_text(text(name), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the golden files anew")
    if parser.parse_args().write:
        write()
    changes = [found for name in PRESETS if (found := difference(name))]
    sys.stdout.writelines(f"{change}\n" for change in changes)
    sys.exit(bool(changes))
