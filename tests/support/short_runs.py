"""Settings of a short training run, a listener that cuts it, and what it left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deim_lab.data import synthetic
from deim_lab.runs import Run
from deim_lab.training import checkpoint

FAST = {
    "data.batch_size": 4,
    "data.input_size": 64,
    "model.num_queries": 20,
    "model.num_denoising": 8,
    "train.epochs": 4,
    "train.log_every": 1,
    "train.eval_every": 4,
    "schedule.warmup_epochs": 0,
    "train.threads": 1,
}


# To learn a handful of images by heart: many epochs of the same pixels.
BY_HEART = {
    "train.epochs": 150,
    "train.eval_every": 150,
    "train.checkpoint_every": 150,
    "augment.mosaic_prob": 0.0,
    "augment.mixup_prob": 0.0,
    "augment.photometric_prob": 0.0,
    "augment.flip_prob": 0.0,
}


def few_images(folder: Path) -> dict[str, str]:
    """Draw a set of four training images; its training half, as ``train`` takes it."""
    synthetic.make(folder, train_images=4, val_images=1, size_px=(96, 96), seed=5)
    return {
        "images": str(folder / "images" / "train"),
        "annotations": str(folder / "annotations" / "instances_train.json"),
    }


class CutError(Exception):
    """Raised by a listener to stop a run in the middle."""


def cut_at(step: int) -> Callable[[dict[str, Any]], None]:
    """A listener that stops a run at this step."""

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] >= step:
            raise CutError

    return listen


def losses_of(run: Run) -> list[tuple[int, float, float]]:
    """Step, loss and norm of the gradient of every step."""
    return [
        (event["step"], event["loss"], event["grad_norm"])
        for event in run.events()
        if event["kind"] == "step"
    ]


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    """The averaged weights at the end of a run."""
    return checkpoint.read(run.folder / "checkpoints" / checkpoint.LAST)["ema"]["module"]
