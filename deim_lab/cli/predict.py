"""``deim-lab predict``: detect in pictures, videos or a webcam.

Writes JSON, CSV and the pictures with boxes.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.errors import ConfigError, DataError
from deim_lab.host.files import free_path, user_path, write_json, writing_whole

if TYPE_CHECKING:
    from deim_lab.inference.predict import Predictor
    from deim_lab.inference.video import VideoReader

COLUMNS = (
    "image_id",
    "file_name",
    "frame",
    "seconds",
    "category_id",
    "category",
    "score",
    "x",
    "y",
    "width",
    "height",
)

# Formats of picture files that are kept for the output; all others become PNG.
DRAWN_AS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Sections of the config that prediction does not read.
_ONLY_TRAINING = ("augment", "ema", "loss", "match", "optim", "schedule", "train")


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "predict",
        parents=[shared.common, shared.weights, shared.settings, shared.device],
        help="detect objects and write pictures with boxes",
        allow_abbrev=False,
        description="RUN_OR_WEIGHTS may also be an ONNX file that `deim-lab export` wrote.",
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGES",
        type=options.path_text,
        help="files, folders, globs, also of videos",
    )
    parser.add_argument(
        "--webcam",
        type=options.seed,
        metavar="N",
        help="number of a camera (0: the first); Ctrl-C ends it",
    )
    parser.add_argument(
        "--frames",
        type=options.positive,
        metavar="N",
        help="only the first N frames of each video or of the webcam",
    )
    parser.add_argument(
        "--batch",
        type=options.positive,
        metavar="N",
        help="pictures at a time (default: 8; webcam: 1)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=user_path,
        default=Path("predictions"),
        help="(default: predictions)",
    )
    parser.add_argument(
        "--threshold",
        type=options.share,
        default=0.4,
        help="lowest score to list and draw (default: 0.4)",
    )
    parser.set_defaults(run=run, refuse=parser.error)


@dataclass
class _Result:
    """Results of all sources so far.

    ``taken``: paths that a picture with boxes must not overwrite.
    """

    threshold: float
    taken: set[Path]
    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    pictures: int = 0
    frames: int = 0
    highest: float = 0.0

    def keep(self, rows: list[dict[str, Any]]) -> None:
        self.highest = max([self.highest, *(row["score"] for row in rows[:1])])
        self.rows += [row for row in rows if row["score"] >= self.threshold]


def run(args: argparse.Namespace) -> None:
    if not args.images and args.webcam is None:
        args.refuse("nothing to predict: give pictures, videos or --webcam N")
    from deim_lab.detections import flat_rows
    from deim_lab.inference.predict import Predictor, expand
    from deim_lab.inference.video import VideoReader, is_video

    # Before the weights are loaded, so that a wrong folder or video is reported at once.
    files = [item for item in expand(args.images) if isinstance(item, Path)] if args.images else []
    pictures = [item for item in files if not is_video(item)]
    _refuse_without_effect(args, moving=len(pictures) < len(files) or args.webcam is not None)
    readers = [
        VideoReader(source)
        for source in [*filter(is_video, files), *([] if args.webcam is None else [args.webcam])]
    ]
    batch = args.batch or (8 if files else 1)
    loaded = _load(args)
    predictor = Predictor(
        loaded, "cpu" if _is_onnx(args) else options.device(args), threshold=0.0, batch_size=batch
    )
    args.out.mkdir(parents=True, exist_ok=True)
    written = {
        args.out.resolve() / name for name in ("detections.json", "detections.csv", "errors.json")
    }
    result = _Result(args.threshold, written | {file.resolve() for file in files})
    try:
        _pictures(predictor, pictures, args.out, result)
        for reader in readers:
            try:
                _video(predictor, reader, args, result, first_id=len(pictures) + result.frames + 1)
            except DataError as error:  # of this source; the others continue
                result.errors[str(reader.name)] = str(error)
    finally:  # detections before an error or Ctrl-C are kept
        if result.pictures or result.frames:
            write_json(args.out / "detections.json", result.rows)
            _write_csv(args.out / "detections.csv", flat_rows(result.rows, predictor.categories))
            if result.errors:
                write_json(args.out / "errors.json", result.errors)
    if not pictures and not result.frames:
        raise DataError("; ".join(result.errors.values()) or "no frame could be read")
    for message in result.errors.values():
        options.say(message)
    if not result.pictures and not result.frames:
        raise DataError(f"none of the {len(pictures)} pictures can be read")
    if not result.rows:
        options.say(
            f"no detection has a score of {args.threshold:g} or more. The highest score is "
            f"{result.highest:.3f}. Lower --threshold to see it"
        )
    where = [f"{result.pictures} pictures"] * bool(result.pictures) + [
        f"{result.frames} frames"
    ] * bool(result.frames)
    options.out(
        f"{len(result.rows)} detections in {' and '.join(where)}"
        + (f", {len(result.errors)} could not be read" if result.errors else "")
    )
    options.out(str(args.out / "detections.json"))


def _refuse_without_effect(args: argparse.Namespace, *, moving: bool) -> None:
    """Raise ``ConfigError`` for an option that would change nothing.

    ``moving``: whether there are videos or a webcam.
    """
    if args.frames is not None and not moving:
        raise ConfigError(
            f"--frames {args.frames} has no effect on pictures. It limits the frames of a video or "
            "of --webcam. Leave --frames out, or name a video"
        )
    for key in configs.parse_assignments(args.assignments):
        if key.partition(".")[0] in _ONLY_TRAINING:
            raise ConfigError(
                f"--set {key} has no effect on predict. Only training reads it. Expected a key of "
                "data, eval or model. Leave it out, or give it to `deim-lab train`"
            )


def _is_onnx(args: argparse.Namespace) -> bool:
    return Path(args.weights).suffix.lower() == ".onnx"


def _load(args: argparse.Namespace) -> Any:
    """Load ``RUN_OR_WEIGHTS``: a PyTorch detector, or an ONNX file with its own settings."""
    if not _is_onnx(args):
        return options.load(args)
    for name, given in (
        ("--preset", args.preset),
        ("--categories", args.categories),
        ("--set", args.assignments),
    ):
        if given:
            raise ConfigError(
                f"{name} has no effect on {args.weights}: an ONNX file contains its classes, "
                f"input size and settings. Leave {name} out"
            )
    from deim_lab.inference.onnx_file import OnnxDetector

    return OnnxDetector(args.weights, options.device_name(args) or "auto")


def _pictures(predictor: Predictor, files: list[Path], folder: Path, result: _Result) -> None:
    """Detect in picture files and draw each readable one."""
    if not files:
        return
    from tqdm import tqdm

    from deim_lab.detections import ImageDetections, coco_rows
    from deim_lab.inference.predict import draw

    names = [str(item["name"]) for item in predictor.categories]
    stream = predictor.stream_with_pixels(files)
    for detected, pixels in tqdm(stream, total=len(files), unit="image", file=sys.stderr):
        if not isinstance(detected, ImageDetections):
            result.errors[detected[0]] = detected[1]
            continue
        assert detected.path is not None
        result.pictures += 1
        result.keep(coco_rows(detected))
        suffix = detected.path.suffix if detected.path.suffix.lower() in DRAWN_AS else ".png"
        target = _free(folder / f"{detected.path.stem}{suffix}", result)
        draw(pixels, detected.detections.above(result.threshold), names).save(target)


def _video(
    predictor: Predictor,
    reader: VideoReader,
    args: argparse.Namespace,
    result: _Result,
    *,
    first_id: int,
) -> None:
    """Detect in the frames of a video or webcam and write them with boxes as an MP4.

    Ctrl-C ends a webcam and keeps the detections so far.
    """
    from tqdm import tqdm

    from deim_lab.inference.video import VideoWriter, detect_frames

    path = _free(args.out / f"{Path(reader.name).stem.replace(' ', '_')}.mp4", result)
    total = min(
        (number for number in (args.frames, reader.count) if number is not None), default=None
    )
    with reader, VideoWriter(path, reader.fps) as writer:
        try:
            frames = detect_frames(
                predictor,
                reader,
                first_id=first_id,
                limit=args.frames,
                writer=writer,
                draw_from=result.threshold,
            )
            for item in tqdm(frames, total=total, unit="frame", file=sys.stderr):
                result.frames += 1
                result.keep(item.rows())
        except KeyboardInterrupt:
            if not reader.is_camera or not result.frames:
                raise
    options.out(str(path))


def _free(target: Path, result: _Result) -> Path:
    """Reserve a path with the source's name that overwrites no source and no other result."""
    path = free_path(target, taken=lambda item: item.resolve() in result.taken)
    result.taken.add(path.resolve())
    return path


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with (
        writing_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
