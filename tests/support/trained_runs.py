"""Run folders as training leaves them, written without training, and the index of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deim_lab.config.presets import PLAIN_RECIPE, preset
from deim_lab.runs import Run, write_json

DATA = {"name": "toy", "fingerprint": "d" * 64}
BASE: dict[str, Any] = {"train.epochs": 4}
PLAIN = dict(PLAIN_RECIPE)
ARMS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "MAL": {"augment.mosaic_prob": 0.0, "augment.mixup_prob": 0.0},
    "Dense O2O": {"loss.classification": "vfl"},
    "DEIM": {},
}


def trained(
    folder: Path,
    overrides: Mapping[str, Any],
    seed: int = 0,
    ap: float | Sequence[float] = 0.5,
    *,
    active: bool = True,
    lr: float | None = None,
    data: Mapping[str, Any] = DATA,
    end: str = "done",
    positives: float = 1.0,
    dense_epoch: int = 1,
    weights: Mapping[str, Any] | None = None,
    recipe: str = "smoke",
) -> Run:
    """A run folder as training leaves it: an epoch of Mosaic and MixUp where they are asked for,
    the APs given (or rising to one).
    """
    config = preset(recipe, BASE | dict(overrides))
    run = Run.start(
        folder,
        config,
        seed=seed,
        data=data,
        overrides=BASE | dict(overrides),
        device="cpu",
        weights=weights,
    )
    epochs = config.train.epochs
    scores = (
        [ap * (epoch + 1) / epochs for epoch in range(epochs)]
        if isinstance(ap, float)
        else list(ap)
    )
    for epoch in range(epochs):
        mosaic = config.augment.mosaic_prob if active and epoch == 1 else 0.0
        mixup = config.augment.mixup_prob if active and epoch == 1 else 0.0
        targets = 3.0 * (1 + 3 * mosaic) * (1 + mixup)
        run.log(
            "train",
            epoch=epoch,
            step=10 * (epoch + 1),
            phase="dense" if epoch == dense_epoch else "plain",
            lr_last=lr or config.optim.lr,
            targets_per_image=targets,
            positives_per_image=positives * targets,
            mosaic_share=mosaic,
            mixup_share=mixup,
            matched_iou=scores[min(epoch, len(scores) - 1)],
            seconds={"forward": 0.1, "backward": 0.2},
            peak_memory_mib=500.0 + epoch,
        )
        run.log(
            "val",
            epoch=epoch,
            step=10 * (epoch + 1),
            AP=scores[epoch],
            AP50=min(1.0, 1.4 * scores[epoch]),
            AP75=scores[epoch],
            APs=-1.0,
            best_f1=0.7,
            best_f1_threshold=0.4,
        )
    if end == "done":
        run.finish()
    elif end == "failed":
        run.fail(RuntimeError("out of luck\nsecond line"))
    return run


def grid(folder: Path, scores: Mapping[str, Sequence[float]], **options: Any) -> None:
    """Runs of several arms, a seed a score."""
    for arm, finals in scores.items():
        for seed, ap in enumerate(finals):
            trained(folder, ARMS[arm], seed, ap, **options)


def indexed(
    folder: Path,
    name: str,
    rows: Sequence[tuple[str, int, Run | None, str]],
    *,
    baseline: str,
    created: str = "2026-01-01",
) -> None:
    """The index that a sweep leaves."""
    (folder / "sweeps" / name).mkdir(parents=True)
    about = {
        "name": name,
        "grid": "g.yaml",
        "baseline": baseline,
        "created": created,
        "finished": None,
    }
    write_json(
        folder / "sweeps" / name / "index.json",
        about
        | {
            "runs": [
                {
                    "arm": arm,
                    "seed": seed,
                    "status": status,
                    "fingerprint": "f",
                    "data_fingerprint": "d",
                    "run": run.folder.name if run else None,
                    "overrides": {},
                    "seconds": 1.0,
                    "attempts": 1,
                    "notebook": None,
                    "error": {"type": "RuntimeError", "message": "no luck", "traceback": "…"}
                    if status == "failed"
                    else None,
                }
                for arm, seed, run, status in rows
            ]
        },
    )
