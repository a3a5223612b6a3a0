"""The device and precision of a run, and its processes under ``torchrun``."""

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
    """Device and precision of this process, and its rank among the data-parallel processes.

    A single process has ``rank`` 0 and ``world_size`` 1.
    """

    device: torch.device
    precision: str
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the only one that writes into the run folder."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast context of the model's forward; matching and losses run outside of it."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(
            self.device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        )

    def synchronize(self) -> None:
        """Wait for the device, so that a clock that is read next includes all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def agreed(self, value: T) -> T:
        """Return the main process's ``value``; all processes must call this together."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def reset_peak_memory(self) -> None:
        """Start to measure peak memory, without the memory of earlier runs in this process."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory_mib(self) -> float:
        """Peak memory in MiB; NaN if the system doesn't report it.

        On CUDA: the device's allocations since ``reset_peak_memory``. On the CPU: the resident set
        of the entire process.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return _peak_resident_mib()


def resolve(device: str, precision: str) -> Compute:
    """Resolve the device and precision of this process, and join the group of a ``torchrun``.

    The process group uses NCCL on CUDA and gloo on the CPU. ``device`` auto uses CUDA if it is
    available. ``precision`` auto is bf16 on CUDA and fp32 on the CPU. Raises ``ConfigError`` for a
    CUDA device that does not exist, and for ``auto`` if CUDA_VISIBLE_DEVICES names a GPU that torch
    doesn't find.
    """
    check_device(device)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: no CUDA device is visible. Use 'cpu' or 'auto'")
    if device == "auto" and gpus.given() and not torch.cuda.is_available():
        raise ConfigError(
            f"device 'auto': CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} assigns a "
            f"GPU to this process, but torch finds none (a wrong id, no driver, or a torch without "
            f"CUDA). Use 'cpu' to train without a GPU"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    resolved = torch.device(device)
    if resolved.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", 0)) if world_size > 1 else (resolved.index or 0)
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"device 'cuda:{index}': only {torch.cuda.device_count()} CUDA devices are visible"
            )
        resolved = torch.device("cuda", index)
        torch.cuda.set_device(resolved)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if resolved.type == "cuda" else "gloo")
    if precision == "auto":
        precision = "bf16" if resolved.type == "cuda" else "fp32"
    if precision == "fp16" and resolved.type == "cpu":
        raise ConfigError("train.precision 'fp16' needs CUDA. On the CPU use 'fp32' or 'bf16'")
    return Compute(resolved, precision, rank, world_size)


def _peak_resident_mib() -> float:
    try:
        import resource
    except ImportError:  # Windows lacks this module and has no standard alternative
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
