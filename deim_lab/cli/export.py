"""``deim-lab export``: write a detector as an ONNX file that is checked against PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from deim_lab.cli import options
from deim_lab.host.files import user_path


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "export",
        parents=[shared.common, shared.weights, shared.settings],
        help="write an ONNX file, checked against PyTorch",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        metavar="ONNX",
        type=user_path,
        default=Path("model.onnx"),
        help="(default: model.onnx)",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="output logits and boxes in [0, 1] instead of labels, boxes in pixels and scores",
    )
    parser.add_argument(
        "--size",
        type=options.positive,
        nargs=2,
        metavar=("H", "W"),
        help="input size in pixels (default: the config's)",
    )
    parser.add_argument("--opset", type=options.positive, default=17, help="17 to 20 (default: 17)")
    parser.add_argument("--half", action="store_true", help="use float16 for backbone and encoder")
    parser.add_argument(
        "--check-images",
        nargs="+",
        metavar="IMAGES",
        type=options.path_text,
        default=[],
        help="pictures to compare on (default: patterns, in which a trained detector may detect "
        "little)",
    )
    parser.set_defaults(run=run, device="cpu")


def run(args: argparse.Namespace) -> None:
    from deim_lab.inference.export import export_onnx
    from deim_lab.inference.predict import expand

    pictures = (
        [item for item in expand(args.check_images) if isinstance(item, Path)]
        if args.check_images
        else []
    )
    loaded = options.load(args)
    size = None if args.size is None else (args.size[0], args.size[1])
    result = export_onnx(
        loaded,
        args.out,
        raw=args.raw,
        size=size,
        opset=args.opset,
        half=args.half,
        pictures=pictures,
    )
    height, width = size or loaded.config.data.input_size
    options.out(
        f"{args.out.stat().st_size / 2**20:.1f} MiB, opset {args.opset}, images [batch, 3, "
        f"{height}, {width}]"
    )
    options.out(str(result))
    options.out(str(args.out))
