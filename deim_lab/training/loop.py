"""The training loop, top to bottom: ``train`` → ``_epoch`` → ``_step`` → ``_evaluate``.

A run is a function of (config, data set, seed). All randomness comes from the seed and the position
(epoch, step, sample), never from earlier computation. An interrupted run therefore continues from
its last checkpoint exactly as without the interruption.

``record`` writes the log, ``resume`` saves and restores interrupted runs, and ``state`` holds
everything that changes.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deim_lab import config as configs, evaluation, matching, schedule
from deim_lab.config import Config, plugins
from deim_lab.config.values import coerce
from deim_lab.data import coco, loader
from deim_lab.data.coco import CocoDataset
from deim_lab.detector.detector import build_detector
from deim_lab.errors import ConfigError
from deim_lab.host.files import user_path
from deim_lab.losses import criterion
from deim_lab.runs import Run
from deim_lab.schedule import Phase
from deim_lab.structures import Batch, Targets
from deim_lab.training import record, resume as resuming
from deim_lab.training.compute import Compute, resolve as resolve_compute
from deim_lab.training.ema import Ema
from deim_lab.training.finite import finite_losses
from deim_lab.training.optimizer import build_optimizer, set_learning_rate
from deim_lab.training.record import StepResult
from deim_lab.training.state import Event, State
from deim_lab.training.tally import Stopwatch, Tally
from deim_lab.weights.start import Start, read_start

_log = logging.getLogger(__name__)


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
        config: a complete experiment, e.g.
            ``presets.preset("deim_dfine_n", {"train.epochs": 30})``.
        data: any argument of ``data.coco.resolve``: a folder in COCO layout, explicit images and
            annotations, or None for the embedded set.
        seed: seed of initialisation, shuffling, augmentation and denoising.
        device: ``auto | cpu | cuda | cuda:N``; None: ``config.train.device``.
        resume: ``auto`` returns the finished run of the same config, data and seed, continues an
            interrupted one, or starts a new one. ``never`` always starts a new one. Any other value
            is the folder of the run to continue.
        weights: a checkpoint to start from (official, of this project, or of transformers); head
            rows are matched by class name. None: only the backbone starts from
            ``config.model.backbone_weights``.
        on_event: called with a dict for every step, epoch and evaluation (``kind``: start | step |
            train | val | done).

    Raises:
        ConfigError, DataError, WeightsError: before the first step, if the error can be detected
            before.
        NonFiniteError: a loss became inf or NaN. Names the images and the term, and writes a file
            to reproduce the error.
    """
    plugins.ready(config)
    seed, start = coerce("seed", seed, int), read_start(config, weights)
    compute = resolve_compute(device or config.train.device, config.train.precision)
    source = coco.resolve(data)
    train_set, val_set = coco.open_source(source, config.data)
    run, finished = _open_run(
        config, seed, compute, train_set, val_set, start, user_path(runs_dir), resume
    )
    if finished:
        _log.info("%s is already done (resume='never' trains it again)", run.folder)
        return run
    try:
        state = _prepare(config, seed, compute, run, train_set, val_set, start, on_event)
        record.announce(state)
        while state.epoch < config.train.epochs:
            _epoch(state)
        if compute.is_main:
            run.finish()
    except BaseException as error:
        # An interrupted notebook cell also leaves a failed run, which can be resumed.
        if compute.is_main:
            run.fail(error)
        raise
    record.done(state)
    return run


def _epoch(state: State) -> None:
    """Train one epoch, then write the log, evaluate and save checkpoints."""
    config, phase = state.config.train, state.schedule.phase(state.epoch)
    restarts = phase is Phase.CLEAN and state.config.schedule.restart_from_best
    if restarts and not state.restarted:
        resuming.restart_from_best(state)

    state.parallel.train()
    batches = loader.train_batches(
        state.train_set,
        state.config,
        state.schedule,
        state.epoch,
        seed=state.seed,
        rank=state.compute.rank,
        world_size=state.compute.world_size,
        start_batch=state.batch,
        workers=state.config.data.workers,
        pin_memory=state.compute.device.type == "cuda",
    )
    while True:
        logged = state.step % config.log_every == 0
        watch = Stopwatch(state.compute, on=logged or state.compute.device.type == "cpu")
        with watch("data"):
            composed = list(islice(batches, config.accumulate))
        if len(composed) < config.accumulate:
            break
        result = _step(state, composed, watch)
        record.step(state, result, watch, logged=logged)
        if config.checkpoint_steps and state.step % config.checkpoint_steps == 0:
            resuming.save_last(state)
    record.epoch(state)

    done = state.epoch + 1
    is_last = done == config.epochs
    improved = _evaluate(state) if is_last or done % config.eval_every == 0 else False
    state.epoch, state.batch, state.tally = done, 0, Tally()
    if improved or is_last or done % config.checkpoint_every == 0:
        resuming.save_last(state)
        if config.keep_checkpoints == "all":
            resuming.save_epoch(state, done - 1)


def _step(state: State, batches: Sequence[Batch], watch: Stopwatch) -> StepResult:
    """Do one optimisation step over ``train.accumulate`` batches."""
    config, compute = state.config, state.compute
    late = state.schedule.matches_late(state.epoch)
    num_targets = sum(len(batch.targets) for batch in batches) / len(batches)
    lr = set_learning_rate(state.optimizer, state.schedule.lr_factor(state.step + 1))
    torch.manual_seed(_step_seed(state.seed, state.step, compute.rank))  # denoising draws
    mean_losses: dict[str, float] = defaultdict(float)
    for batch in batches:
        with watch("data"):
            images, targets = _on_device(state, batch)
        with watch("forward"), compute.autocast():
            output = state.parallel(images, targets)
        with watch("match"):
            matches = matching.assign(output, targets, config.match, late=late)
        with watch("loss"):
            table = criterion.compute(
                output,
                targets,
                matches,
                loss=config.loss,
                match=config.match,
                num_targets=num_targets,
            )
            losses = finite_losses(state, batch, table)
        with watch("backward"):
            state.scaler.scale(table.total / len(batches)).backward()
        record.batch(state, batch, table, losses, lr)
        for name, value in losses.items():
            mean_losses[name] += value / len(batches)
    with watch("step"):
        state.scaler.unscale_(state.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(
            [weight for group in state.optimizer.param_groups for weight in group["params"]],
            config.optim.clip_norm or math.inf,
        )
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.ema.update(state.model)
    state.step += 1
    state.batch += len(batches)
    return StepResult(mean_losses, lr, grad_norm)


def _evaluate(state: State) -> bool:
    """Score the EMA weights on the validation set, and save them if they are the best so far.

    Only the main process evaluates. Returns in all processes whether the weights are the best.
    """
    improved = False
    if state.compute.is_main:
        result = evaluation.evaluate(
            state.ema.module, state.val_set, state.config, device=state.compute.device
        )
        record.evaluated(state, result)
        improved = result.metrics["AP"] > state.best_ap
        if improved:
            state.best_ap, state.best_epoch = result.metrics["AP"], state.epoch
            state.run.save_detections("best", result.detections)
            resuming.save_best(state)
        record.diagnose(state)
    return state.compute.agreed(improved)  # all processes save together, or none


def _on_device(state: State, batch: Batch) -> tuple[Tensor, Targets]:
    """Images and checked targets, moved to the model's device."""
    batch.targets.check(len(state.train_set.categories))
    device = state.compute.device
    images = batch.images.to(device, non_blocking=True)
    return images, batch.targets.to(device, non_blocking=True)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A different seed for each step of each process.

    Odd multipliers separate neighbouring seeds.
    """
    return (seed * 1_000_003 + step * 7_919 + rank * 104_729 + 17) % (2**63)


def _open_run(
    config: Config,
    seed: int,
    compute: Compute,
    train_set: CocoDataset,
    val_set: CocoDataset,
    start: Start,
    runs_dir: Path,
    resume: str,
) -> tuple[Run, bool]:
    """The run folder of this experiment (new or continued), and whether the run is finished."""
    identity = {
        "fingerprint": configs.fingerprint(config, *start.identity),
        "seed": seed,
        "data_fingerprint": coco.joint_fingerprint(train_set, val_set),
    }
    return resuming.run_of(
        config,
        identity,
        runs_dir=runs_dir,
        resume=resume,
        compute=compute,
        data_name=train_set.name,
        weights=start.record(),
    )


def _prepare(
    config: Config,
    seed: int,
    compute: Compute,
    run: Run,
    train_set: CocoDataset,
    val_set: CocoDataset,
    start: Start,
    on_event: Callable[[Event], None] | None,
) -> State:
    """Build model, optimiser, EMA and schedule, and restore them for an interrupted run."""
    compute.reset_peak_memory()
    if config.train.threads is not None and compute.device.type == "cpu":
        torch.set_num_threads(config.train.threads)
    batches = loader.steps_per_epoch(train_set, config, world_size=compute.world_size)
    if config.train.accumulate > batches:
        raise ConfigError(
            f"train.accumulate {config.train.accumulate} is above the {batches} batches of an "
            f"epoch. Lower it, or lower data.batch_size"
        )
    torch.manual_seed(seed)
    model = build_detector(config, num_classes=len(train_set.categories))
    start.fill(model, train_set.categories.as_list())
    model.to(compute.device)
    bare, parallel = _wrap(model, compute)
    state = State(
        config=config,
        seed=seed,
        compute=compute,
        run=run,
        train_set=train_set,
        val_set=val_set,
        schedule=schedule.build(config, batches // config.train.accumulate),
        model=bare,
        parallel=parallel,
        ema=Ema(bare, decay=config.ema.decay, warmup_updates=config.ema.warmup_updates),
        optimizer=build_optimizer(bare, config.optim),
        scaler=torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16"),
        emit=on_event if on_event is not None and compute.is_main else lambda event: None,
    )
    if config.data.val_share is not None and compute.is_main:
        record.division(state)
    resuming.restore(state)
    return state


def _wrap(model: nn.Module, compute: Compute) -> tuple[nn.Module, nn.Module]:
    """The bare detector, and the module that computes its forward in all processes."""
    if compute.world_size == 1:
        return model, model
    if compute.device.type != "cuda":
        return model, nn.parallel.DistributedDataParallel(model)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    devices = [compute.device.index]
    return model, nn.parallel.DistributedDataParallel(model, device_ids=devices)
