"""Small run folders: one that has just started, one that is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deim_lab.config.presets import preset
from deim_lab.runs import Run

DATA = {"name": "toy", "fingerprint": "d" * 64, "images": 3}


def start(folder: Path, overrides: dict | None = None, *, seed: int = 0, **options: Any) -> Run:
    return Run.start(
        folder, preset("smoke", overrides), seed=seed, data=DATA, overrides=overrides, **options
    )


def finished(folder: Path, overrides: dict | None = None, *, seed: int = 0, ap: float = 0.5) -> Run:
    run = start(folder, overrides, seed=seed)
    for epoch in range(2):
        run.log(
            "train",
            epoch=epoch,
            step=10 * (epoch + 1),
            targets_per_image=3.0 + epoch,
            loss={"total": 2.0, "mal": {"layer_0": 1.0}},
            matched_iou_histogram=[1, 2, 3],
        )
        run.log("val", epoch=epoch, step=10 * (epoch + 1), AP=ap * (epoch + 1) / 2, AP50=ap)
    run.finish()
    return run
