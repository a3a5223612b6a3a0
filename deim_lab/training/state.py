"""``State``: everything that changes while a run trains, in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from deim_lab import config as configs
from deim_lab.config import Config, plugins
from deim_lab.data.coco import CocoDataset
from deim_lab.runs import Run
from deim_lab.schedule import Schedule
from deim_lab.training.compute import Compute
from deim_lab.training.ema import Ema
from deim_lab.training.tally import Tally

Event = dict[str, Any]


@dataclass
class State:
    """A run in training. ``resume.save_last`` saves the state that an interrupted run needs."""

    config: Config
    seed: int
    compute: Compute
    run: Run
    train_set: CocoDataset
    val_set: CocoDataset
    schedule: Schedule
    model: nn.Module  # the bare detector
    parallel: nn.Module  # the bare detector, or its data-parallel wrapper
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    emit: Callable[[Event], None]
    epoch: int = 0  # the epoch in progress
    batch: int = 0  # finished batches of this epoch
    step: int = 0  # finished optimisation steps of the run
    tally: Tally = field(default_factory=Tally)
    best_ap: float = -1.0
    best_epoch: int = -1
    restarted: bool = False  # whether the clean phase has restarted from the best weights

    def description(self) -> dict[str, Any]:
        """The entries in every file of this run: config, categories, seed, plugin entries."""
        description = {
            "config": configs.to_dict(self.config),
            "categories": self.train_set.categories.as_list(),
            "seed": self.seed,
        }
        entries = plugins.record(self.config)
        return description | {"plugins": entries} if entries else description
