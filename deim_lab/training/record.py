"""Report the progress of a run: events in its log and to its listener, and warnings."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deim_lab.evaluation import Evaluation
from deim_lab.host import files
from deim_lab.losses.criterion import LossTable
from deim_lab.schedule import Phase
from deim_lab.structures import Batch
from deim_lab.training.state import State
from deim_lab.training.tally import Stopwatch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """The values of one optimisation step for the log.

    Attributes:
        losses: term/level → mean over the batches of the step.
        lr: highest learning rate of all parameter groups.
        grad_norm: norm of the gradient before clipping, on the device.
    """

    losses: dict[str, float]
    lr: float
    grad_norm: Tensor


def announce(state: State) -> None:
    """Log the plan of the run before the first step, with notices of anything surprising."""
    plan, notices = state.schedule, _notices(state)
    if state.compute.is_main:
        phases = [plan.phase(epoch) for epoch in range(plan.epochs)]
        timeline = ", ".join(f"{phase} {phases.count(phase)}" for phase in Phase if phase in phases)
        _log.info(
            "%s: %d epochs × %d steps (%s); learning-rate warm-up %d steps; %s, %s",
            state.run.folder.name,
            plan.epochs,
            plan.steps_per_epoch,
            timeline,
            plan.lr_warmup_steps,
            state.compute.device,
            state.compute.precision,
        )
        _log.info("data: %s", state.train_set.origin)
        for notice in notices:
            _log.warning("%s", notice)
        state.run.log(
            "event",
            epoch=state.epoch,
            step=state.step,
            event="start",
            notices=notices,
            phases=[str(phase) for phase in phases],
            device=str(state.compute.device),
            precision=state.compute.precision,
        )
    state.emit(
        {
            "kind": "start",
            "run": str(state.run.folder),
            "epoch": state.epoch,
            "step": state.step,
            "steps": plan.steps,
            "epochs": plan.epochs,
            "notices": notices,
        }
    )


def division(state: State) -> None:
    """Write ``split.json``: which images the run trains on, and which ones it validates on."""
    data = state.config.data
    halves = {"train": state.train_set, "val": state.val_set}
    content: dict[str, Any] = {"val_share": data.val_share, "val_seed": data.val_seed}
    content |= {key: list(half.annotations.file_names) for key, half in halves.items()}
    files.write_json(state.run.folder / "split.json", content)


def batch(
    state: State, trained: Batch, table: LossTable, losses: dict[str, float], lr: float
) -> None:
    """Count one batch towards the means of its epoch."""
    tally = state.tally
    tally.steps += 1
    tally.add(
        targets_per_image=len(trained.targets) / trained.targets.batch_size,
        mosaic_share=trained.mosaic_share,
        mixup_share=float(trained.mixed),
        positives_per_image=table.positives_per_image,
        unmatched_targets=table.unmatched_targets,
        lr=lr,
        loss=losses["total"],
    )
    names = ("mosaic", "mixup", *state.config.augment.extra)
    tally.add_all(trained.shares(names), "applied")
    tally.add_all(losses, "loss")
    tally.add_matched_iou(table.matched_iou)


def step(state: State, result: StepResult, watch: Stopwatch, *, logged: bool) -> None:
    """Count the times of one step, log every ``train.log_every``-th step, call the listener."""
    if watch.on:
        state.tally.add_all(watch.seconds, "seconds")
    if logged and state.compute.is_main:
        state.run.log(
            "step",
            epoch=state.epoch,
            step=state.step,
            loss=result.losses["total"],
            lr=result.lr,
            grad_norm=float(result.grad_norm),
            losses=result.losses,
            seconds=watch.seconds,
        )
    state.emit(
        {
            "kind": "step",
            "epoch": state.epoch,
            "step": state.step,
            "steps": state.schedule.steps,
            "loss": result.losses["total"],
            "epochs": state.config.train.epochs,
        }
    )


def epoch(state: State) -> None:
    """Log the means of the epoch's steps."""
    _record(
        state,
        "train",
        phase=str(state.schedule.phase(state.epoch)),
        lr_last=state.optimizer.param_groups[-1]["lr"],
        matched_iou_histogram=state.tally.iou_histogram,
        matched_iou=state.tally.matched_iou,
        peak_memory_mib=state.compute.peak_memory_mib(),
        **state.tally.means(),
    )


def evaluated(state: State, result: Evaluation) -> None:
    """Log the scores of an evaluation and save its detections (main process only)."""
    _record(
        state,
        "val",
        **result.metrics,
        **result.further,
        best_f1=result.f1.f1,
        best_f1_threshold=result.f1.threshold,
        backend=result.backend,
        images=result.images,
        seconds=result.seconds,
    )
    state.run.save_detections("last", result.detections)


def diagnose(state: State) -> None:
    """Warn after three evaluations near zero: list the usual causes, with this run's numbers."""
    scores: list[float] = [event["AP50"] for event in state.run.events() if event["kind"] == "val"]
    if len(scores) != 3 or max(scores) >= 0.01:
        return
    factor = state.schedule.lr_factor(state.step)
    _log.warning(
        "AP50 is still %.4f after 3 evaluations. Things to check: learning rate at %.0f %% of "
        "optim.lr%s; EMA decay at update %d is %.4f; "
        "%d classes, labels 0…%d; `deim-lab doctor` on the data (boxes, category ids); %d epochs "
        "without Dense O2O are left.",
        max(scores),
        100 * factor,
        " (still warming up)" if state.step < state.schedule.lr_warmup_steps else "",
        state.ema.updates,
        state.ema.decay_at(state.ema.updates),
        len(state.train_set.categories),
        len(state.train_set.categories) - 1,
        state.schedule.epochs - max(state.epoch + 1, state.schedule.dense_end),
    )


def done(state: State) -> None:
    """Call the listener with the end of the run."""
    state.emit(
        {
            "kind": "done",
            "run": str(state.run.folder),
            "best_AP": state.best_ap,
            "best_epoch": state.best_epoch,
        }
    )


def _notices(state: State) -> list[str]:
    """Sentences about settings of this run that may surprise, one per setting."""
    config = state.config
    notices = [
        *state.schedule.notices,
        *state.train_set.notices,
        *(f"val: {notice}" for notice in state.val_set.notices),
    ]
    total = config.data.batch_size * config.train.accumulate * state.compute.world_size
    if total != config.optim.recipe_batch:
        ratio = total / config.optim.recipe_batch
        notices.append(
            f"total batch {total}, while optim.lr {config.optim.lr:g} was chosen for "
            f"{config.optim.recipe_batch}; "
            f"scaled in proportion, optim.lr would be {config.optim.lr * ratio:g} "
            f"(optim.backbone_lr {config.optim.backbone_lr * ratio:g})"
        )
    most = int(state.train_set.counts.max()) if len(state.train_set) else 0
    if most > config.model.num_queries:
        notices.append(
            f"an image has {most} targets, but model.num_queries is {config.model.num_queries}: "
            f"{most - config.model.num_queries} targets can never be matched. Raise "
            f"model.num_queries"
        )
    return notices


def _record(state: State, kind: str, **values: Any) -> None:
    """Write one event into the run's log, and call the listener with it."""
    if state.compute.is_main:
        state.run.log(kind, epoch=state.epoch, step=state.step, **values)
    state.emit(
        {
            "kind": kind,
            "epoch": state.epoch,
            "step": state.step,
            "epochs": state.config.train.epochs,
            **values,
        }
    )
