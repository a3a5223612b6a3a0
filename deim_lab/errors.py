"""The typed errors of the package, and suggestions of the nearest valid name.

Every error here is a ``ValueError``, so one ``except`` can catch all of them. Library code never
calls ``sys.exit``: a notebook kernel survives every error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """An unknown preset or key, a wrong type, or a value out of range."""


class MissingExtraError(ConfigError):
    """An optional package is not installed. Names its user and the extra to install."""


class DataError(ValueError):
    """A data set can't be read. Names the file, the id, the value and the remedy."""


class WeightsError(ValueError):
    """A checkpoint is truncated, not safe to read, or of another model."""


class ExportError(ValueError):
    """A model can't be exported, or the exported file gives other outputs than the model."""


class TargetsError(ValueError):
    """Targets can't be used for training: a label out of range or an invalid box."""


class RunFailedError(ValueError):
    """A run in a separate process ended with an error. Names the run and its message."""


class NonFiniteError(ValueError):
    """A loss, gradient or prediction is not finite.

    ``image_ids`` and ``term`` say where. ``repro`` is the file to replay.
    """

    def __init__(
        self,
        message: str,
        *,
        image_ids: tuple[int, ...] = (),
        term: str = "",
        repro: str | None = None,
    ) -> None:
        super().__init__(message)
        self.image_ids = image_ids
        self.term = term
        self.repro = repro


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the closest known name, or "" if none is close.

    Also compares the last part of a dotted name: ``schedule.epoches`` is close to ``train.epochs``.
    Ignores file suffixes.
    """
    dotted = not str(name).endswith((".yaml", ".yml", ".json", ".ipynb", ".py"))

    def likeness(candidate: str) -> float:
        full_name = difflib.SequenceMatcher(None, str(name), candidate).ratio()
        tail = difflib.SequenceMatcher(
            None, str(name).rpartition(".")[2], candidate.rpartition(".")[2]
        ).ratio()
        return max(full_name, tail) if dotted else full_name

    ranked = sorted({str(item) for item in known}, key=likeness, reverse=True)
    if not ranked or likeness(ranked[0]) < 0.6:
        return ""
    best = [item for item in ranked if likeness(item) > likeness(ranked[0]) - 1e-9][:3]
    return f" (did you mean {' or '.join(map(repr, sorted(best)))}?)"


def first_few(values: Iterable[object], limit: int) -> str:
    """The first ``limit`` values for a message, and the total number if there are more."""
    items = [str(value) for value in values]
    if len(items) <= limit:
        return ", ".join(items)
    return f"{', '.join(items[:limit])}, … {len(items)} in all"
