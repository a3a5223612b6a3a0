"""Options that several verbs share, and what they name: data set, device and detector."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deim_lab
from deim_lab import config as configs
from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError, WeightsError
from deim_lab.host.files import user_path

if TYPE_CHECKING:
    from deim_lab.weights.own import LoadedDetector

Json = Any

WEIGHTS = (
    "a run folder, a weights file of this lab, or (with --preset) an official .pth or a folder "
    "of transformers"
)
EXPLICIT = ("train_images", "train_annotations", "val_images", "val_annotations")


@dataclass(frozen=True)
class Shared:
    """Groups of options that a verb takes as parents: ``common`` is for every verb."""

    common: argparse.ArgumentParser
    settings: argparse.ArgumentParser
    device: argparse.ArgumentParser
    runs: argparse.ArgumentParser
    data: argparse.ArgumentParser
    weights: argparse.ArgumentParser
    checkpoint: (
        argparse.ArgumentParser
    )  # options of ``weights`` without the argument RUN_OR_WEIGHTS


def shared_options() -> Shared:
    """Make new groups of options."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    settings = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    settings.add_argument(
        "--set",
        dest="assignments",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a config key, e.g. train.epochs=30; may be repeated",
    )
    device = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    device.add_argument("--device", help="auto | cpu | cuda | cuda:N (default: auto)")
    runs = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    runs.add_argument(
        "--runs",
        metavar="DIR",
        type=user_path,
        default=Path("runs"),
        help="folder of runs (default: runs)",
    )
    data = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    data.add_argument(
        "--data",
        metavar="FOLDER",
        type=path_text,
        help="data set in COCO layout: images/{train,val}, annotations/instances_{train,val}.json, "
        "or COCO 2017's own; 'embedded': the small set that is shipped with the lab",
    )
    for name in EXPLICIT:
        kind = (
            "folder of images" if name.endswith("images") else "COCO json"
        ) + f" of the {name.partition('_')[0]} half, instead of --data"
        data.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="DIR" if name.endswith("images") else "JSON",
            type=path_text,
            help=kind,
        )
    checkpoint = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    checkpoint.add_argument(
        "--preset", metavar="NAME", help="preset of an official checkpoint, e.g. deim_dfine_n"
    )
    checkpoint.add_argument(
        "--categories",
        metavar="JSON",
        type=user_path,
        help="COCO json with the classes of an official checkpoint, head rows in the order of the "
        "ids unless the file has the names itself (default: COCO's 80)",
    )
    weights = argparse.ArgumentParser(add_help=False, allow_abbrev=False, parents=[checkpoint])
    weights.add_argument("weights", metavar="RUN_OR_WEIGHTS", type=path_text, help=WEIGHTS)
    return Shared(common, settings, device, runs, data, weights, checkpoint)


def data(args: argparse.Namespace) -> str | dict[str, Json] | None:
    """``--data`` or four explicit paths, for ``data.coco.resolve``; None: the embedded set."""
    given = {name: getattr(args, name) for name in EXPLICIT if getattr(args, name) is not None}
    if not given:
        return args.data
    if args.data is not None:
        raise ConfigError("--data and explicit paths (--train-images, …) exclude each other")
    missing = [f"--{name.replace('_', '-')}" for name in EXPLICIT if name not in given]
    if missing:
        raise ConfigError(
            f"explicit data paths need all four options; missing: {', '.join(missing)}"
        )
    return {
        half: {"images": given[f"{half}_images"], "annotations": given[f"{half}_annotations"]}
        for half in ("train", "val")
    }


def device_name(args: argparse.Namespace) -> str | None:
    """Check the name of ``--device`` and return it; None: the config's device."""
    if args.device is not None:
        configs.check_device(args.device)
    name: str | None = args.device
    return name


def device(args: argparse.Namespace) -> Any:
    """The torch device of ``--device``."""
    from deim_lab.training.compute import resolve

    return resolve(device_name(args) or "auto", "fp32").device


def load(args: argparse.Namespace) -> LoadedDetector:
    """Load the model of ``RUN_OR_WEIGHTS`` onto the device.

    Returns the model, its config (with ``--set``) and its categories.
    """
    overrides = configs.parse_assignments(args.assignments)
    official = preset(args.preset, overrides) if args.preset is not None else None
    if args.categories is not None and official is None:
        raise ConfigError(
            "--categories names the classes of an official checkpoint and needs --preset"
        )
    from dataclasses import replace

    from deim_lab.weights import own
    from deim_lab.weights.hub import is_hub

    if official is not None and user_path(args.weights).is_dir() and not is_hub(args.weights):
        raise ConfigError(
            f"--preset {args.preset} has no effect: {args.weights} is a run folder with its own "
            f"preset. Leave --preset out"
        )
    if official is None:
        try:
            loaded = own.load_detector(args.weights)
        except WeightsError as error:
            hint = (
                ". (An official checkpoint needs --preset NAME)"
                if user_path(args.weights).is_file()
                else ""
            )
            raise WeightsError(f"{error}{hint}") from error
        loaded = replace(loaded, config=override_trained(loaded.config, overrides, args.weights))
    else:
        from deim_lab.data import parse
        from deim_lab.weights.coco80 import COCO80

        categories = [{"id": category_id, "name": name} for category_id, name in COCO80]
        if args.categories is not None:
            categories = parse.read(args.categories).categories.as_list()
        model = deim_lab.build_detector(official, num_classes=len(categories))
        report = own.load_official(
            model,
            args.weights,
            categories=categories,
            unnamed_categories=None if args.categories is None else categories,
        )
        if report.reinitialised or report.missing:
            raise WeightsError(
                f"{args.weights} does not fill {args.preset} with {len(categories)} classes: "
                f"{report}. "
                "Give the COCO json of the classes that it was trained on with --categories"
            )
        loaded = own.LoadedDetector(model.eval(), official, categories)
    loaded.model.to(device(args))
    return loaded


def override_trained(
    config: configs.Config, overrides: dict[str, Json], where: object
) -> configs.Config:
    """Apply ``--set`` to the config of a trained detector.

    Keys that would build another model are refused, because they would have no effect.
    """
    changed = configs.override(config, overrides)
    if changed.model != config.model:
        keys = [key for key in configs.diff(config, changed) if key.startswith("model.")]
        raise ConfigError(
            f"--set {', '.join(keys)}: the model of {where} is fixed by its training. Leave the "
            "model keys out"
        )
    return changed


def path_text(text: str) -> str:
    """The text of an option that may be a path, with ``~`` as the home folder."""
    return str(user_path(text)) if text.startswith("~") else text


def seed(text: str) -> int:
    return _number(text, int, 0, None)


def positive(text: str) -> int:
    return _number(text, int, 1, None)


def share(text: str) -> float:
    return _number(text, float, 0, 1)


def _number(text: str, kind: type[int] | type[float], low: float, high: float | None) -> Any:
    try:
        value = kind(text)
    except ValueError as error:
        name = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"{text!r} is not a {name}") from error
    if not (low <= value and (high is None or value <= high)):
        end = "…" if high is None else high
        raise argparse.ArgumentTypeError(f"{text} is outside [{low}, {end}]")
    return value


def out(text: str) -> None:
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
