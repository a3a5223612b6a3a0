"""Measure the latency of a detector on this machine: median and spread, after a warm-up.

Every result names the batch size, the device, the precision, the form of the model (train, deploy,
compiled), and whether post-processing is included. Single numbers can't be compared with those of
other machines and runtimes (the published ones: TensorRT, FP16, on a T4); only the order of models
can.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import torch
from torch import nn

from deim_lab.detections import postprocess
from deim_lab.errors import ConfigError, nearest
from deim_lab.inference.flops import Cost, count

__all__ = [
    "FORMS",
    "PRECISIONS",
    "Cost",
    "Latency",
    "count",
    "in_form",
    "machine",
    "measure",
    "precisions",
    "row",
]

Json = Any
Form = Literal["train", "deploy", "compiled"]

FORMS: tuple[Form, ...] = ("train", "deploy", "compiled")
PRECISIONS = ("fp32", "bf16", "fp16")
FEWEST = 5  # minimum number of timed passes
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LOW, _HIGH = 0.05, 0.95  # quantiles of the spread


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of a batch.

    Attributes:
        batch: number of images per pass.
        size: height and width in pixels.
        precision: fp32, or bf16 or fp16 by autocast, as in training and evaluation.
        device: name of the device in PyTorch.
        postprocess: whether the time includes the choice of the best boxes in pixels.
        repeats: number of timed passes, after the warm-up.
        median_ms, low_ms, high_ms: time of a pass in milliseconds: median, 5 % and 95 % quantiles.
    """

    batch: int
    size: tuple[int, int]
    precision: str
    device: str
    postprocess: bool
    repeats: int
    median_ms: float
    low_ms: float
    high_ms: float

    @property
    def images_per_second(self) -> float:
        return 1000 * self.batch / self.median_ms


def row(found: Latency) -> dict[str, Json]:
    """A latency as JSON values, with the images per second."""
    return asdict(found) | {"size": list(found.size), "images_per_second": found.images_per_second}


def measure(
    model: nn.Module,
    *,
    batch: int = 1,
    size: tuple[int, int] = (640, 640),
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    repeats: int = 50,
    warmup: int = 5,
    max_seconds: float | None = None,
    with_postprocess: bool = False,
    top_k: int = 300,
) -> Latency:
    """Time a detector's forward pass on random images that are already on the device.

    Each pass ends before the next one starts. The time is that of a single request, not of a
    pipelined stream. The model is moved to the device and set to eval mode, and stays in this
    state.

    Args:
        model: a detector of any form (see ``in_form``).
        repeats: number of passes to time.
        warmup: number of passes before the timing; a compiled model compiles in the first.
        max_seconds: stop after this time, but not before ``FEWEST`` passes; the result has the
            number of passes.
        with_postprocess: include the choice of the ``top_k`` best.

    Raises:
        ConfigError: a number below 1, or a precision that is unknown or that the device lacks.
    """
    device = torch.device(device)
    _check(device, precision, batch=batch, repeats=repeats)
    model = model.to(device).eval()
    images = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    sizes_wh = torch.tensor([[size[1], size[0]]] * batch, device=device)

    def once() -> None:
        prediction = model(images)
        if with_postprocess:
            postprocess(prediction, sizes_wh, top_k=top_k)

    with torch.inference_mode(), _autocast(device, precision):
        seconds = _timed(once, device, repeats, warmup, max_seconds)
    low, high = (_quantile(seconds, share) for share in (_LOW, _HIGH))
    return Latency(
        batch,
        size,
        precision,
        _name(device),
        with_postprocess,
        len(seconds),
        1000 * statistics.median(seconds),
        1000 * low,
        1000 * high,
    )


def in_form(model: nn.Module, form: str) -> nn.Module:
    """A detector in the form to be timed.

    ``train``: the model itself. ``deploy``: a folded copy. ``compiled``: the deploy form with
    ``torch.compile``. Raises ``ConfigError`` for another form.
    """
    if form not in FORMS:
        raise ConfigError(
            f"unknown form {form!r}{nearest(form, FORMS)}. Known forms: {', '.join(FORMS)}"
        )
    if form == "train":
        return model.eval()
    deployed: nn.Module = model if getattr(model, "deployed", False) else model.deploy()  # type: ignore[operator]
    return torch.compile(deployed) if form == "compiled" else deployed  # type: ignore[return-value]


def precisions(device: torch.device | str) -> tuple[str, ...]:
    """The precisions of a device.

    A CPU has fp32 and bf16. A GPU has fp32 and fp16, and bf16 if its hardware supports it.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return ("fp32", "bf16")
    return (
        PRECISIONS if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp32", "fp16")
    )


def machine(device: torch.device | str) -> dict[str, Json]:
    """The origin of a table of times: device, threads, versions, date (UTC)."""
    device = torch.device(device)
    return {
        "device": _name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _timed(
    once: Callable[[], None],
    device: torch.device,
    repeats: int,
    warmup: int,
    max_seconds: float | None,
) -> list[float]:
    """Seconds of each of ``repeats`` calls; each call ends before the next one starts."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(warmup):
        once()
    wait()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        once()
        wait()
        seconds.append(time.perf_counter() - start)
        if max_seconds is not None and len(seconds) >= FEWEST and sum(seconds) >= max_seconds:
            break
    return seconds


def _check(device: torch.device, precision: str, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} {value} is below 1. Give at least 1")
    if precision not in precisions(device):
        raise ConfigError(
            f"precision {precision!r} is not available on "
            f"{_name(device)}{nearest(precision, PRECISIONS)}. "
            f"The device has {', '.join(precisions(device))}"
        )


def _quantile(values: list[float], share: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    return (
        nullcontext()
        if precision == "fp32"
        else torch.autocast(device.type, dtype=_DTYPES[precision])
    )


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name() if device.type == "cpu" else str(device)


def _cpu_name() -> str:
    """The processor's name if the system reports it (Linux), else its kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(
                line.partition(":")[2].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
