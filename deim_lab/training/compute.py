"""Where and in which precision a run computes: device, autocast, the processes of a
``torchrun``.
"""

from __future__ import annotations

import math
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from deim_lab.config import check_device
from deim_lab.errors import ConfigError
from deim_lab.host import gpus

T = TypeVar("T")


@dataclass(frozen=True)
class Compute:
    """Device and precision of this process; ``rank`` of ``world_size`` data-parallel processes (0
    of 1 when alone).
    """

    device: torch.device
    precision: str
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Only the main process writes into the run folder."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """The model's forward runs in this; matching and losses leave it."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(
            self.device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        )

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read next means what it says."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def agreed(self, value: T) -> T:
        """What the main process has; all processes must call this together."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def reset_peak_memory(self) -> None:
        """Begin to measure: what an earlier run of this process took is not this one's."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory_mib(self) -> float:
        """Peak memory: on CUDA the device's allocations since ``reset_peak_memory``, on the CPU the
        resident set of the whole process; NaN where the system doesn't say.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return _peak_resident_mib()


def resolve(device: str, precision: str) -> Compute:
    """The compute of this process. Under ``torchrun`` joins the process group (NCCL on CUDA, gloo
    on the CPU).

    ``device`` auto takes CUDA where there is one; ``precision`` auto is bf16 on CUDA and fp32 on
    the CPU. Raises ``ConfigError`` for a CUDA device that isn't there, and for ``auto`` where
    CUDA_VISIBLE_DEVICES names a GPU that torch doesn't find.
    """
    check_device(device)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: no CUDA device is visible here; use 'cpu' or 'auto'")
    if device == "auto" and gpus.given() and not torch.cuda.is_available():
        raise ConfigError(
            f"device 'auto': CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} gives this "
            f"process a GPU, and torch finds none "
            "(a wrong id, no driver, or a torch without CUDA); use 'cpu' to train without one"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    resolved = torch.device(device)
    if resolved.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", 0)) if world_size > 1 else (resolved.index or 0)
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"device 'cuda:{index}': only {torch.cuda.device_count()} CUDA devices are visible "
                f"here"
            )
        resolved = torch.device("cuda", index)
        torch.cuda.set_device(resolved)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if resolved.type == "cuda" else "gloo")
    if precision == "auto":
        precision = "bf16" if resolved.type == "cuda" else "fp32"
    if precision == "fp16" and resolved.type == "cpu":
        raise ConfigError("train.precision 'fp16' needs CUDA; on the CPU use 'fp32' or 'bf16'")
    return Compute(resolved, precision, rank, world_size)


def _peak_resident_mib() -> float:
    try:
        import resource
    except ImportError:  # Windows has no such module, and no other that is always installed
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
