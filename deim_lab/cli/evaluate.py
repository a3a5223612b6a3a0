"""``deim-lab evaluate``: COCO's 12 numbers of a detector on the val half of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.errors import DataError

if TYPE_CHECKING:
    from deim_lab.data.coco import CocoDataset
    from deim_lab.detector.weights import LoadedDetector
    from deim_lab.evaluate import Evaluation


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser("evaluate", parents=[shared.common, shared.weights, shared.data, shared.settings, shared.device, shared.runs],
                              help="COCO's 12 numbers on the val half", allow_abbrev=False)
    parser.add_argument("--limit", type=options.positive, metavar="N", help="the first N images only")
    parser.add_argument("--out", metavar="JSON", type=Path, help="result file (default: in the run's eval folder, else in <runs>/evaluations)")
    parser.add_argument("--detections", metavar="JSON", type=Path, help="also write the detections, as COCO result rows")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    loaded = options.load(args)
    from deim_lab.evaluate import evaluate
    from deim_lab.runs import Run, write_json

    dataset = _val_half(args, loaded)
    result = evaluate(loaded.model, dataset, loaded.config, limit=args.limit)
    summary = _summary(args, result, dataset)
    if args.detections is not None:
        args.detections.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.detections, result.detections)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        path = write_json(args.out, summary)
    elif Path(args.weights).is_dir():
        path = Run.open(args.weights).save_evaluation(dataset.name, summary)
    else:
        from deim_lab.runs import free_path

        folder = args.runs / "evaluations"
        folder.mkdir(parents=True, exist_ok=True)
        path = write_json(free_path(folder / f"{Path(args.weights).stem}_on_{dataset.name}.json"), summary)
    for name, value in result.metrics.items():
        options.out(f"{name:<6} {'undefined' if value < 0 else f'{value:.4f}'}")
    options.out(f"F1     {result.f1.f1:.4f} at score {result.f1.threshold:.3f}")
    options.out(f"{result.images} images of {dataset.annotations_path}, scored by {result.backend} in {result.seconds:.1f} s")
    options.out(str(path))


def _summary(args: argparse.Namespace, result: Evaluation, dataset: CocoDataset) -> dict[str, Any]:
    return {"metrics": result.metrics, "best_f1": result.f1.f1, "best_f1_threshold": result.f1.threshold,
            "per_class": result.scores.per_class().to_dict("records"), "backend": result.backend, "images": result.images,
            "seconds": result.seconds, "inference_seconds": result.inference_seconds, "weights": str(args.weights),
            "data": {"name": dataset.name, "annotations": str(dataset.annotations_path), "fingerprint": dataset.fingerprint},
            "overrides": configs.parse_assignments(args.assignments)}


def _val_half(args: argparse.Namespace, loaded: LoadedDetector) -> CocoDataset:
    """The val half of the data set, read with the detector's own categories."""
    from deim_lab.data import coco

    categories = coco.Categories.from_list(loaded.categories, source=f"the classes of {args.weights}")
    if args.data is None and args.val_images is not None and args.val_annotations is not None:
        return coco.CocoDataset.load(args.val_images, args.val_annotations, categories=categories)
    if args.data is None and Path(args.weights).is_dir() and not any(getattr(args, name) for name in options.EXPLICIT):
        from deim_lab.runs import Run

        name = Run.open(args.weights).info["data"]["name"]
        if name != coco.EMBEDDED:
            raise DataError(f"{args.weights} was trained on {name!r}: --data says where that is (or what else to score it on)")
    source = coco.resolve(options.data(args), cache_dir=args.runs / "data")
    return coco.CocoDataset.load(*source.val, categories=categories, name=source.name)
