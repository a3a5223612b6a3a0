"""Choose the run to continue, and save and restore its state exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deim_lab import config as configs, runs
from deim_lab.config import Config
from deim_lab.config.presets import PRESETS
from deim_lab.errors import ConfigError
from deim_lab.runs import Run
from deim_lab.training import checkpoint
from deim_lab.training.compute import Compute
from deim_lab.training.optimizer import restore_optimizer
from deim_lab.training.state import State
from deim_lab.training.tally import Tally


def run_of(
    config: Config,
    identity: Mapping[str, Any],
    *,
    runs_dir: Path,
    resume: str,
    compute: Compute,
    data_name: str,
    weights: dict[str, Any] | None,
) -> tuple[Run, bool]:
    """The run folder to train in, and whether its run is already finished.

    All processes use the folder that the main process chose.

    Args:
        config: the experiment.
        identity: fingerprint, seed and data fingerprint; runs with the same values are the same.
        runs_dir, resume: see ``train``.
        compute: device and rank of this process.
        data_name: name of the data set, for the record of a new run.
        weights: the record of the weights that a new run starts from.
    """
    if not compute.is_main:
        folder, finished = compute.agreed(("", False))
        return Run.open(folder), finished
    run = _run_to_continue(config, identity, runs_dir, resume)
    if run is None:
        base = PRESETS[config.preset] if config.preset in PRESETS else Config()
        run = Run.start(
            runs_dir,
            config,
            seed=identity["seed"],
            data={"name": data_name, "fingerprint": identity["data_fingerprint"]},
            overrides=configs.diff(base, config),
            device=str(compute.device),
            fingerprint=identity["fingerprint"],
            weights=weights,
        )
    elif run.status != "done":
        run.reopen(device=str(compute.device))
    _, finished = compute.agreed((str(run.folder), run.status == "done"))
    return run, finished


def _run_to_continue(
    config: Config, identity: Mapping[str, Any], runs_dir: Path, resume: str
) -> Run | None:
    """The run that ``resume`` selects; None: start a new run."""
    if resume == "never":
        return None
    if resume != "auto":
        run = Run.open(resume)
        if run.identity != identity:
            raise ConfigError(
                f"{run.folder} is a run of another experiment: it has {run.identity}, expected "
                f"{identity}"
            )
        return run
    earlier = runs.find(runs_dir, **identity)
    keeps_all = config.train.keep_checkpoints == "all"
    if earlier is not None and keeps_all and earlier.config.train.keep_checkpoints != "all":
        return None  # the same experiment, but it deleted checkpoints that this run must keep
    return earlier


def save_last(state: State) -> None:
    """Write ``last.pt``: everything that ``restore`` needs to continue the run exactly."""
    if state.compute.is_main:
        folder = state.run.folder / "checkpoints"
        content = {
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
        }
        checkpoint.save(
            folder / checkpoint.LAST,
            state.description() | content,
            keep_previous=folder / checkpoint.PREVIOUS,
        )
    state.compute.barrier()


def save_best(state: State) -> None:
    """Write ``best.pt``: the weights with the highest AP so far."""
    content = {
        "epoch": state.epoch,
        "AP": state.best_ap,
        "model": state.model.state_dict(),
        "ema": state.ema.state_dict(),
    }
    path = state.run.folder / "checkpoints" / checkpoint.BEST
    checkpoint.save(path, state.description() | content)


def save_epoch(state: State, epoch: int) -> None:
    """Write the EMA weights after ``epoch``, for runs that keep all checkpoints."""
    if state.compute.is_main:
        path = state.run.folder / "checkpoints" / checkpoint.EPOCH.format(epoch)
        content = {"epoch": epoch, "ema": state.ema.state_dict()}
        checkpoint.save(path, state.description() | content)


def restore(state: State) -> None:
    """Restore the state of an interrupted run from its last checkpoint, if there is one."""
    saved = checkpoint.read_last(state.run.folder / "checkpoints")
    if saved is None:
        return
    state.model.load_state_dict(saved["model"])
    state.ema.load_state_dict(saved["ema"])
    restore_optimizer(state.optimizer, saved["optimizer"])
    state.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.batch, state.step = saved["epoch"], saved["batch"], saved["step"]
    state.tally = Tally(saved["tally"])
    state.best_ap, state.best_epoch = saved["best_ap"], saved["best_epoch"]
    state.restarted = saved["restarted"]
    if state.compute.is_main:
        state.run.log("event", epoch=state.epoch, step=state.step, event="resumed")


def restart_from_best(state: State) -> None:
    """Start the clean phase from the best weights so far, as the official recipe does.

    This happens once. The official code's repeated reloads are not reproduced.
    """
    state.restarted = True
    path = state.run.folder / "checkpoints" / checkpoint.BEST
    if not path.exists():
        return
    best = checkpoint.read(path)
    if best["epoch"] >= state.epoch:
        # Written after the checkpoint from which this run resumed, so not yet valid at this epoch.
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
    save_last(state)  # a better best.pt must not change the start of this phase on a later resume
