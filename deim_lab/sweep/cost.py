"""What runs will take, from what finished runs took on this disk; unknown where there is none to go
by.
"""

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
    """Seconds of training, None where unknown; ``basis``: what the finished runs have in common
    with it; ``runs``: how many they are.
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
    """What finished runs took. Those of another version of the lab, whose config can't be read, are
    left out.
    """
    found = []
    for run in known:
        if run.status != "done" or not run.info.get("seconds"):
            continue
        try:
            config = run.config
        except ValueError as error:
            _log.debug("%s is no guide to time: %s", run.folder.name, error)
            continue
        found.append(
            _Finished(
                config,
                _of_an_epoch(config),
                run.info["data"]["fingerprint"],
                str(run.info.get("device") or "").partition(":")[0],
                run.info["seconds"] / config.train.epochs,
            )
        )
    return found


def estimate(
    config: Config,
    data_fingerprint: str,
    finished: Sequence[_Finished],
    *,
    kind: str | None,
    share: float = 1.0,
) -> Cost:
    """Seconds of ``share`` of a run of ``config``: the median of the finished runs that are most
    like it.

    Args:
        kind: ``cpu`` or ``cuda``: of runs on such a device only; None: on any.
        share: of its epochs that are left, in [0, 1].
    """
    there = [
        item
        for item in finished
        if item.data_fingerprint == data_fingerprint and (kind is None or item.device == kind)
    ]
    epoch, whole = _of_an_epoch(config), configs.fingerprint(config)
    same = [item for item in there if item.fingerprint == epoch]
    exact = [item for item in same if configs.fingerprint(item.config) == whole]
    alike = [
        item
        for item in there
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
    """The time of several runs side by side, in words, with what it goes by."""
    if not costs:
        return "nothing to do"
    known = [item.seconds for item in costs if item.seconds is not None]
    if not known:
        return "time unknown: no finished run to go by"
    together = max(max(known), sum(known) / workers)
    bases = list(dict.fromkeys(item.basis for item in costs if item.basis))
    blank = len(costs) - len(known)
    unknown = f" and {_counted(blank, 'run')} of unknown time" if blank else ""
    return (
        f"about {in_words(together)}{unknown} with {_counted(workers, 'worker')}, going by "
        f"finished runs of {' or '.join(bases)}"
    )


def epochs_done(run: Run) -> int:
    """Whole epochs in a run's log; 0 where it has none yet, or it can't be read (training itself
    says so then).
    """
    try:
        return max(
            (event["epoch"] + 1 for event in run.events() if event["kind"] == "train"), default=0
        )
    except DataError as error:
        _log.debug("%s", error)
        return 0


def in_words(seconds: float) -> str:
    """``41 s``, ``12 min``, ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 1440:.1f} days"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def _of_an_epoch(config: Config) -> str:
    """Fingerprint of all but the length."""
    return configs.fingerprint(replace(config, train=replace(config.train, epochs=1)))
