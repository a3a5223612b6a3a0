"""What a sweep says while it runs: a line an end of a run, and now and then one of what is under
way and how long it will take.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from deim_lab.sweep.cost import in_words
from deim_lab.sweep.spec import RunRecord, RunSpec


class Progress:
    """Counts runs and reckons the time left.

    Args:
        costs: run's index → seconds that are expected of it; None: not known. What runs of this
            sweep take counts for more, as soon as one has ended.
        workers: runs at a time.
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
        self._guard = threading.RLock()  # begun is seen by one thread, ended by another

    def start(self, index: int) -> None:
        """A worker has begun with a run."""
        with self._guard:
            self._began.setdefault(index, self._clock())

    def end(self, record: RunRecord) -> None:
        """A run has ended."""
        with self._guard:
            self._ended[record.index] = record

    def is_known(self, index: int) -> bool:
        """Whether a run has begun or ended."""
        with self._guard:
            return index in self._began or index in self._ended

    @property
    def running(self) -> list[RunSpec]:
        """Runs under way."""
        with self._guard:
            return [self._specs[index] for index in self._began if index not in self._ended]

    def seconds_left(self, epochs: Mapping[int, tuple[int, int]] | None = None) -> float | None:
        """Until the last run ends; None while there is nothing to go by. ``epochs`` as ``summary``
        takes them: no run is taken to be nearer its end than its epochs at their pace so far.
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
        """``[3/12] done: DEIM s0, AP 0.312, 41 s; about 3 min left``."""
        said = [
            self._specs[record.index].label,
            *([score] if score else []),
            in_words(record.seconds),
        ]
        if record.attempts > 1:
            said.append(f"{record.attempts} attempts")
        error = (
            f"\n  {record.error['type']}: {_short(record.error['message'])}" if record.error else ""
        )
        return (
            f"[{len(self._ended)}/{len(self._specs)}] {record.status}: "
            f"{', '.join(said)}{self._left()}{error}"
        )

    def summary(self, epochs: Mapping[int, tuple[int, int]]) -> str:
        """What is under way; ``epochs``: run's index → epochs that are over, and of how many, where
        that is known.
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
        """Of the same arm in this sweep, else as planned, else of any arm in this sweep."""
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
