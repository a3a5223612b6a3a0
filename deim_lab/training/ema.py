"""The exponential moving average of a model's weights, which is what evaluation and prediction use."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


class Ema:
    """Average of all floating state (parameters and batch-norm statistics) of a model.

    After update ``k`` (from 1): ``average = d(k)·average + (1 − d(k))·model`` with ``d(k) = decay·(1 − exp(−k / warmup_updates))``;
    a warm-up of 0 gives ``d = decay``. The counter is part of the saved state, so a resumed run continues the same curve.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup_updates: int) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warmup_updates = warmup_updates
        self.updates = 0

    def decay_at(self, update: int) -> float:
        """d(k) of the ``update``-th update, counted from 1."""
        return self.decay * (1 - math.exp(-update / self.warmup_updates)) if self.warmup_updates else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards ``model`` (the bare one, not a data-parallel wrapper)."""
        self.updates += 1
        decay = self.decay_at(self.updates)
        averages, currents = [], []
        for average, current in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if average.dtype.is_floating_point:
                averages.append(average)
                currents.append(current.detach())
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, currents, alpha=1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])
