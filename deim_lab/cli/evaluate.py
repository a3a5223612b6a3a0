"""``deim-lab evaluate``: COCO's 12 numbers of a detector on the val half of a data set.

On COCO val2017 the published AP is printed next to the measured one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.errors import ConfigError, DataError
from deim_lab.host.files import user_path

if TYPE_CHECKING:
    from deim_lab.config import Config
    from deim_lab.data.coco import CocoDataset
    from deim_lab.evaluation import Evaluation
    from deim_lab.weights.own import LoadedDetector


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "evaluate",
        parents=[
            shared.common,
            shared.checkpoint,
            shared.data,
            shared.settings,
            shared.device,
            shared.runs,
        ],
        help="compute COCO's 12 numbers on the val half",
        allow_abbrev=False,
    )
    parser.add_argument(
        "weights",
        metavar="RUN_OR_WEIGHTS",
        type=options.path_text,
        nargs="?",
        help=options.WEIGHTS,
    )
    parser.add_argument(
        "--weights",
        dest="named",
        metavar="RUN_OR_WEIGHTS",
        type=options.path_text,
        help="RUN_OR_WEIGHTS as an option",
    )
    parser.add_argument(
        "--split",
        choices=("val", "test"),
        default="val",
        help="half of the data set to score (default: val)",
    )
    parser.add_argument(
        "--limit", type=options.positive, metavar="N", help="use only the first N images"
    )
    parser.add_argument(
        "--out",
        metavar="JSON",
        type=user_path,
        help="result file (default: in the run's eval folder, else in <runs>/evaluations)",
    )
    parser.add_argument(
        "--detections",
        metavar="JSON",
        type=user_path,
        help="also write the detections, as COCO result rows",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if (args.weights is None) == (args.named is None):
        raise ConfigError("evaluate takes one RUN_OR_WEIGHTS, as an argument or as --weights")
    args.weights = args.weights or args.named
    loaded = options.load(args)
    from deim_lab.evaluation import evaluate
    from deim_lab.host.files import write_json
    from deim_lab.runs import Run

    dataset = _val_half(args, loaded)
    result = evaluate(loaded.model, dataset, loaded.config, limit=args.limit)
    summary = _summary(args, result, dataset, loaded)
    if args.detections is not None:
        args.detections.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.detections, result.detections)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        path = write_json(args.out, summary)
    elif _is_run(args):
        path = Run.open(args.weights).save_evaluation(dataset.name, summary)
    else:
        from deim_lab.host.files import free_path

        folder = args.runs / "evaluations"
        folder.mkdir(parents=True, exist_ok=True)
        path = write_json(
            free_path(folder / f"{Path(args.weights).stem}_on_{dataset.name}.json"), summary
        )
    for name, value in result.metrics.items():
        shown = "undefined" if value < 0 else f"{value:.4f}"
        options.out(f"{name:<6} {shown}")
    options.out(f"F1     {result.f1.f1:.4f} at score {result.f1.threshold:.3f}")
    options.out(
        f"{result.images} images of {dataset.annotations_path}, scored by {result.backend} in "
        f"{result.seconds:.1f} s"
    )
    for line in beside_reported(loaded.config, result):
        options.out(line)
    options.out(str(path))


def beside_reported(config: Config, result: Evaluation) -> list[str]:
    """Lines that compare measured with reported AP, and the two protocols.

    Empty unless the detector was scored on all of COCO val2017 and its preset has a reported AP.
    """
    from deim_lab.config.presets import PRESETS
    from deim_lab.study.paper import reported
    from deim_lab.study.paper.measured import is_coco_val2017

    published = reported.of_preset(config.preset)
    if (
        published is None
        or published.ap_percent is None
        or not is_coco_val2017(result.images, result.scores.per_class().to_dict("records"))
    ):
        return []
    ap_percent = 100 * result.metrics["AP"]
    lines = [
        f"AP on COCO val2017: {ap_percent:.1f} measured, {published.ap_percent:.1f} reported for "
        f"{published.model} ({published.source}): "
        f"{ap_percent - published.ap_percent:+.1f}",
        f"measured by: {_protocol(config, result)}",
        f"reported by: {reported.PROTOCOL}",
    ]
    differs = configs.diff(PRESETS[config.preset], config)
    changed = ", ".join(
        f"{key}={differs[key]}" for key in differs if key not in configs.NOT_IDENTITY
    )
    return [*lines, f"not the preset's own configuration: {changed}"] if changed else lines


def _protocol(config: Config, result: Evaluation) -> str:
    height, width = config.data.input_size
    return (
        f"{result.images} images squashed to {height} × {width}, the {config.eval.top_k} best of "
        f"queries × classes per image, "
        f"EMA weights where the file has them, {result.backend}"
    )


def _summary(
    args: argparse.Namespace, result: Evaluation, dataset: CocoDataset, loaded: LoadedDetector
) -> dict[str, Any]:
    return {
        "metrics": result.metrics,
        "best_f1": result.f1.f1,
        "best_f1_threshold": result.f1.threshold,
        "per_class": result.scores.per_class().to_dict("records"),
        "backend": result.backend,
        "images": result.images,
        "seconds": result.seconds,
        "inference_seconds": result.inference_seconds,
        "weights": str(args.weights),
        "preset": loaded.config.preset,
        "protocol": _protocol(loaded.config, result),
        "device": str(next(loaded.model.parameters()).device),
        "data": {
            "name": dataset.name,
            "annotations": str(dataset.annotations_path),
            "fingerprint": dataset.fingerprint,
        },
        "overrides": configs.parse_assignments(args.assignments),
    }


def _is_run(args: argparse.Namespace) -> bool:
    """Whether the weights are a run's folder; a folder of transformers is not."""
    return user_path(args.weights).is_dir() and args.preset is None


def _val_half(args: argparse.Namespace, loaded: LoadedDetector) -> CocoDataset:
    """Read the val half of the data set with the detector's own categories."""
    from deim_lab.data import coco

    categories = coco.Categories.from_list(
        loaded.categories, source=f"the classes of {args.weights}"
    )
    if args.data is None and args.val_images is not None and args.val_annotations is not None:
        return coco.CocoDataset.load(args.val_images, args.val_annotations, categories=categories)
    if (
        args.data is None
        and _is_run(args)
        and not any(getattr(args, name) for name in options.EXPLICIT)
    ):
        from deim_lab.runs import Run

        name = Run.open(args.weights).info["data"]["name"]
        if name != coco.EMBEDDED:
            raise DataError(
                f"{args.weights} was trained on {name!r}. Give its place with --data, or name "
                f"another data set"
            )
    source = coco.resolve(options.data(args))
    half = source.test if args.split == "test" else source.val
    if half is None and args.split == "val" and loaded.config.data.val_share is not None:
        return coco.open_source(source, loaded.config.data)[1]
    if half is None:
        raise DataError(f"data set {source.name!r} has no half {args.split!r}: {source}")
    return coco.CocoDataset.load(
        *half, categories=categories, name=source.name, settings=loaded.config.data
    )
