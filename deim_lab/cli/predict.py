"""``deim-lab predict``: detections of pictures as JSON, and the pictures with boxes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from deim_lab.cli import options
from deim_lab.errors import DataError


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser("predict", parents=[shared.common, shared.weights, shared.settings, shared.device],
                              help="detections.json and pictures with boxes", allow_abbrev=False)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, globs")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("predictions"), help="(default: predictions)")
    parser.add_argument("--threshold", type=options.share, default=0.4, help="lowest score that is listed and drawn (default: 0.4)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from deim_lab.detector.predict import expand

    files = [item for item in expand(args.images) if isinstance(item, Path)]  # before the weights: a wrong folder is said at once
    loaded = options.load(args)
    from tqdm import tqdm

    from deim_lab import images
    from deim_lab.detector.predict import ImageDetections, Predictor, coco_rows, draw
    from deim_lab.runs import write_json

    args.out.mkdir(parents=True, exist_ok=True)
    names = [str(item["name"]) for item in loaded.categories]
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    highest, pictures, taken = 0.0, 0, {args.out.resolve() / name for name in ("detections.json", "errors.json")}
    sources = {file.resolve() for file in files}
    found: ImageDetections | tuple[str, str]
    for found in tqdm(Predictor(loaded, options.device(args), threshold=0.0).stream(files), total=len(files), unit="image", file=sys.stderr):
        if not isinstance(found, ImageDetections):
            errors[found[0]] = found[1]
            continue
        assert found.path is not None
        pictures += 1
        highest = max([highest, *found.detections.scores[:1].tolist()])
        rows += [row for row in coco_rows(found) if row["score"] >= args.threshold]
        target = _picture_path(args.out, found.path, taken | sources)
        taken.add(target.resolve())
        draw(images.decode(found.path), found.detections.above(args.threshold), names).save(target)
    for message in errors.values():
        options.say(message)
    if not pictures:
        raise DataError(f"none of the {len(files)} pictures can be read")
    write_json(args.out / "detections.json", rows)
    if errors:
        write_json(args.out / "errors.json", errors)
    if not rows:
        options.say(f"nothing scores {args.threshold:g} or more; the highest score is {highest:.3f}: lower --threshold to see it")
    options.out(f"{len(rows)} detections in {pictures} pictures" + (f", {len(errors)} could not be read" if errors else ""))
    options.out(str(args.out / "detections.json"))


def _picture_path(folder: Path, source: Path, taken: set[Path]) -> Path:
    """Where the picture with boxes goes: under the source's name, never onto a source or another result."""
    suffix = source.suffix if source.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else ".png"
    number, target = 1, folder / f"{source.stem}{suffix}"
    while target.resolve() in taken:
        number += 1
        target = folder / f"{source.stem}-{number}{suffix}"
    return target
