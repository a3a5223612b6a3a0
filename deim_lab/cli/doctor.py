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
        allow_abbrev=False,
    )
    parser.add_argument("--preset", default="deim_dfine_n", metavar="NAME")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    chosen = preset(args.preset, configs.parse_assignments(args.assignments))
    from deim_lab.data import coco, doctor

    train_set, val_set = coco.open_source(coco.resolve(options.data(args)))
    report = doctor.examine(
        train_set,
        num_queries=chosen.model.num_queries,
        input_size=chosen.data.input_size,
        augment=chosen.augment,
        val=val_set,
    )
    options.out(str(report))
