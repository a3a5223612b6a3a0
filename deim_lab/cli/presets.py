"""``deim-lab presets``: list the recipes as a table, or show one with all its keys."""

from __future__ import annotations

import argparse
import json
from typing import Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.config.presets import PRESETS, preset


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "presets", parents=[shared.common], help="list the recipes, or show one", allow_abbrev=False
    )
    parser.add_argument("name", nargs="?", help="show all keys of this recipe's config as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.name is not None:
        options.out(json.dumps(configs.to_dict(preset(args.name)), indent=1))
        return
    longest = max(map(len, PRESETS))
    options.out(
        f"{'name':<{longest}} {'input':>9} {'epochs':>6} {'batch':>5} {'loss':>5} {'mosaic':>6} "
        f"{'mixup':>6} {'queries':>7}  backbone"
    )
    for name, item in PRESETS.items():
        height, width = item.data.input_size
        options.out(
            f"{name:<{longest}} {f'{height}×{width}':>9} {item.train.epochs:>6} "
            f"{item.data.batch_size:>5} {item.loss.classification:>5} "
            f"{item.augment.mosaic_prob:>6g} {item.augment.mixup_prob:>6g} "
            f"{item.model.num_queries:>7}  {item.model.backbone}"
        )
