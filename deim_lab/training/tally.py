"""Statistics of an epoch for the log, including how often each factor was active."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from deim_lab.training.compute import Compute

IOU_BINS = 20  # of the matched-IoU histogram over [0, 1]


class Tally:
    """Sums over the steps of one epoch.

    The values are plain numbers, so that a checkpoint inside an epoch can hold them.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        state = state or {}
        self.steps: int = state.get("steps", 0)
        self.sums: defaultdict[str, float] = defaultdict(float, state.get("sums", {}))
        self.counts: defaultdict[str, int] = defaultdict(int, state.get("counts", {}))
        histogram: list[float] = state.get("iou_histogram", [0.0] * IOU_BINS)
        self._histogram = torch.tensor(histogram)
        # A checkpoint of version 0.1 has no sum. Its part of the epoch counts by bin centres.
        self._iou_sum = torch.tensor(float(state.get("iou_sum", _sum_of_centres(histogram))))

    def add(self, **values: float) -> None:
        """Add one observation of each named value."""
        for name, value in values.items():
            self.sums[name] += float(value)
            self.counts[name] += 1

    def add_all(self, values: dict[str, float], prefix: str) -> None:
        """Add one observation of each value of a dict, under ``prefix/name``."""
        self.add(**{f"{prefix}/{name}": value for name, value in values.items()})

    def add_matched_iou(self, matched_iou: Tensor) -> None:
        """Count matched pairs by IoU (``[M]``, in [0, 1]), and sum their IoU.

        Counts and sum stay on the device until they are read.
        """
        values = matched_iou.detach().float()
        counts = torch.histc(values, bins=IOU_BINS, min=0.0, max=1.0)
        self._histogram = self._histogram.to(counts.device) + counts
        self._iou_sum = self._iou_sum.to(counts.device) + values.sum()

    @property
    def iou_histogram(self) -> list[float]:
        """Number of matched pairs in each of ``IOU_BINS`` equal bins of IoU."""
        return [float(value) for value in self._histogram.tolist()]

    @property
    def matched_iou(self) -> float | None:
        """Mean IoU of the matched pairs; None without pairs."""
        pairs = sum(self.iou_histogram)
        return float(self._iou_sum) / pairs if pairs else None

    def means(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "sums": dict(self.sums),
            "counts": dict(self.counts),
            "iou_histogram": self.iou_histogram,
            "iou_sum": float(self._iou_sum),
        }


def _sum_of_centres(histogram: list[float]) -> float:
    """Sum of the IoU of all pairs in a histogram, exact to half a bin per pair."""
    return sum((index + 0.5) / IOU_BINS * pairs for index, pairs in enumerate(histogram))


class Stopwatch:
    """Seconds by stage of one step: ``with watch("forward"): …``.

    On CUDA the stopwatch waits for the device at both ends of a stage. Use it on logged steps only.
    """

    def __init__(self, compute: Compute, *, on: bool) -> None:
        self.compute = compute
        self.on = on
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside the ``with`` block to ``stage``."""
        begun = self._now()
        yield
        if self.on:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self._now() - begun

    def _now(self) -> float:
        if self.on:
            self.compute.synchronize()
        return time.perf_counter()
