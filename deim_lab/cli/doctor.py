"""``deim-lab doctor``: report what a data set will do to a run, before the run."""

from __future__ import annotations

import argparse
from typing import Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.config.presets import preset


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "doctor",
        parents=[shared.common, shared.data, shared.settings, shared.runs],
        help="report problems of a data set before you train on it",
        description="Check a data set before a run. The exit status is 1 if it has a fault that "
        "training would refuse.",
        allow_abbrev=False,
    )
    parser.add_argument("--preset", default="deim_dfine_n", metavar="NAME")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do not decode the pictures: damaged and similar ones stay unknown",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; the exit status is 1 if there is a fault."""
    chosen = preset(args.preset, configs.parse_assignments(args.assignments))
    from deim_lab.data import checkup, coco
    from deim_lab.host.files import json_text

    found = checkup.check(coco.resolve(options.data(args)), chosen, quick=args.quick)
    options.out(json_text(found.as_json(), indent=1) if args.json else str(found))
    return 1 if found.faults else 0
