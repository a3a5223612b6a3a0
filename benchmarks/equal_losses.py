"""Train two checkouts of this repository side by side: are their losses equal to the last bit?

    python benchmarks/equal_losses.py PATH_BEFORE [PATH_AFTER] [--presets smoke …] [--steps 20]

PATH_AFTER is this checkout by default. Without PATH_BEFORE, this checkout runs against itself on
the preset `smoke`. That shows whether training is deterministic. The exit status is 1 if anything
differs.

The script draws a small data set in COCO layout. Both checkouts train on it on the CPU, with one
thread each, at the same time. The short run goes through warm-up, Dense O2O, plain augmentation and
the clean tail, with Mosaic, MixUp, denoising, gradient clipping, EMA, accumulation and evaluation.
Compared are the numbers in the log of every step, epoch and evaluation (the losses, each loss term,
learning rate, gradient norm, AP) and all tensors of model and EMA in the last checkpoint.
A key that only one log has is reported, but is no difference. The same holds for the keys that a
fix changed on purpose (CHANGED_ON_PURPOSE).

Only the command line, `metrics.jsonl` and `last.pt` are used, never the package itself. So the two
checkouts can have different files inside.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

CHECKOUT = Path(__file__).resolve().parents[1]
PRESETS = ("smoke", "deim_dfine_n", "deim_rtdetrv2_r18", "deimv2_hgnetv2_atto")
EPOCHS = 5  # warm-up, Dense O2O, Dense O2O, plain, clean
BATCH, ACCUMULATE = 2, 2
SETTINGS = {
    "data.batch_size": BATCH,
    "data.input_size": 96,
    "data.workers": 0,
    "model.num_queries": 40,  # 96 px has few anchors
    "train.accumulate": ACCUMULATE,
    "train.epochs": EPOCHS,
    "train.checkpoint_every": EPOCHS,
    "train.eval_every": 2,
    "train.log_every": 1,
    "train.threads": 1,
    "schedule.unscaled": "true",
    "schedule.warmup_epochs": 1,
    "schedule.dense_share": 0.5,
    "schedule.clean_epochs": 1,
    "schedule.lr_clean_epochs": 1,
    "schedule.lr_warmup_steps": 3,
    "schedule.lr_final_ratio": 0.5,
    "schedule.late_match_share": 0.4,
    "augment.mosaic_prob": 0.5,
    "augment.mixup_prob": 0.5,
    "augment.min_box_px": 1,
    "optim.clip_norm": 0.1,
    "ema.warmup_updates": 10,
}
COMPARED_KINDS = ("step", "train", "val")
# Logged numbers that a fix changed on purpose: printed when they differ, but no difference.
CHANGED_ON_PURPOSE = {"matched_iou": "the mean IoU itself in place of a mean of bin centres"}
UNREPEATABLE = ("time", "seconds", "peak_memory_mib")  # clock and memory differ from run to run
REQUIRED = {"step": ("loss", "lr", "grad_norm", "losses/total"), "val": ("AP",)}

# The COCO category ids have gaps on purpose: labels must be mapped to contiguous ones.
CATEGORIES = {3: ("brick", (200, 60, 40)), 7: ("leaf", (50, 160, 70)), 90: ("tile", (60, 90, 190))}
VAL_PICTURES = 4

Event = dict[str, Any]
EventKey = tuple[str, int, int]  # kind, epoch, step


class TrainingFailedError(Exception):
    """A training ended with an error, or left no complete log."""


@dataclass(frozen=True)
class Training:
    """The result of one training: log events, flattened, and a sha256 of each tensor."""

    events: dict[EventKey, Event]
    tensors: dict[str, str]


@dataclass
class Comparison:
    """Two trainings of one preset. ``difference`` describes the first one; None: all is equal."""

    preset: str
    losses: list[float] = field(default_factory=list)  # of the checkout before, each step
    difference: str | None = None
    unshared_keys: list[str] = field(default_factory=list)
    changed_on_purpose: list[str] = field(default_factory=list)
    seconds: float = 0.0


def write_data_set(folder: Path, train_pictures: int) -> None:
    """Write pictures of random rectangles as a COCO data set. The same call, the same bytes."""
    draw = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("train", train_pictures), ("val", VAL_PICTURES)):
        (folder / "images" / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id in range(1, count + 1):
            picture, boxes = draw_picture(draw, 0 if image_id == 3 else int(draw.integers(1, 7)))
            name = f"{image_id:04d}.png"
            picture.save(folder / "images" / split / name)
            width, height = picture.size
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for category_id, box in boxes:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": key, "name": name} for key, (name, _) in CATEGORIES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def draw_picture(
    draw: np.random.Generator, rectangles: int
) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
    """Draw rectangles on a noisy ground; also returns category id and xywh box of each."""
    width, height = int(draw.integers(180, 221)), int(draw.integers(130, 171))
    ground = draw.integers(90, 166, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(ground)
    canvas = ImageDraw.Draw(picture)
    boxes = []
    for _ in range(rectangles):
        category_id = int(draw.choice(list(CATEGORIES)))
        box_width, box_height = int(draw.integers(12, 80)), int(draw.integers(12, 80))
        left = int(draw.integers(0, width - box_width))
        top = int(draw.integers(0, height - box_height))
        corners = (left, top, left + box_width - 1, top + box_height - 1)
        canvas.rectangle(corners, fill=CATEGORIES[category_id][1])
        boxes.append((category_id, [left, top, box_width, box_height]))
    return picture, boxes


def environment(checkout: Path) -> dict[str, str]:
    """The environment of a process that runs the package of this checkout with one thread."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": str(checkout)}


def check_checkout(path: Path) -> Path:
    """The absolute path, if Python takes the package from there; else an ``argparse`` error."""
    checkout = path.resolve()
    if not (checkout / "deim_lab").is_dir():
        raise argparse.ArgumentTypeError(f"{path} has no folder deim_lab. Give a checkout's root")
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-c", "import deim_lab; print(deim_lab.__file__)"]
        answer = subprocess.run(
            command, cwd=empty, env=environment(checkout), capture_output=True, text=True
        )
    loaded = answer.stdout.strip()
    if not loaded or not Path(loaded).resolve().is_relative_to(checkout):
        raise argparse.ArgumentTypeError(
            f"Python does not load deim_lab from {path} but from {loaded or 'nowhere'}"
        )
    return checkout


def train(checkout: Path, preset: str, data: Path, folder: Path) -> Training:
    """Train a preset with the package of a checkout, in an empty working folder."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "deim_lab.cli", "train", "--preset", preset, "--seed", "0"]
    command += ["--data", str(data), "--device", "cpu", "--runs", "runs", "--resume", "never"]
    for key, value in SETTINGS.items():
        command += ["--set", f"{key}={value}"]
    ended = subprocess.run(
        command, cwd=folder, env=environment(checkout), capture_output=True, text=True
    )
    if ended.returncode != 0:
        last_lines = "\n".join(ended.stderr.strip().splitlines()[-3:])
        raise TrainingFailedError(f"training with {checkout} failed: {last_lines}")
    logs = list((folder / "runs").glob("*/metrics.jsonl"))
    if len(logs) != 1:
        raise TrainingFailedError(f"training with {checkout} left {len(logs)} logs, expected 1")
    return Training(read_events(logs[0]), read_tensors(logs[0].parent / "checkpoints" / "last.pt"))


def read_events(log: Path) -> dict[EventKey, Event]:
    """The events of steps, epochs and evaluations, without times and memory."""
    events: dict[EventKey, Event] = {}
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["kind"] in COMPARED_KINDS:
            key = (event["kind"], event["epoch"], event["step"])
            values = dict(flatten(event))
            events[key] = {name: value for name, value in values.items() if repeatable(name)}
    return events


def repeatable(name: str) -> bool:
    """Whether a second run logs the same value: not so for times and memory."""
    return name.partition("/")[0] not in UNREPEATABLE


def read_tensors(checkpoint: Path) -> dict[str, str]:
    """A sha256 of type, shape and bytes of each tensor of model and EMA, sorted by name."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    hashes = {}
    for name, value in sorted(flatten({part: content[part] for part in ("model", "ema")})):
        if isinstance(value, torch.Tensor):
            digest = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.contiguous().numpy().tobytes())
            hashes[name] = digest.hexdigest()
    return hashes


def flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of ``outer/inner`` name and value of nested dicts and lists."""
    if isinstance(values, list):
        values = {str(index): item for index, item in enumerate(values)}
    if not isinstance(values, Mapping):
        yield prefix, values
        return
    for name, value in values.items():
        yield from flatten(value, f"{prefix}/{name}" if prefix else str(name))


def equal(before: Any, after: Any) -> bool:
    """Equality to the last bit; tells 0.0 and -0.0 apart."""
    if isinstance(before, int | float) and isinstance(after, int | float):
        return before == after and math.copysign(1, before) == math.copysign(1, after)
    return bool(before == after)


def compare(preset: str, before: Training, after: Training, steps: int) -> Comparison:
    """Compare the logs in the order of training, then the last weights."""
    result = Comparison(preset)
    step_keys = [key for key in before.events if key[0] == "step"]
    result.losses = [before.events[key]["loss"] for key in step_keys]
    unshared_keys: dict[str, None] = {}
    result.difference = missing(before, after, steps)
    for key in before.events.keys() & after.events.keys():
        for name in sorted(before.events[key].keys() ^ after.events[key].keys()):
            owner = "before" if name in before.events[key] else "after"
            unshared_keys[f"{key[0]}: {name} (only {owner})"] = None
    result.unshared_keys = sorted(unshared_keys)
    result.changed_on_purpose = changed_on_purpose(before, after)
    result.difference = result.difference or first_difference(before, after)
    return result


def missing(before: Training, after: Training, steps: int) -> str | None:
    """The first thing that the comparison needs and that a training does not have."""
    for side, training in (("before", before), ("after", after)):
        count = sum(kind == "step" for kind, _, _ in training.events)
        if count != steps:
            return f"{side} logged {count} steps, expected {steps}"
        for (kind, epoch, step), event in training.events.items():
            for name in REQUIRED.get(kind, ()):
                if name not in event:
                    return f"{side}: the {kind} event of epoch {epoch}, step {step} has no {name}"
        for name in ("mosaic_share", "mixup_share"):
            shares = [event[name] for event in training.events.values() if name in event]
            if shares and max(shares) == 0:
                return f"{side}: {name} is 0 in all epochs, so the run does not cover Dense O2O"
    unshared = sorted(before.events.keys() ^ after.events.keys(), key=lambda key: key[2])
    if unshared:
        kind, epoch, step = unshared[0]
        owner = "before" if unshared[0] in before.events else "after"
        return f"only {owner} logged a {kind} event at epoch {epoch}, step {step}"
    return None


def first_difference(before: Training, after: Training) -> str | None:
    """Describe the first value that differs, in the order of training; the weights come last."""
    for key, event in before.events.items():
        other = after.events.get(key, {})
        for name, value in event.items():
            if name in CHANGED_ON_PURPOSE:
                continue
            if name in other and not equal(value, other[name]):
                kind, _, step = key
                values = f"{value!r} before, {other[name]!r} after"
                return f"first difference at step {step}, {kind} {name}: {values}"
    for name in sorted(before.tensors.keys() | after.tensors.keys()):
        hashes = [side.tensors.get(name, "absent")[:16] for side in (before, after)]
        if hashes[0] != hashes[1]:
            values = f"sha256 {hashes[0]} before, {hashes[1]} after"
            return f"first difference in last.pt, tensor {name}: {values}"
    return None


def changed_on_purpose(before: Training, after: Training) -> list[str]:
    """One line per key of ``CHANGED_ON_PURPOSE`` that differs, with its first difference."""
    lines = []
    for name, reason in CHANGED_ON_PURPOSE.items():
        for key, event in before.events.items():
            other = after.events.get(key, {})
            if name in event and name in other and not equal(event[name], other[name]):
                values = f"{event[name]!r} before, {other[name]!r} after, first at step {key[2]}"
                lines.append(f"{key[0]} {name}: {values} ({reason})")
                break
    return lines


def run_preset(preset: str, checkouts: list[Path], folder: Path, steps: int) -> Comparison:
    """Train both checkouts at the same time and compare the results."""
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        trainings = [
            pool.submit(train, checkout, preset, folder / "data", folder / preset / side)
            for checkout, side in zip(checkouts, ("before", "after"), strict=True)
        ]
    try:
        before, after = (training.result() for training in trainings)
        result = compare(preset, before, after, steps)
    except TrainingFailedError as error:
        result = Comparison(preset, difference=str(error))
    result.seconds = time.monotonic() - begun
    return result


def row(result: Comparison) -> str:
    """One line of the table."""
    first, last = "", ""
    if result.losses:
        first, last = repr(result.losses[0]), repr(result.losses[-1])
    verdict = "yes" if result.difference is None else "no"
    steps = len(result.losses)
    return f"| {result.preset} | {steps} | {first} | {last} | {verdict} | {result.seconds:.0f} |"


def step_count(text: str) -> int:
    """A positive multiple of the number of epochs."""
    if not text.isdecimal() or int(text) < EPOCHS or int(text) % EPOCHS:
        raise argparse.ArgumentTypeError(f"{text} is no positive multiple of {EPOCHS}, the epochs")
    return int(text)


def checkout_path(text: str) -> Path:
    """A checkout named on the command line."""
    return check_checkout(Path(text))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", nargs="?", type=checkout_path, metavar="PATH_BEFORE")
    parser.add_argument("after", nargs="?", type=checkout_path, metavar="PATH_AFTER")
    parser.add_argument("--presets", nargs="+", metavar="NAME")
    parser.add_argument("--steps", type=step_count, default=20)
    arguments = parser.parse_args()
    presets = arguments.presets or PRESETS
    if arguments.before is None:
        presets = arguments.presets or PRESETS[:1]
    checkouts = [arguments.before or CHECKOUT, arguments.after or CHECKOUT]

    print(f"before: {checkouts[0]}\nafter:  {checkouts[1]}\ntorch {torch.__version__}, CPU\n")
    print("| preset | steps | first loss | last loss | equal | seconds |")
    print("|---|---|---|---|---|---|")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = BATCH * ACCUMULATE * arguments.steps // EPOCHS
        write_data_set(Path(folder) / "data", pictures)
        for preset in presets:
            results.append(run_preset(preset, checkouts, Path(folder), arguments.steps))
            print(row(results[-1]), flush=True)
    for result in results:
        for name in result.unshared_keys:
            print(f"{result.preset}: not compared: {name}")
        for line in result.changed_on_purpose:
            print(f"{result.preset}: changed on purpose: {line}")
        if result.difference is not None:
            print(f"{result.preset}: {result.difference}")
    return int(any(result.difference is not None for result in results))


if __name__ == "__main__":
    sys.exit(main())
