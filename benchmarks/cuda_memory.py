"""Peak CUDA memory of a training step: each preset at its official batch, and the largest batch
that fits a card of 24 GB.

    python benchmarks/cuda_memory.py [--presets deim_dfine_n deim_dfine_s …] [--limit-gib 22.5]
    [--targets 20]

Random pictures of the largest size that the preset trains at (800 px where it has multi-scale, else
640), ``--targets`` boxes per image (Dense O2O at its usual density), bf16 forward, AdamW and EMA in
memory, three steps after a first one. Out of memory is a result, printed as such. Without CUDA it
says so and measures nothing.
"""

from __future__ import annotations

import argparse
import sys

import torch

from deim_lab import matching
from deim_lab.config import Config
from deim_lab.config.presets import PRESETS, preset
from deim_lab.detector.detector import build_detector
from deim_lab.losses import criterion
from deim_lab.schedule import multiscale_sizes
from deim_lab.structures import Targets
from deim_lab.training.ema import Ema
from deim_lab.training.optimizer import build_optimizer


def random_targets(batch: int, per_image: int, num_classes: int) -> Targets:
    centres, sizes = (
        torch.rand(batch * per_image, 2) * 0.6 + 0.2,
        torch.rand(batch * per_image, 2) * 0.2 + 0.02,
    )
    return Targets(
        torch.cat([centres, sizes], 1),
        torch.randint(num_classes, (batch * per_image,)),
        torch.arange(batch).repeat_interleave(per_image),
        batch,
    )


def peak_gib(config: Config, batch: int, per_image: int) -> float | None:
    """Peak allocated GiB of three training steps; None when they don't fit."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        model = build_detector(config, num_classes=80).cuda().train()
        ema = Ema(model, decay=config.ema.decay, warmup_updates=config.ema.warmup_updates)
        optimizer = build_optimizer(model, config.optim)
        repeat, size = config.augment.multiscale_repeat, max(config.data.input_size)
        largest = size if repeat is None else max(multiscale_sizes(size, repeat))
        images = torch.rand(batch, 3, largest, largest, device="cuda")
        targets = random_targets(batch, per_image, 80).to("cuda")
        for _ in range(4):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                output = model(images, targets)
            matches = matching.assign(output, targets, config.match)
            table = criterion.compute(
                output, targets, matches, loss=config.loss, match=config.match
            )
            table.total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ema.update(model)
        return torch.cuda.max_memory_allocated() / 2**30
    except torch.cuda.OutOfMemoryError:
        return None


def largest_batch(config: Config, limit_gib: float, per_image: int) -> int:
    """Largest power of two of images per step whose peak stays below the limit; 0 when not even one
    image fits.
    """
    batch = config.optim.recipe_batch
    while batch >= 1:
        peak = peak_gib(config, batch, per_image)
        if peak is not None and peak <= limit_gib:
            return batch
        batch //= 2
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--presets", nargs="+", default=[name for name in PRESETS if "dfine" in name]
    )
    parser.add_argument(
        "--limit-gib",
        type=float,
        default=22.5,
        help="what a 24 GB card has left beside the CUDA context (default 22.5)",
    )
    parser.add_argument("--targets", type=int, default=20, help="targets per image (default 20)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        return 0
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {args.targets} targets an "
        f"image, bf16"
    )
    print(
        "| preset | official batch | peak GiB there | batch × accumulation in 24 GB "
        "|\n|---|---|---|---|"
    )
    for name in args.presets:
        config = preset(name)
        official = config.optim.recipe_batch
        peak, fits = (
            peak_gib(config, official, args.targets),
            largest_batch(config, args.limit_gib, args.targets),
        )
        steps = f"{fits} × {official // fits}" if fits else "does not fit"
        print(
            f"| {name} | {official} | {'out of memory' if peak is None else f'{peak:.1f}'} | "
            f"{steps} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
