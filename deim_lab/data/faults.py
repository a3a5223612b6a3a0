"""Collect the faults of a data set, so that one error names all that can be known at once."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from deim_lab.errors import DataError

# Kinds from the worst to the mildest: a fault that spoils all labels stands before one that spoils
# one of them.
KINDS = (
    "file",
    "images-absent",
    "boxes-normalised",
    "boxes-format",
    "nothing-to-train",
    "nothing-to-score",
    "category",
    "image",
    "annotation",
    "size",
    "picture",
)


@dataclass(frozen=True)
class Fault:
    """Faults of one kind: the message of the first, and how many there are."""

    kind: str
    text: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.text} ({self.count - 1} more of this kind)" if self.count > 1 else self.text


class Faults:
    """A growing list of faults: the first message of each kind, and a count."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def __bool__(self) -> bool:
        return bool(self._first)

    def add(self, kind: str, text: str, key: str = "") -> None:
        """Add one fault. ``key`` separates faults of one kind that need different remedies."""
        assert kind in KINDS, kind
        place = (kind, key)
        self._first.setdefault(place, text)
        self._counts[place] = self._counts.get(place, 0) + 1

    @contextlib.contextmanager
    def collecting(self, kind: str) -> Iterator[None]:
        """Add a ``DataError`` of the block instead of raising it."""
        try:
            yield
        except DataError as error:
            self.add(kind, str(error), _template(str(error)))

    def listed(self) -> tuple[Fault, ...]:
        """All faults, the worst first."""
        places = sorted(self._first, key=lambda place: KINDS.index(place[0]))
        return tuple(Fault(place[0], self._first[place], self._counts[place]) for place in places)

    def stop(self) -> None:
        """Raise ``FaultyDataError`` with all faults; do nothing without any."""
        if self:
            raise FaultyDataError(self.listed())


class FaultyDataError(DataError):
    """A data set has faults. ``faults`` has each of them, the worst first."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__(_message(faults))
        self.faults = faults

    def __reduce__(self) -> tuple[type[FaultyDataError], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)


def _template(text: str) -> str:
    """The message without its values, so that equal faults of other places count as one kind."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|-?[\d.]+", "", text)


def _message(faults: tuple[Fault, ...]) -> str:
    if len(faults) == 1:
        return str(faults[0])
    lines = [f"{number}. {fault}" for number, fault in enumerate(faults, start=1)]
    return "\n".join([f"the data set has {len(faults)} faults, the worst first:", *lines])
