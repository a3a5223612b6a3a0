"""The price of more positives: parameters, step seconds and peak memory of each kind of matching,
side by side on the same images.

    python benchmarks/matching_price.py [--preset cpu_demo] [--batch 4] [--steps 20] [--device auto]
    [--data FOLDER] [--threads 1]

Arms: one-to-one, one-to-one under Dense O2O (the same images composed by Mosaic and MixUp, always
on), SimOTA, four query groups. A step is forward, matching and losses, backward, AdamW, EMA. Arms
take turns step by step, so a busy machine slows all of them alike; the table has medians. Memory is
the peak of CUDA allocations; on a CPU the growth of the resident set over three steps, in a process
of its own. Last, what the pipeline itself costs an image, on decoded pictures, by phase.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import scipy.optimize  # noqa: F401  the matcher loads it on first use: no part of any arm's memory
import torch
from torch import Tensor

from deim_lab.augment.pipeline import Pipeline, generator_of
from deim_lab.config import Config
from deim_lab.config.presets import preset
from deim_lab.data import coco
from deim_lab.data.coco import CocoDataset
from deim_lab.detector.detector import build_detector
from deim_lab.losses import criterion
from deim_lab.matching import assign
from deim_lab.schedule import Phase
from deim_lab.structures import Targets
from deim_lab.study import matching
from deim_lab.training.compute import resolve
from deim_lab.training.ema import Ema
from deim_lab.training.optimizer import build_optimizer

ARMS = {
    "one-to-one": ("hungarian", False),
    "+ Dense O2O": ("hungarian", True),
    "SimOTA": ("simota", False),
    "4 query groups": ("groups(4)", False),
}


@dataclass
class Trainee:
    """One arm, ready to step."""

    config: Config
    images: Tensor
    targets: Targets
    device: str

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.compute = resolve(self.device, "auto")
        self.model = build_detector(self.config, 80).to(self.compute.device).train()
        self.ema = Ema(
            self.model, decay=self.config.ema.decay, warmup_updates=self.config.ema.warmup_updates
        )
        self.optimizer = build_optimizer(self.model, self.config.optim)
        self.images, self.targets = (
            self.images.to(self.compute.device),
            self.targets.to(self.compute.device),
        )
        self.positives = 0.0

    def step(self) -> float:
        """Seconds of one step."""
        self.compute.synchronize()
        begun = time.perf_counter()
        with self.compute.autocast():
            output = self.model(self.images, self.targets)
        loss, match = self.config.loss, self.config.match
        matches = assign(output, self.targets, match)
        table = criterion.compute(output, self.targets, matches, loss=loss, match=match)
        table.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model)
        self.compute.synchronize()
        self.positives = table.positives_per_image
        return time.perf_counter() - begun


def trainee(arm: str, arguments: argparse.Namespace, source: CocoDataset) -> Trainee:
    kind, dense = ARMS[arm]
    config = preset(arguments.preset, {"match.kind": kind})
    strength = replace(config.augment, mosaic_prob=1.0, mixup_prob=1.0, multiscale_repeat=None)
    images, targets = matching.compose(
        source,
        range(arguments.batch),
        strength,
        config.data.input_size,
        phase=Phase.DENSE if dense else Phase.CLEAN,
    )
    return Trainee(config, images, targets, arguments.device)


def memory_mib(arm: str, arguments: argparse.Namespace, source: CocoDataset) -> float:
    """Peak memory of three steps: allocations on CUDA, growth of the resident set on a CPU (call it
    in a fresh process; Linux).
    """
    ready = trainee(arm, arguments, source)
    on_cuda = ready.compute.device.type == "cuda"
    before = 0.0 if on_cuda else resident_mib("VmRSS")
    for _ in range(3):
        ready.step()
    return ready.compute.peak_memory_mib() if on_cuda else resident_mib("VmHWM") - before


def resident_mib(entry: str) -> float:
    """Resident memory of this process now (``VmRSS``) or at its peak (``VmHWM``; ``ru_maxrss``
    would count the parent's too).
    """
    status = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    )
    return int(status[entry].split()[0]) / 1024


def pipeline_ms(config: Config, source: CocoDataset, batch: int) -> dict[str, float]:
    """Milliseconds an image of the training pipeline on decoded pictures."""
    always = replace(config.augment, mosaic_prob=1.0, mixup_prob=1.0)
    never = replace(config.augment, mosaic_prob=0.0, mixup_prob=0.0)
    arms = {
        "resize and flip": (Phase.CLEAN, never),
        "plain strong": (Phase.DENSE, never),
        "Dense O2O as the recipe has it": (Phase.DENSE, config.augment),
        "Mosaic and MixUp on every image": (Phase.DENSE, always),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(12):
        for name, (phase, augment) in arms.items():
            pipeline = Pipeline(
                augment=replace(augment, multiscale_repeat=None), input_size=config.data.input_size
            )
            indices = [(turn * batch + item) % len(source) for item in range(batch)]
            begun = time.perf_counter()
            pipeline.batch(
                source,
                indices,
                phase,
                [generator_of(0, turn, item) for item in indices],
                generator_of(0, turn),
            )
            seconds[name].append((time.perf_counter() - begun) / batch)
    return {
        name: 1000 * statistics.mean(sorted(values[2:])[1:-1]) for name, values in seconds.items()
    }  # after warming the cache


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="cpu_demo")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=list(ARMS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        source, _ = coco.open_source(coco.resolve(arguments.data, cache_dir=folder), cache=True)
        if arguments.memory_of:
            print(json.dumps(memory_mib(arguments.memory_of, arguments, source)))
            return 0
        ready = {arm: trainee(arm, arguments, source) for arm in ARMS}
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for _ in range(arguments.steps + 2):
            for arm, item in ready.items():
                seconds[arm].append(item.step())
        base = statistics.median(seconds["one-to-one"][2:])
        first = next(iter(ready.values()))
        print(
            f"{arguments.preset}, batch {arguments.batch}, {arguments.steps} steps, "
            f"{first.compute.device} {first.compute.precision}, "
            f"{arguments.threads} thread(s), torch {torch.__version__}\n"
        )
        print(
            "| arm | targets per image | positives per image | parameters | step seconds | against "
            "one-to-one | peak memory MiB |"
        )
        print("|---|---|---|---|---|---|---|")
        for arm, item in ready.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", arm]
            peak = float(
                subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
                .stdout.strip()
                .splitlines()[-1]
            )
            median = statistics.median(seconds[arm][2:])
            parameters = sum(parameter.numel() for parameter in item.model.parameters())
            print(
                f"| {arm} | {len(item.targets) / arguments.batch:.1f} | {item.positives:.1f} | "
                f"{parameters:,} | {median:.3f} "
                f"| {median / base:.2f}× | {peak:.0f} |"
            )
        print("\n| pipeline | ms an image |\n|---|---|")
        for name, value in pipeline_ms(
            preset(arguments.preset), source, max(arguments.batch, 2)
        ).items():
            print(f"| {name} | {value:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
