"""Estimate the time of runs from finished runs on this disk."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deim_lab import config as configs
from deim_lab.config import Config
from deim_lab.errors import DataError

if TYPE_CHECKING:
    from deim_lab.runs import Run

SAME = "the same configuration"
SAME_BUT_LENGTH = "the same configuration at another length"
ALIKE = "the same preset, input size and data"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """Estimated seconds of training of one run; None where unknown.

    Attributes:
        basis: what this run and the finished runs have in common.
        runs: number of finished runs that the estimate is based on.
    """

    seconds: float | None
    basis: str = ""
    runs: int = 0


@dataclass(frozen=True)
class _Finished:
    config: Config
    fingerprint: str
    data_fingerprint: str
    device: str
    seconds_per_epoch: float


def history(known: Iterable[Run]) -> list[_Finished]:
    """Times of the finished runs. Leaves out runs whose config this version can't read."""
    finished = []
    for run in known:
        if run.status != "done" or not run.info.get("seconds"):
            continue
        try:
            config = run.config
        except ValueError as error:
            _log.debug("%s is left out of the time estimate: %s", run.folder.name, error)
            continue
        finished.append(
            _Finished(
                config,
                _fingerprint_without_length(config),
                run.info["data"]["fingerprint"],
                str(run.info.get("device") or "").partition(":")[0],
                run.info["seconds"] / config.train.epochs,
            )
        )
    return finished


def estimate(
    config: Config,
    data_fingerprint: str,
    finished: Sequence[_Finished],
    *,
    kind: str | None,
    share: float = 1.0,
) -> Cost:
    """Estimate the seconds of a run of ``config`` from the most similar finished runs.

    The estimate is the median of their seconds per epoch, times the epochs left.

    Args:
        kind: ``cpu`` or ``cuda``: use runs on such a device only; None: on any device.
        share: share of the run's epochs that is left, in [0, 1].
    """
    comparable = [
        item
        for item in finished
        if item.data_fingerprint == data_fingerprint and (kind is None or item.device == kind)
    ]
    per_epoch, with_length = _fingerprint_without_length(config), configs.fingerprint(config)
    same = [item for item in comparable if item.fingerprint == per_epoch]
    exact = [item for item in same if configs.fingerprint(item.config) == with_length]
    alike = [
        item
        for item in comparable
        if (item.config.preset, item.config.data.input_size)
        == (config.preset, config.data.input_size)
    ]
    for items, basis in ((exact, SAME), (same, SAME_BUT_LENGTH), (alike, ALIKE)):
        if items:
            seconds = (
                statistics.median(item.seconds_per_epoch for item in items)
                * config.train.epochs
                * share
            )
            return Cost(seconds, basis, len(items))
    return Cost(None)


def summary(costs: Sequence[Cost], *, workers: int) -> str:
    """Total time of several runs with ``workers`` at a time, and the basis of the estimate."""
    if not costs:
        return "nothing to do"
    seconds = [item.seconds for item in costs if item.seconds is not None]
    if not seconds:
        return "time unknown: no comparable run has finished"
    total = max(max(seconds), sum(seconds) / workers)
    bases = list(dict.fromkeys(item.basis for item in costs if item.basis))
    missing = len(costs) - len(seconds)
    unknown = f" and {_counted(missing, 'run')} of unknown time" if missing else ""
    return (
        f"about {in_words(total)}{unknown} with {_counted(workers, 'worker')}, based on "
        f"finished runs of {' or '.join(bases)}"
    )


def epochs_done(run: Run) -> int:
    """Number of complete epochs in a run's log; 0 without a readable log.

    Training itself reports a log that can't be read.
    """
    try:
        return max(
            (event["epoch"] + 1 for event in run.events() if event["kind"] == "train"), default=0
        )
    except DataError as error:
        _log.debug("%s", error)
        return 0


def in_words(seconds: float) -> str:
    """A time as ``41 s``, ``12 min``, ``3 h 20 min`` or ``2.5 days``."""
    rounded = round(seconds)
    if rounded < 90:
        return f"{rounded} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 1440:.1f} days"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def _fingerprint_without_length(config: Config) -> str:
    """Fingerprint of everything in a config except the number of epochs."""
    return configs.fingerprint(replace(config, train=replace(config.train, epochs=1)))
