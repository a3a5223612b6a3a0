"""Progress lines of a sweep: one per finished run, plus a periodic status."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from deim_lab.sweep.cost import in_words
from deim_lab.sweep.spec import RunRecord, RunSpec


class Progress:
    """Count the runs of a sweep and estimate the time left.

    Args:
        costs: run's index → expected seconds; None: not known. As soon as a run of this sweep has
            ended, the times of this sweep's runs count for more.
        workers: number of runs at a time.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        costs: Mapping[int, float | None],
        *,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs = {spec.index: spec for spec in specs}
        self._costs, self._workers, self._clock = dict(costs), workers, clock
        self._began: dict[int, float] = {}
        self._ended: dict[int, RunRecord] = {}
        self._guard = threading.RLock()  # one thread reports starts, another thread reports ends

    def start(self, index: int) -> None:
        """Note that a run has begun."""
        with self._guard:
            self._began.setdefault(index, self._clock())

    def end(self, record: RunRecord) -> None:
        """Note that a run has ended."""
        with self._guard:
            self._ended[record.index] = record

    def is_known(self, index: int) -> bool:
        """Whether a run has begun or ended."""
        with self._guard:
            return index in self._began or index in self._ended

    @property
    def running(self) -> list[RunSpec]:
        """The runs that have begun and not ended."""
        with self._guard:
            return [self._specs[index] for index in self._began if index not in self._ended]

    def seconds_left(self, epochs: Mapping[int, tuple[int, int]] | None = None) -> float | None:
        """Estimated seconds until the last run ends; None without any basis.

        ``epochs`` as in ``summary``: the time left of a run is at least the time of its remaining
        epochs at the pace so far.
        """
        left, far = [], epochs or {}
        with self._guard:
            for index in self._specs.keys() - self._ended.keys():
                expected = self._expected(index)
                if expected is None:
                    return None
                gone = self._clock() - self._began[index] if index in self._began else 0.0
                done, planned = far.get(index, (0, 0))
                left.append(
                    max(0.0, expected - gone, gone * (planned - done) / done if done else 0.0)
                )
        return max(max(left), sum(left) / self._workers) if left else 0.0

    def line(self, record: RunRecord, score: str = "") -> str:
        """The line of a run: ``[3/12] done: DEIM s0, AP 0.312, 41 s; about 3 min left``."""
        facts = [
            self._specs[record.index].label,
            *([score] if score else []),
            in_words(record.seconds),
        ]
        if record.attempts > 1:
            facts.append(f"{record.attempts} attempts")
        error = (
            f"\n  {record.error['type']}: {_short(record.error['message'])}" if record.error else ""
        )
        return (
            f"[{len(self._ended)}/{len(self._specs)}] {record.status}: "
            f"{', '.join(facts)}{self._left()}{error}"
        )

    def summary(self, epochs: Mapping[int, tuple[int, int]]) -> str:
        """The status line with the runs in progress.

        ``epochs``: run's index → (finished epochs, planned epochs), for runs where they are known.
        """
        far = {index: f" epoch {done}/{planned}" for index, (done, planned) in epochs.items()}
        shown = [f"{spec.label}{far.get(spec.index, '')}" for spec in self.running]
        waiting = len(self._specs) - len(self._ended) - len(shown)
        return (
            f"[{len(self._ended)}/{len(self._specs)}] running: {', '.join(shown)}; {waiting} "
            f"waiting{self._left(epochs)}"
        )

    def _left(self, epochs: Mapping[int, tuple[int, int]] | None = None) -> str:
        if len(self._ended) == len(self._specs):
            return ""
        left = self.seconds_left(epochs)
        return "" if left is None else f"; about {in_words(left)} left"

    def _expected(self, index: int) -> float | None:
        """Expected seconds of a run.

        The first that is known: median of the same arm in this sweep, the planned cost, median of
        all arms in this sweep.
        """
        done = [record for record in self._ended.values() if record.status == "done"]
        same = [record.seconds for record in done if record.arm == self._specs[index].arm]
        planned = self._costs.get(index)
        if same:
            return statistics.median(same)
        return (
            planned
            if planned is not None or not done
            else statistics.median(record.seconds for record in done)
        )


def _short(text: str, most: int = 300) -> str:
    """The first line of a message."""
    line = next((item.strip() for item in text.splitlines() if item.strip()), "")
    return line if len(line) <= most else f"{line[:most]}…"
