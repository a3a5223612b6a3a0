"""``deim-lab notebooks``: copy the ready notebooks into a folder of yours."""

from __future__ import annotations

import argparse
from typing import Any

from deim_lab.cli import options
from deim_lab.host import shipped
from deim_lab.host.files import user_path


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "notebooks",
        parents=[shared.common],
        help="copy the notebooks into a folder; existing files stay unchanged",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", metavar="DIR", type=user_path, help="target folder, created if it does not exist"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb; the exit code is 1 if an existing file differs from its notebook."""
    copies = shipped.copy_out("notebooks", args.folder)
    for path, written in copies.items():
        if written:
            options.out(str(path))
        else:
            options.say(
                f"{path} exists with other content and was left unchanged. "
                "Rename it, or give another folder, to get the ready notebook"
            )
    return 0 if all(copies.values()) else 1
