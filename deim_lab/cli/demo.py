"""``deim-lab demo``: plain D-FINE against DEIM on the embedded set."""

from __future__ import annotations

import argparse
from typing import Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.presets import preset


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "demo",
        parents=[shared.common, shared.settings, shared.runs],
        help="train plain D-FINE and DEIM on the embedded set, compare, draw",
        allow_abbrev=False,
    )
    parser.add_argument("--preset", default="cpu_demo", metavar="NAME")
    parser.add_argument("--seed", type=options.seed, default=0)
    parser.add_argument("--no-notebook", action="store_true", help="don't execute notebook 01")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    overrides = configs.parse_assignments(args.assignments)
    preset(args.preset, overrides)  # a wrong key is said before anything starts
    from deim_lab import demo

    chosen: dict[str, Any] = {"notebook": None} if args.no_notebook else {}
    demo.main(args.runs, preset_name=args.preset, overrides=overrides, seed=args.seed, **chosen)
    options.out((args.runs / "demo" / "report.md").read_text())
