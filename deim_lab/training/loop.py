"""The training loop, to be read top to bottom: ``train`` → ``_epoch`` → ``_step``.

A run is a function of (config, data set, seed). All randomness is derived from the seed and the
position (epoch, step, sample), never from what happened before, so a run that was cut continues
from its last checkpoint exactly as if it had not been.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deim_lab import config as configs, evaluation, runs, schedule
from deim_lab.config import Config, checks
from deim_lab.config.presets import PRESETS
from deim_lab.data import coco, loader
from deim_lab.data.coco import CocoDataset
from deim_lab.data.loader import Batch
from deim_lab.detector.detector import build_detector
from deim_lab.errors import ConfigError, NonFiniteError
from deim_lab.losses import criterion
from deim_lab.losses.criterion import LossTable
from deim_lab.runs import Run
from deim_lab.schedule import Phase, Schedule
from deim_lab.training import checkpoint
from deim_lab.training.compute import Compute, resolve as resolve_compute
from deim_lab.training.ema import Ema
from deim_lab.training.optimizer import build_optimizer, set_learning_rate
from deim_lab.training.tally import Stopwatch, Tally
from deim_lab.weights.backbone import load_backbone_weights, read_backbone_weights, start_of
from deim_lab.weights.own import load_weights

Event = dict[str, Any]

_log = logging.getLogger(__name__)


@dataclass
class _State:
    """All that changes while a run trains; what of it a checkpoint keeps is in
    ``_checkpoint_state``.
    """

    config: Config
    seed: int
    compute: Compute
    run: Run
    train_set: CocoDataset
    val_set: CocoDataset
    schedule: Schedule
    model: nn.Module  # the bare detector
    parallel: nn.Module  # the same, or its data-parallel wrapper
    ema: Ema
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    emit: Callable[[Event], None]
    epoch: int = 0  # the epoch in progress
    batch: int = 0  # batches of it already done
    step: int = 0  # optimisation steps done in all
    tally: Tally = field(default_factory=Tally)
    best_ap: float = -1.0
    best_epoch: int = -1
    restarted: bool = False  # whether the clean tail's restart from the best weights has happened


def train(
    config: Config,
    data: str | Path | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    runs_dir: str | Path = "runs",
    device: str | None = None,
    resume: str = "auto",
    weights: str | Path | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Run:
    """Train ``config`` on ``data`` and leave a run folder under ``runs_dir``.

    Args:
        config: a whole experiment, e.g. ``presets.preset("deim_dfine_n", {"train.epochs": 30})``.
        data: whatever ``data.coco.resolve`` takes: a folder in COCO layout, explicit images and
            annotations, or None for the embedded set.
        seed: of initialisation, shuffling, augmentation and denoising.
        device: ``auto | cpu | cuda | cuda:N``; None: ``config.train.device``.
        resume: ``auto`` returns the finished run of the same config, data and seed, or continues
            the one that was cut, or starts; ``never`` always starts; otherwise the folder of the
            run to continue.
        weights: a checkpoint to start from (official or own, or of transformers); head rows go by
            class name. None: the backbone from ``config.model.backbone_weights``, the rest from
            scratch.
        on_event: called with a dict for every step, epoch and evaluation (``kind``: start | step |
            train | val | done).

    Raises:
        ConfigError, DataError, WeightsError: before the first step, wherever it can be known
            before.
        NonFiniteError: a loss became inf or NaN; names the images and the term, and leaves a file
            to replay it.
    """
    checks.one_start(config.model, weights)
    compute = resolve_compute(device or config.train.device, config.train.precision)
    if config.train.threads is not None and compute.device.type == "cpu":
        torch.set_num_threads(config.train.threads)
    source = coco.resolve(data, cache_dir=Path(runs_dir) / "data")
    train_set, val_set = coco.open_source(source, cache=config.data.cache)
    run, finished = _run_of(
        config,
        coco.joint_fingerprint(train_set, val_set),
        train_set.name,
        seed,
        Path(runs_dir),
        resume,
        compute,
        weights,
    )
    if finished:
        _log.info("%s is done: nothing to train (resume='never' trains it again)", run.folder)
        return run
    try:
        state = _prepare(config, seed, compute, run, train_set, val_set, weights, on_event)
        _announce(state)
        while state.epoch < config.train.epochs:
            _epoch(state)
        if compute.is_main:
            run.finish()
    except (
        BaseException
    ) as error:  # a cell that was interrupted is also a run that failed, and resumable
        if compute.is_main:
            run.fail(error)
        raise
    state.emit(
        {
            "kind": "done",
            "run": str(run.folder),
            "best_AP": state.best_ap,
            "best_epoch": state.best_epoch,
        }
    )
    return run


def _epoch(state: _State) -> None:
    """One epoch of steps, then what belongs between epochs: log, evaluation, checkpoints."""
    config, phase = state.config, state.schedule.phase(state.epoch)
    if phase is Phase.CLEAN and config.schedule.restart_from_best and not state.restarted:
        _restart_from_best(state)
    state.parallel.train()
    batches = loader.train_batches(
        state.train_set,
        config,
        state.schedule,
        state.epoch,
        seed=state.seed,
        rank=state.compute.rank,
        world_size=state.compute.world_size,
        start_batch=state.batch,
        workers=config.data.workers,
        pin_memory=state.compute.device.type == "cuda",
    )
    while True:
        waited = time.perf_counter()
        group = list(islice(batches, config.train.accumulate))
        if len(group) < config.train.accumulate:
            break
        _step(state, group, time.perf_counter() - waited)
        if config.train.checkpoint_steps and state.step % config.train.checkpoint_steps == 0:
            _save_last(state)
    _log_epoch(state, phase)
    done = state.epoch + 1
    improved = (
        _evaluate(state)
        if done == config.train.epochs or done % config.train.eval_every == 0
        else False
    )
    state.epoch, state.batch, state.tally = done, 0, Tally()
    if improved or done == config.train.epochs or done % config.train.checkpoint_every == 0:
        _save_last(state)
        if config.train.keep_checkpoints == "all" and state.compute.is_main:
            checkpoint.save(
                state.run.folder / "checkpoints" / checkpoint.EPOCH.format(done - 1),
                _identity(state) | {"epoch": done - 1, "ema": state.ema.state_dict()},
            )


def _step(state: _State, group: list[Batch], data_seconds: float) -> None:
    """One optimisation step over ``accumulate`` batches: forward, match and loss, backward, clip,
    AdamW, EMA.
    """
    config, compute = state.config, state.compute
    logged = state.step % config.train.log_every == 0
    watch = Stopwatch(compute, on=logged or compute.device.type == "cpu")
    rate = set_learning_rate(state.optimizer, state.schedule.lr_factor(state.step + 1))
    torch.manual_seed(_step_seed(state.seed, state.step, compute.rank))  # denoising draws
    num_targets = sum(len(batch.targets) for batch in group) / len(group)
    losses: dict[str, float] = defaultdict(float)  # means over the batches of the step
    for batch in group:
        batch.targets.check(len(state.train_set.categories))
        images = batch.images.to(compute.device, non_blocking=True)
        targets = batch.targets.to(compute.device, non_blocking=True)
        watch.lap("data")
        with compute.autocast():
            output = state.parallel(images, targets)
        watch.lap("forward")
        table = criterion.compute(
            output,
            targets,
            loss=config.loss,
            match=config.match,
            num_targets=num_targets,
            late=state.schedule.matches_late(state.epoch),
            on_matched=watch.lap,
        )
        of_batch = table.as_dict()
        watch.lap("loss")
        _check_finite(state, batch, of_batch)
        for name, value in of_batch.items():
            losses[name] += value / len(group)
        state.scaler.scale(table.total / len(group)).backward()
        watch.lap("backward")
        _count(state.tally, batch, table, of_batch, rate)
    state.scaler.unscale_(state.optimizer)
    limit = config.optim.clip_norm or math.inf
    norm = nn.utils.clip_grad_norm_(
        [p for g in state.optimizer.param_groups for p in g["params"]], limit
    )
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(state.model)
    watch.lap("step")
    state.step += 1
    state.batch += len(group)
    if watch.on:
        watch.seconds["data"] = watch.seconds.get("data", 0.0) + data_seconds
        state.tally.add_all(watch.seconds, "seconds")
    if logged:
        _record(
            state,
            "step",
            loss=losses["total"],
            lr=rate,
            grad_norm=float(norm),
            losses=losses,
            seconds=watch.seconds,
        )
    state.emit(
        {
            "kind": "step",
            "epoch": state.epoch,
            "step": state.step,
            "steps": state.schedule.steps,
            "loss": losses["total"],
            "epochs": config.train.epochs,
        }
    )


def _count(
    tally: Tally, batch: Batch, table: LossTable, losses: dict[str, float], rate: float
) -> None:
    images = batch.targets.batch_size
    tally.steps += 1
    tally.add(
        targets_per_image=len(batch.targets) / images,
        mosaic_share=batch.mosaic_share,
        mixup_share=float(batch.mixed),
        positives_per_image=table.positives_per_image,
        unmatched_targets=table.unmatched_targets,
        lr=rate,
        loss=losses["total"],
    )
    tally.add_all(losses, "loss")
    tally.add_matched_iou(table.matched_iou)


def _log_epoch(state: _State, phase: Phase) -> None:
    means, histogram = state.tally.means(), state.tally.iou_histogram
    pairs = sum(histogram)
    centres = [(index + 0.5) / len(histogram) for index in range(len(histogram))]
    _record(
        state,
        "train",
        phase=str(phase),
        lr_last=state.optimizer.param_groups[-1]["lr"],
        matched_iou_histogram=histogram,
        matched_iou=sum(c * n for c, n in zip(centres, histogram, strict=True)) / pairs
        if pairs
        else None,
        peak_memory_mib=state.compute.peak_memory_mib(),
        **means,
    )


def _evaluate(state: _State) -> bool:
    """Score the EMA weights on the validation set (main process only) and keep the best; says
    whether these are the best.
    """
    improved = False
    if state.compute.is_main:
        result = evaluation.evaluate(
            state.ema.module, state.val_set, state.config, device=state.compute.device
        )
        _record(
            state,
            "val",
            **result.metrics,
            best_f1=result.f1.f1,
            best_f1_threshold=result.f1.threshold,
            backend=result.backend,
            images=result.images,
            seconds=result.seconds,
        )
        state.run.save_detections("last", result.detections)
        improved = result.metrics["AP"] > state.best_ap
        if improved:
            state.best_ap, state.best_epoch = result.metrics["AP"], state.epoch
            state.run.save_detections("best", result.detections)
            checkpoint.save(
                state.run.folder / "checkpoints" / checkpoint.BEST,
                _identity(state)
                | {
                    "epoch": state.epoch,
                    "AP": state.best_ap,
                    "model": state.model.state_dict(),
                    "ema": state.ema.state_dict(),
                },
            )
        _diagnose(state)
    return state.compute.agreed(improved)  # all processes save together, or none


def _prepare(
    config: Config,
    seed: int,
    compute: Compute,
    run: Run,
    train_set: CocoDataset,
    val_set: CocoDataset,
    weights: str | Path | None,
    on_event: Callable[[Event], None] | None,
) -> _State:
    """Model, optimiser, EMA and schedule; then, where the run was cut, everything as it was."""
    compute.reset_peak_memory()
    batches = loader.steps_per_epoch(train_set, config, world_size=compute.world_size)
    if config.train.accumulate > batches:
        raise ConfigError(
            f"train.accumulate {config.train.accumulate} is above the {batches} batches of an epoch"
        )
    torch.manual_seed(seed)
    model = build_detector(config, num_classes=len(train_set.categories))
    if weights is not None:
        load_weights(model, weights, categories=train_set.categories.as_list())
    elif (pretrained := read_backbone_weights(config.model)) is not None:
        load_backbone_weights(model, pretrained)
    model.to(compute.device)
    parallel: nn.Module = model
    if compute.world_size > 1:
        if compute.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        parallel = nn.parallel.DistributedDataParallel(
            model, device_ids=[compute.device.index] if compute.device.type == "cuda" else None
        )
    state = _State(
        config=config,
        seed=seed,
        compute=compute,
        run=run,
        train_set=train_set,
        val_set=val_set,
        schedule=schedule.build(config, batches // config.train.accumulate),
        model=model,
        parallel=parallel,
        ema=Ema(model, decay=config.ema.decay, warmup_updates=config.ema.warmup_updates),
        optimizer=build_optimizer(model, config.optim),
        scaler=torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16"),
        emit=on_event if on_event is not None and compute.is_main else lambda event: None,
    )
    saved = checkpoint.read_last(run.folder / "checkpoints")
    if saved is not None:
        _restore(state, saved)
        if compute.is_main:
            run.log("event", epoch=state.epoch, step=state.step, event="resumed")
    return state


def _announce(state: _State) -> None:
    """Say before step 1 what this run will do, and whatever of it may surprise."""
    config, plan = state.config, state.schedule
    notices = [
        *plan.notices,
        *state.train_set.notices,
        *(f"val: {notice}" for notice in state.val_set.notices),
    ]
    total = config.data.batch_size * config.train.accumulate * state.compute.world_size
    if total != config.optim.recipe_batch:
        ratio = total / config.optim.recipe_batch
        notices.append(
            f"total batch {total}, while optim.lr {config.optim.lr:g} was chosen for "
            f"{config.optim.recipe_batch}; "
            f"scaled in proportion it would be {config.optim.lr * ratio:g} (optim.backbone_lr "
            f"{config.optim.backbone_lr * ratio:g})"
        )
    most = int(state.train_set.counts.max()) if len(state.train_set) else 0
    if most > config.model.num_queries:
        notices.append(
            f"an image has {most} targets and model.num_queries is {config.model.num_queries}: "
            f"{most - config.model.num_queries} "
            "of them can never be matched; raise model.num_queries"
        )
    if state.compute.is_main:
        phases = [state.schedule.phase(epoch) for epoch in range(plan.epochs)]
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


def _run_of(
    config: Config,
    data_fingerprint: str,
    data_name: str,
    seed: int,
    runs_dir: Path,
    resume: str,
    compute: Compute,
    weights: str | Path | None,
) -> tuple[Run, bool]:
    """The run folder to train in, and whether it is finished already. All processes agree on the
    one that the main process chose.
    """
    chosen: list[Any] = [None, False]
    if compute.is_main:
        run: Run | None = None
        start = start_of(config, weights)
        fingerprint = configs.fingerprint(config, *start)
        identity: dict[str, Any] = {
            "fingerprint": fingerprint,
            "seed": seed,
            "data_fingerprint": data_fingerprint,
        }
        if resume == "auto":
            run = runs.find(runs_dir, **identity)
            if (
                run is not None
                and config.train.keep_checkpoints == "all"
                and run.config.train.keep_checkpoints != "all"
            ):
                run = None  # the same experiment, but it threw away what this one is asked to keep
        elif resume != "never":
            run = Run.open(resume)
            if run.identity != identity:
                raise ConfigError(
                    f"{run.folder} is a run of another experiment: {run.identity} there, "
                    f"{identity} asked for"
                )
        if run is None:
            base = PRESETS[config.preset] if config.preset in PRESETS else Config()
            run = Run.start(
                runs_dir,
                config,
                seed=seed,
                data={"name": data_name, "fingerprint": data_fingerprint},
                overrides=configs.diff(base, config),
                device=str(compute.device),
                fingerprint=fingerprint,
                weights=_weights_record(config, weights, start),
            )
        elif run.status != "done":
            run.reopen(device=str(compute.device))
        chosen = [str(run.folder), run.status == "done"]
    chosen = compute.agreed(chosen)
    return (run if compute.is_main else Run.open(chosen[0])), bool(chosen[1])  # type: ignore[return-value]


def _weights_record(
    config: Config, weights: str | Path | None, start: list[Any]
) -> dict[str, Any] | None:
    """``run.json``'s entry on what the run starts from."""
    if weights is not None:
        return {"path": str(weights), "sha256": start[0]}
    return (
        {"path": config.model.backbone_weights, "sha256": start[0]["backbone"], "part": "backbone"}
        if start
        else None
    )


def _restart_from_best(state: _State) -> None:
    """Enter the clean tail from the best weights so far, as the official recipe does (once; its
    repeated reloads are not reproduced).
    """
    state.restarted = True
    path = state.run.folder / "checkpoints" / checkpoint.BEST
    if not path.exists():
        return
    best = checkpoint.read(path)
    if (
        best["epoch"] >= state.epoch
    ):  # written after the checkpoint from which this run was resumed: not known yet at this point
        return
    state.model.load_state_dict(best["model"])
    state.ema.load_state_dict(best["ema"])
    if state.compute.is_main:
        state.run.log(
            "event",
            epoch=state.epoch,
            step=state.step,
            event="restart_from_best",
            best_epoch=best["epoch"],
            AP=best["AP"],
        )
    _save_last(state)  # from here on a better best.pt must not change where this tail began


def _identity(state: _State) -> dict[str, Any]:
    return {
        "config": configs.to_dict(state.config),
        "categories": state.train_set.categories.as_list(),
        "seed": state.seed,
    }


def _save_last(state: _State) -> None:
    """Write ``last.pt``: all that ``_restore`` needs to go on to the last bit."""
    if state.compute.is_main:
        folder = state.run.folder / "checkpoints"
        checkpoint.save(
            folder / checkpoint.LAST,
            _identity(state)
            | {
                "model": state.model.state_dict(),
                "ema": state.ema.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "scaler": state.scaler.state_dict(),
                "epoch": state.epoch,
                "batch": state.batch,
                "step": state.step,
                "tally": state.tally.state_dict(),
                "best_ap": state.best_ap,
                "best_epoch": state.best_epoch,
                "restarted": state.restarted,
                "rng": torch.get_rng_state(),
            },
            keep_previous=folder / checkpoint.PREVIOUS,
        )
    state.compute.barrier()


def _restore(state: _State, saved: dict[str, Any]) -> None:
    state.model.load_state_dict(saved["model"])
    state.ema.load_state_dict(saved["ema"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.batch, state.step = saved["epoch"], saved["batch"], saved["step"]
    state.tally = Tally(saved["tally"])
    state.best_ap, state.best_epoch, state.restarted = (
        saved["best_ap"],
        saved["best_epoch"],
        saved["restarted"],
    )
    torch.set_rng_state(saved["rng"])


def _check_finite(state: _State, batch: Batch, losses: dict[str, float]) -> None:
    """Stop at the first loss that is inf or NaN: name the term and the images, leave what is needed
    to replay it.
    """
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if not bad:
        return
    term = next((name for name in bad if name != "total"), "total")
    repro = state.run.folder / f"repro_step_{state.step:07d}_rank_{state.compute.rank}.pt"
    checkpoint.save(
        repro,
        _identity(state)
        | {
            "model": state.model.state_dict(),
            "images": batch.images,
            "boxes_cxcywh": batch.targets.boxes_cxcywh,
            "labels": batch.targets.labels,
            "image_index": batch.targets.image_index,
            "image_ids": list(batch.targets.image_ids),
            "losses": losses,
            "epoch": state.epoch,
            "step": state.step,
        },
    )
    raise NonFiniteError(
        f"loss {term} is {losses[term]} at epoch {state.epoch}, step {state.step}, images "
        f"{list(batch.targets.image_ids)}; the batch and the "
        f"weights are in {repro}. Try train.precision=fp32 or a lower optim.lr (now "
        f"{state.config.optim.lr:g})",
        image_ids=batch.targets.image_ids,
        term=term,
        repro=str(repro),
    )


def _diagnose(state: _State) -> None:
    """After three evaluations near zero: the usual causes, with this run's numbers."""
    scores: list[float] = [event["AP50"] for event in _events(state.run, "val")]
    if len(scores) != 3 or max(scores) >= 0.01:
        return
    factor = state.schedule.lr_factor(state.step)
    _log.warning(
        "AP50 is still %.4f after 3 evaluations. To look at: learning rate at %.0f %% of "
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


def _events(run: Run, kind: str) -> Iterator[Event]:
    return (event for event in run.events() if event["kind"] == kind)


def _record(state: _State, kind: str, **values: Any) -> None:
    """One event into the run's log and to the listener."""
    if state.compute.is_main:
        state.run.log(kind, epoch=state.epoch, step=state.step, **values)
    if kind != "step":
        state.emit(
            {
                "kind": kind,
                "epoch": state.epoch,
                "step": state.step,
                "epochs": state.config.train.epochs,
                **values,
            }
        )


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step of each process (an odd multiplier spreads neighbours
    apart).
    """
    return (seed * 1_000_003 + step * 7_919 + rank * 104_729 + 17) % (2**63)
