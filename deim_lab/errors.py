"""The typed errors of the package, and the one way to propose the nearest right name.

Every error here is a ``ValueError``, so a caller who does not care for the difference needs one
``except``. Library code never calls ``sys.exit``: a notebook kernel survives each of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """An unknown preset or key, a wrong type, or a value out of range."""


class MissingExtraError(ConfigError):
    """An optional package that is not installed: names what needs it and the extra to install."""


class DataError(ValueError):
    """A dataset that can't be read as it is: names the file, the id, the value and what to do."""


class WeightsError(ValueError):
    """A checkpoint that is truncated, not readable safely, or of another model."""


class ExportError(ValueError):
    """A model that can't be written in another format, or a file that doesn't compute what the
    model does.
    """


class TargetsError(ValueError):
    """Targets that the model can't be trained on: a label out of range, a box that is no box."""


class RunFailedError(ValueError):
    """A run in a process of its own that ended with an error: names the run and what it said."""


class NonFiniteError(ValueError):
    """A loss, gradient or prediction that is not finite. ``image_ids`` and ``term`` say where,
    ``repro`` what to replay.
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
    """ " (did you mean 'x'?)" for the closest known name, or "" when none is close.

    Of dotted names the last part counts too: ``schedule.epoches`` is close to ``train.epochs``.
    That of a file's name says nothing.
    """
    dotted = not str(name).endswith((".yaml", ".yml", ".json", ".ipynb"))

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, str(name), candidate).ratio()
        tail = difflib.SequenceMatcher(
            None, str(name).rpartition(".")[2], candidate.rpartition(".")[2]
        ).ratio()
        return max(whole, tail) if dotted else whole

    ranked = sorted({str(item) for item in known}, key=likeness, reverse=True)
    if not ranked or likeness(ranked[0]) < 0.6:
        return ""
    best = [item for item in ranked if likeness(item) > likeness(ranked[0]) - 1e-9][:3]
    return f" (did you mean {' or '.join(map(repr, sorted(best)))}?)"


def first_few(values: Iterable[object], limit: int) -> str:
    """The first ``limit`` values and, where there are more, the number of all: for a message."""
    items = [str(value) for value in values]
    if len(items) <= limit:
        return ", ".join(items)
    return f"{', '.join(items[:limit])}, … {len(items)} in all"
