"""The exponential moving average (EMA) of the weights, for evaluation and prediction."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """Average of all floating state (parameters and batch-norm statistics) of a model.

    After update ``k`` (from 1): ``average = d(k)·average + (1 − d(k))·model`` with
    ``d(k) = decay·(1 − exp(−k / warmup_updates))``. A warm-up of 0 gives ``d = decay``. The saved
    state has the counter, so a resumed run continues the same curve.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup_updates: int) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warmup_updates = warmup_updates
        self.updates = 0
        self._pairs: tuple[nn.Module, list[Tensor], list[Tensor]] | None = None

    def decay_at(self, update: int) -> float:
        """d(k) of the ``update``-th update, counted from 1."""
        return (
            self.decay * (1 - math.exp(-update / self.warmup_updates))
            if self.warmup_updates
            else self.decay
        )

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards ``model`` (without its data-parallel wrapper)."""
        self.updates += 1
        decay = self.decay_at(self.updates)
        averages, currents = self._averaged(model)
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, currents, alpha=1 - decay)

    def _averaged(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """The floating tensors of the average and of the model, in the same order.

        They are looked up once, because training changes them in place. A tensor with several names
        (a shared head) is in the lists once, so it moves once per step.
        """
        if self._pairs is None or self._pairs[0] is not model:
            by_address = {
                average.data_ptr(): (average, current.detach())
                for average, current in zip(
                    self.module.state_dict().values(), model.state_dict().values(), strict=True
                )
                if average.dtype.is_floating_point
            }
            pairs = list(by_address.values())
            self._pairs = (
                model,
                [average for average, _ in pairs],
                [current for _, current in pairs],
            )
        return self._pairs[1], self._pairs[2]

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])
