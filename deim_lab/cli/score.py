"""``deim-lab score``: score result files of any detectors against one ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab.cli import options
from deim_lab.host.files import user_path

if TYPE_CHECKING:
    from deim_lab.study.scores import Scored

PRINTED = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "F1", "threshold")


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "score",
        parents=[shared.common],
        help="score result files of any detectors, side by side",
        allow_abbrev=False,
        description="Score COCO result files (a JSON list of {image_id, category_id, bbox [x, y, "
        "w, h] px, score}) in the same way as this lab's own detectors.",
    )
    parser.add_argument(
        "gt", metavar="GT_JSON", type=user_path, help="ground truth: a COCO instances file"
    )
    parser.add_argument(
        "detections",
        metavar="[NAME=]JSON",
        nargs="+",
        help="result files; NAME is the detector's name in the table",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=user_path,
        help="write scores.{json,csv,md}, per_class.csv and the figure scores.{png,svg,pdf}",
    )
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto | pycocotools | hotcoco (default: auto)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from deim_lab.study import scores
    from deim_lab.study.tables import to_markdown

    scored = scores.score_files(args.gt, scores.names_of(args.detections), backend=args.backend)
    table = scores.table(scored)
    columns = ["model", *PRINTED, *(["AP reported"] if "AP reported" in table else [])]
    best: dict[str, Any] = dict.fromkeys(PRINTED[:-1], "max") if len(scored) > 1 else {}
    kinds = {"AP reported": "COCO val2017"} if "AP reported" in table else {}
    text = to_markdown(
        table[columns],
        decimals={**dict.fromkeys(PRINTED[:-1], 1), **dict.fromkeys(kinds, 1), "threshold": 2},
        best=best,
    )
    options.out(text.rstrip())
    options.out(
        f"{scored[0].images} images of {args.gt}; percent; F1 at IoU 0.5 and its best threshold; "
        f"scored by {scored[0].backend}"
    )
    for item in scored:
        for warning in item.warnings:
            options.out(f"note on {item.name}: {warning}")
    if args.out is not None:
        for path in _write(args.out, args.gt, scored, text):
            options.out(str(path))


def _write(folder: Path, gt: Path, scored: list[Scored], text: str) -> list[Path]:
    """Write everything about these scores to files."""
    import pandas as pd

    from deim_lab import figures
    from deim_lab.host.files import write_json
    from deim_lab.study import scores

    folder.mkdir(parents=True, exist_ok=True)
    table = scores.table(scored)
    paths = [
        write_json(
            folder / "scores.json",
            {"ground_truth": str(gt), "detectors": [item.as_json() for item in scored]},
        )
    ]
    markdown, by_class = folder / "scores.md", folder / "per_class.csv"
    notes = "".join(
        f"\nNote on {item.name}: {warning}.\n" for item in scored for warning in item.warnings
    )
    markdown.write_text(
        f"{text}\n{scored[0].images} images of {gt.name}; percent; F1 at IoU 0.5; "
        f"{scored[0].backend}.\n{notes}",
        encoding="utf-8",
    )
    pd.concat([item.per_class.assign(model=item.name) for item in scored]).to_csv(
        by_class, index=False
    )
    picture = figures.scores.comparison(
        table, {item.name: item.f1 for item in scored}, data=gt.stem
    )
    return [*paths, markdown, by_class, *figures.save(picture, folder / "scores", data=table)]
