"""The command line: one verb a job, the same Config. Results on stdout, progress and messages on stderr.

A typed error becomes one line on stderr and exit code 2. Heavy imports wait for the verb that needs them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deim_lab
from deim_lab import config as configs
from deim_lab.errors import ConfigError, DataError, NonFiniteError, RunFailedError, TargetsError, WeightsError
from deim_lab.presets import PRESETS, preset

if TYPE_CHECKING:
    from deim_lab.data.coco import CocoDataset
    from deim_lab.detector.weights import LoadedDetector
    from deim_lab.evaluate import Evaluation

Json = Any

TYPED = (ConfigError, DataError, NonFiniteError, RunFailedError, TargetsError, WeightsError)
_EXPLICIT = ("train_images", "train_annotations", "val_images", "val_annotations")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, 2 for a typed error, 130 when interrupted."""
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("deim_lab").setLevel(logging.INFO)  # its own news, not those of every library
    try:
        args.run(args)
    except KeyboardInterrupt:
        _say("interrupted" + ("; the same command continues it" if args.verb in ("train", "demo") else ""))
        return 130
    except Exception as error:
        message = _message(error)
        if message is None or args.debug:
            raise
        _say(f"deim-lab {args.verb}: error: {message}")
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(prog="deim-lab", description="Train, score and use detectors of the D-FINE/DEIM family.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"deim-lab {deim_lab.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    common, settings, device, runs, data, weights = _shared_options()

    train = verbs.add_parser("train", parents=[common, data, settings, device, runs], help="train a detector and leave a run folder",
                             allow_abbrev=False)
    train.add_argument("--preset", default="deim_dfine_n", metavar="NAME", help="recipe, see `deim-lab presets` (default: deim_dfine_n)")
    train.add_argument("--seed", type=_seed, default=0)
    train.add_argument("--resume", default="auto", metavar="auto|never|RUN",
                       help="auto: continue the same experiment if it was cut, return it if done; never: start anew; RUN: this run folder")
    train.add_argument("--weights", metavar="FILE", help="start from these weights: official, of this lab, or a run folder")
    train.set_defaults(run=_train)

    evaluate = verbs.add_parser("evaluate", parents=[common, weights, data, settings, device, runs], help="COCO's 12 numbers on the val half",
                                allow_abbrev=False)
    evaluate.add_argument("--limit", type=_positive, metavar="N", help="the first N images only")
    evaluate.add_argument("--out", metavar="JSON", type=Path, help="result file (default: in the run's eval folder, else in <runs>/evaluations)")
    evaluate.add_argument("--detections", metavar="JSON", type=Path, help="also write the detections, as COCO result rows")
    evaluate.set_defaults(run=_evaluate)

    predict = verbs.add_parser("predict", parents=[common, weights, settings, device], help="detections.json and pictures with boxes",
                               allow_abbrev=False)
    predict.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, globs")
    predict.add_argument("--out", metavar="DIR", type=Path, default=Path("predictions"), help="(default: predictions)")
    predict.add_argument("--threshold", type=_share, default=0.4, help="lowest score that is listed and drawn (default: 0.4)")
    predict.set_defaults(run=_predict)

    doctor = verbs.add_parser("doctor", parents=[common, data, settings, runs], help="what a data set will do to a run, before the run",
                              allow_abbrev=False)
    doctor.add_argument("--preset", default="deim_dfine_n", metavar="NAME")
    doctor.set_defaults(run=_doctor)

    presets = verbs.add_parser("presets", parents=[common], help="list the recipes, or show one", allow_abbrev=False)
    presets.add_argument("name", nargs="?", help="show the whole config of this one as JSON")
    presets.set_defaults(run=_presets)

    demo = verbs.add_parser("demo", parents=[common, settings, runs], help="train plain D-FINE and DEIM on the embedded set, compare, draw",
                            allow_abbrev=False)
    demo.add_argument("--preset", default="cpu_demo", metavar="NAME")
    demo.add_argument("--seed", type=_seed, default=0)
    demo.add_argument("--no-notebook", action="store_true", help="don't execute notebook 01")
    demo.set_defaults(run=_demo)
    return parser


def _shared_options() -> tuple[argparse.ArgumentParser, ...]:
    """Options that several verbs have: common to all, settings, device, runs, data, weights."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    settings = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    settings.add_argument("--set", dest="assignments", metavar="KEY=VALUE", action="append", default=[],
                          help="override a config key, e.g. train.epochs=30; may be repeated")
    device = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    device.add_argument("--device", help="auto | cpu | cuda | cuda:N (default: auto)")
    runs = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    runs.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    data = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    data.add_argument("--data", metavar="FOLDER", help="data set in COCO layout: images/{train,val}, annotations/instances_{train,val}.json, or "
                                                       "COCO 2017's own; 'embedded': the one that the lab draws itself")
    for name in _EXPLICIT:
        kind = ("folder of images" if name.endswith("images") else "COCO json") + f" of the {name.partition('_')[0]} half, instead of --data"
        data.add_argument(f"--{name.replace('_', '-')}", metavar="DIR" if name.endswith("images") else "JSON", help=kind)
    weights = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    weights.add_argument("weights", metavar="RUN_OR_WEIGHTS", help="a run folder, a weights file of this lab, or (with --preset) an official .pth")
    weights.add_argument("--preset", metavar="NAME", help="what an official checkpoint is of, e.g. deim_dfine_n")
    weights.add_argument("--categories", metavar="JSON", type=Path, help="COCO json that names an official checkpoint's classes (default: COCO's 80)")
    return common, settings, device, runs, data, weights


def _train(args: argparse.Namespace) -> None:
    chosen = preset(args.preset, configs.parse_assignments(args.assignments))
    data, device = _data(args), _device_name(args)
    from deim_lab.training.loop import train

    progress = _Progress()
    try:
        run = train(chosen, data, seed=args.seed, runs_dir=args.runs, device=device, resume=args.resume, weights=args.weights,
                    on_event=progress)
    finally:
        progress.close()
    if os.environ.get("RANK", "0") == "0":
        scores = run.metrics(["val"])
        if len(scores):
            best, last = scores.iloc[int(scores["AP"].argmax())], scores.iloc[-1]
            _out(f"AP {last['AP']:.4f}  AP50 {last['AP50']:.4f}  (best AP {best['AP']:.4f} after epoch {best['epoch'] + 1})")
        _out(str(run.folder))


def _evaluate(args: argparse.Namespace) -> None:
    loaded = _load(args)
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
        _out(f"{name:<6} {'undefined' if value < 0 else f'{value:.4f}'}")
    _out(f"F1     {result.f1.f1:.4f} at score {result.f1.threshold:.3f}")
    _out(f"{result.images} images of {dataset.annotations_path}, scored by {result.backend} in {result.seconds:.1f} s")
    _out(str(path))


def _summary(args: argparse.Namespace, result: Evaluation, dataset: CocoDataset) -> dict[str, Json]:
    return {"metrics": result.metrics, "best_f1": result.f1.f1, "best_f1_threshold": result.f1.threshold,
            "per_class": result.scores.per_class().to_dict("records"), "backend": result.backend, "images": result.images,
            "seconds": result.seconds, "inference_seconds": result.inference_seconds, "weights": str(args.weights),
            "data": {"name": dataset.name, "annotations": str(dataset.annotations_path), "fingerprint": dataset.fingerprint},
            "overrides": configs.parse_assignments(args.assignments)}


def _predict(args: argparse.Namespace) -> None:
    from deim_lab.detector.predict import expand

    files = [item for item in expand(args.images) if isinstance(item, Path)]  # before the weights: a wrong folder is said at once
    loaded = _load(args)
    from tqdm import tqdm

    from deim_lab import images
    from deim_lab.detector.predict import ImageDetections, Predictor, coco_rows, draw
    from deim_lab.runs import write_json

    args.out.mkdir(parents=True, exist_ok=True)
    names = [str(item["name"]) for item in loaded.categories]
    rows: list[dict[str, Json]] = []
    errors: dict[str, str] = {}
    highest, pictures, taken = 0.0, 0, {args.out.resolve() / name for name in ("detections.json", "errors.json")}
    sources = {file.resolve() for file in files}
    found: ImageDetections | tuple[str, str]
    for found in tqdm(Predictor(loaded, _device(args), threshold=0.0).stream(files), total=len(files), unit="image", file=sys.stderr):
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
        _say(message)
    if not pictures:
        raise DataError(f"none of the {len(files)} pictures can be read")
    write_json(args.out / "detections.json", rows)
    if errors:
        write_json(args.out / "errors.json", errors)
    if not rows:
        _say(f"nothing scores {args.threshold:g} or more; the highest score is {highest:.3f}: lower --threshold to see it")
    _out(f"{len(rows)} detections in {pictures} pictures" + (f", {len(errors)} could not be read" if errors else ""))
    _out(str(args.out / "detections.json"))


def _doctor(args: argparse.Namespace) -> None:
    chosen = preset(args.preset, configs.parse_assignments(args.assignments))
    from deim_lab.data import coco, doctor

    train_set, val_set = coco.open_source(coco.resolve(_data(args), cache_dir=args.runs / "data"))
    report = doctor.examine(train_set, num_queries=chosen.model.num_queries, input_size=chosen.data.input_size, augment=chosen.augment,
                            val=val_set)
    _out(str(report))


def _presets(args: argparse.Namespace) -> None:
    if args.name is not None:
        _out(json.dumps(configs.to_dict(preset(args.name)), indent=1))
        return
    _out(f"{'name':<15} {'input':>9} {'epochs':>6} {'batch':>5} {'loss':>5} {'mosaic':>6} {'mixup':>6} {'queries':>7}  backbone")
    for name, item in PRESETS.items():
        height, width = item.data.input_size
        _out(f"{name:<15} {f'{height}×{width}':>9} {item.train.epochs:>6} {item.data.batch_size:>5} {item.loss.classification:>5} "
             f"{item.augment.mosaic_prob:>6g} {item.augment.mixup_prob:>6g} {item.model.num_queries:>7}  {item.model.backbone}")


def _demo(args: argparse.Namespace) -> None:
    overrides = configs.parse_assignments(args.assignments)
    preset(args.preset, overrides)  # a wrong key is said before anything starts
    from deim_lab import demo

    options: dict[str, Any] = {"notebook": None} if args.no_notebook else {}
    demo.main(args.runs, preset_name=args.preset, overrides=overrides, seed=args.seed, **options)
    _out((args.runs / "demo" / "report.md").read_text())


def _load(args: argparse.Namespace) -> LoadedDetector:
    """Model, config (with ``--set``) and categories of what ``RUN_OR_WEIGHTS`` names, on the device."""
    overrides = configs.parse_assignments(args.assignments)
    official = preset(args.preset, overrides) if args.preset is not None else None
    if args.categories is not None and official is None:
        raise ConfigError("--categories names the classes of an official checkpoint: it needs --preset")
    from dataclasses import replace

    from deim_lab.detector import weights

    if official is None:
        try:
            loaded = weights.load_detector(args.weights)
        except WeightsError as error:
            hint = ". (An official checkpoint needs --preset NAME)" if Path(args.weights).is_file() else ""
            raise WeightsError(f"{error}{hint}") from error
        loaded = replace(loaded, config=configs.override(loaded.config, overrides))
    else:
        from deim_lab.data import annotations
        from deim_lab.data.coco80 import COCO80

        categories = [{"id": category_id, "name": name} for category_id, name in COCO80]
        if args.categories is not None:
            categories = annotations.read(args.categories).categories.as_list()
        model = deim_lab.build_detector(official, num_classes=len(categories))
        report = weights.load_official(model, args.weights)
        if report.reinitialised or report.missing:
            raise WeightsError(f"{args.weights} does not fill {args.preset} with {len(categories)} classes: {report}. "
                               "--categories takes the COCO json of the classes that it was trained on")
        loaded = weights.LoadedDetector(model.eval(), official, categories)
    loaded.model.to(_device(args))
    return loaded


def _val_half(args: argparse.Namespace, loaded: LoadedDetector) -> CocoDataset:
    """The val half of the data set, read with the detector's own categories."""
    from deim_lab.data import coco

    categories = coco.Categories.from_list(loaded.categories, source=f"the classes of {args.weights}")
    if args.data is None and args.val_images is not None and args.val_annotations is not None:
        return coco.CocoDataset.load(args.val_images, args.val_annotations, categories=categories)
    if args.data is None and Path(args.weights).is_dir() and not any(getattr(args, name) for name in _EXPLICIT):
        from deim_lab.runs import Run

        name = Run.open(args.weights).info["data"]["name"]
        if name != coco.EMBEDDED:
            raise DataError(f"{args.weights} was trained on {name!r}: --data says where that is (or what else to score it on)")
    source = coco.resolve(_data(args), cache_dir=args.runs / "data")
    return coco.CocoDataset.load(*source.val, categories=categories, name=source.name)


def _data(args: argparse.Namespace) -> str | dict[str, Json] | None:
    """``--data``, or the four explicit paths, as ``data.coco.resolve`` takes them; None: the embedded set."""
    given = {name: getattr(args, name) for name in _EXPLICIT if getattr(args, name) is not None}
    if not given:
        return args.data
    if args.data is not None:
        raise ConfigError("--data and explicit paths (--train-images, …) exclude each other")
    missing = [f"--{name.replace('_', '-')}" for name in _EXPLICIT if name not in given]
    if missing:
        raise ConfigError(f"explicit data paths need all four options; missing: {', '.join(missing)}")
    return {half: {"images": given[f"{half}_images"], "annotations": given[f"{half}_annotations"]} for half in ("train", "val")}


def _device_name(args: argparse.Namespace) -> str | None:
    """``--device`` after a look at its name; None: the config's."""
    if args.device is not None:
        configs.check_device(args.device)
    name: str | None = args.device
    return name


def _device(args: argparse.Namespace) -> Any:
    """The torch device of ``--device``."""
    from deim_lab.training.compute import resolve

    return resolve(_device_name(args) or "auto", "fp32").device


def _picture_path(folder: Path, source: Path, taken: set[Path]) -> Path:
    """Where the picture with boxes goes: under the source's name, never onto a source or another result."""
    suffix = source.suffix if source.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else ".png"
    number, target = 1, folder / f"{source.stem}{suffix}"
    while target.resolve() in taken:
        number += 1
        target = folder / f"{source.stem}-{number}{suffix}"
    return target


class _Progress:
    """Events of a training run as a bar on stderr."""

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
            self._shown |= {"epoch": f"{event['epoch'] + 1}/{event['epochs']}", "loss": f"{event['loss']:.3f}"}
        elif event["kind"] == "val":
            self._shown |= {"AP": f"{event['AP']:.3f}", "AP50": f"{event['AP50']:.3f}"}
        self._bar.set_postfix(self._shown, refresh=event["kind"] == "val")

    def close(self) -> None:
        self._bar.close()
        self._redirect.__exit__(None, None, None)


def _message(error: Exception) -> str | None:
    """One line for an error that the user can do something about; None for one that is ours."""
    if isinstance(error, TYPED):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of GPU memory: halve data.batch_size and double train.accumulate ({' '.join(str(error).split())[:160]})"
    return None


def _seed(text: str) -> int:
    return _number(text, int, 0, None)


def _positive(text: str) -> int:
    return _number(text, int, 1, None)


def _share(text: str) -> float:
    return _number(text, float, 0, 1)


def _number(text: str, kind: Any, low: float, high: float | None) -> Any:
    try:
        value = kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no {'whole number' if kind is int else 'number'}") from error
    if not (low <= value and (high is None or value <= high)):
        raise argparse.ArgumentTypeError(f"{text} is outside [{low}, {'…' if high is None else high}]")
    return value


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
