"""Tables of named entries: a new loss or matching needs one entry.

A table holds the built-in entries and the entries that you add, from a module or a notebook cell.
This module names the built-in entries without importing torch, so checking a config is fast.
``losses.terms`` and ``matching.assignment`` attach the functions that compute.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from deim_lab import palette
from deim_lab.errors import ConfigError, nearest

Json = Any

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PHASES = tuple(palette.PHASES)  # the values of ``schedule.Phase``
_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")


@dataclass(frozen=True)
class Entry:
    """Base of all entries: the function that computes, a label and a colour.

    Attributes:
        function: computes. None if a stored run names an entry whose code is not loaded.
        label: name in figures and tables; "": the entry's name.
        colour: ``#RRGGBB`` in figures; None: the next free colour.
    """

    function: Callable[..., Any] | None
    label: str = dataclasses.field(default="", kw_only=True)
    colour: str | None = dataclasses.field(default=None, kw_only=True)

    def values(self) -> dict[str, Json]:
        """Every field except the function, as JSON values."""
        fields = [item.name for item in dataclasses.fields(self) if item.name != "function"]
        plain: dict[str, Json] = json.loads(json.dumps({n: getattr(self, n) for n in fields}))
        return plain


@dataclass(frozen=True)
class Term(Entry):
    """A classification loss: an entry of ``losses.CLASSIFICATION``.

    ``function(logits, target, iou, *, gamma, alpha)`` takes three tensors ``[..., B, Q, C]`` and
    returns the elementwise loss in the same shape (``losses.terms``). A function whose signature
    lacks ``gamma`` or ``alpha`` is called without that argument.

    Attributes:
        gamma: γ if ``loss.gamma`` is None; None: the default in the function's signature.
        alpha: α if ``loss.alpha`` is None; None: the default in the function's signature.
        takes: names of the arguments that the function takes, among ``gamma`` and ``alpha``; None:
            read from its signature.
        signed_quality: whether the loss accepts a quality below 0. GIoU can be below 0.
    """

    gamma: float | None = dataclasses.field(default=None, kw_only=True)
    alpha: float | None = dataclasses.field(default=None, kw_only=True)
    takes: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)
    signed_quality: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.takes is not None:
            return
        if self.function is None:
            raise ConfigError("Term: function is None. Give the function that computes the loss.")
        parameters = inspect.signature(self.function).parameters
        takes = tuple(name for name in ("gamma", "alpha") if name in parameters)
        object.__setattr__(self, "takes", takes)
        for name in ("gamma", "alpha"):
            given = getattr(self, name)
            if name not in takes and given is not None:
                raise ConfigError(
                    f"Term: {name}={given!r} would have no effect. "
                    f"The function {_name_of(self.function)} has no parameter {name!r}."
                )
            if name in takes and given is None:
                default = parameters[name].default
                if default is inspect.Parameter.empty:
                    raise ConfigError(
                        f"Term: the function {_name_of(self.function)} has no default for "
                        f"{name!r}. Give one: Term(…, {name}=…)."
                    )
                object.__setattr__(self, name, default)

    def default(self, name: str) -> float:
        """Default γ (``gamma``) or α (``alpha``) of the loss.

        Raises ``ConfigError`` if there is no default.
        """
        value: float | None = getattr(self, name)
        if value is None:
            raise ConfigError(
                f"The loss {self.label or 'without a label'} has no default for {name}."
            )
        return value


@dataclass(frozen=True)
class Kind(Entry):
    """A kind of matching: an entry of ``matching.KINDS``.

    ``function(logits, boxes_cxcywh, targets, match)`` takes ``[K, B, Q, C]`` and ``[K, B, Q, 4]``
    of the ``K`` levels, the ``Targets`` and the ``MatchConfig``. It returns ``Matches`` on the CPU
    with a level axis, ordered by level, image and query. ``match.iou_power`` is None except in the
    late part of a run.

    Attributes:
        divided_by: divisor of the summed losses. ``targets``: the targets of the batch times the
            query groups. ``pairs``: the matched pairs of each level, so more positives don't
            increase the loss.
        argument: least and largest whole number ``k`` of ``match.kind`` "name(k)"; None: the kind
            takes no number.
        query_groups: whether ``k`` is the number of query groups in training.
        late_cost: whether ``match.iou_power`` changes the cost of this kind.
    """

    divided_by: Literal["targets", "pairs"] = dataclasses.field(default="targets", kw_only=True)
    argument: tuple[int, int] | None = dataclasses.field(default=None, kw_only=True)
    query_groups: bool = dataclasses.field(default=False, kw_only=True)
    late_cost: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.divided_by not in ("targets", "pairs"):
            raise ConfigError(
                f"Kind: divided_by {self.divided_by!r} is unknown. Choose targets or pairs."
            )
        if self.query_groups and self.argument is None:
            raise ConfigError("Kind: query_groups needs the range argument=(least, largest).")


@dataclass(frozen=True)
class Operation(Entry):
    """An augmentation: an entry of ``augment.OPERATIONS``. ``augment.extra`` turns it on.

    With ``of="image"``, ``function(scene, generator)`` returns a ``Scene``. Its image is uint8
    ``[3, h, w]``, at the original size or a Mosaic. It runs before the plain augmentations and the
    resizing. With ``of="batch"``, ``function(images, targets, generator)`` returns float images
    ``[B, 3, H, W]`` in [0, 1] and ``Targets``. It runs after MixUp. All random numbers must come
    from ``generator``.

    Attributes:
        of: what the function changes: one image or the whole batch.
        prob: probability in [0, 1], used if ``augment.extra_prob`` is None.
        phases: schedule phases in which it is on: ``warm_up``, ``dense``, ``plain``, ``clean``.
    """

    of: Literal["image", "batch"] = dataclasses.field(default="image", kw_only=True)
    prob: float = dataclasses.field(default=0.5, kw_only=True)
    phases: tuple[str, ...] = dataclasses.field(default=("dense",), kw_only=True)

    def __post_init__(self) -> None:
        if self.of not in ("image", "batch"):
            raise ConfigError(f"Operation: of {self.of!r} is unknown. Choose image or batch.")
        if not 0 <= self.prob <= 1:
            raise ConfigError(f"Operation: prob {self.prob!r} is outside [0, 1].")
        for phase in self.phases:
            if phase not in _PHASES:
                raise ConfigError(
                    f"Operation: phase {phase!r} is unknown{nearest(phase, _PHASES)}. "
                    f"Choose from {', '.join(_PHASES)}."
                )


@dataclass(frozen=True)
class Metric(Entry):
    """A metric computed at each validation: an entry of ``evaluation.VALIDATION``.

    ``function(evaluation, dataset)`` takes the ``evaluation.Evaluation`` and the ``CocoDataset``
    and returns a float, or NaN if the metric is undefined.

    Attributes:
        higher_is_better: None: neither direction is better.
        unit: "0–1", "s", …
    """

    higher_is_better: bool | None = dataclasses.field(default=None, kw_only=True)
    unit: str = dataclasses.field(default="", kw_only=True)


E = TypeVar("E", bound=Entry)


class Entries(MutableMapping[str, E], Generic[E]):
    """Table of entries by name. Built-in entries are fixed; you can add and remove your own.

    Args:
        what: name of one entry in messages ("classification loss").
        table: public name of the table ("losses.CLASSIFICATION").
        built_in: the built-in entries.
    """

    def __init__(self, what: str, table: str, built_in: Mapping[str, E]) -> None:
        self.what, self.table = what, table
        self._built_in = dict(built_in)
        self._added: dict[str, E] = {}
        # name → source, as it was read first or as a stored run recorded it
        self._sources: dict[str, Source] = {}

    def attach(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Set the functions of built-in entries.

        Raises ``ConfigError`` for a name that is not a built-in entry.
        """
        for name, function in functions.items():
            if name not in self._built_in:
                raise ConfigError(f"{self.table} has no built-in entry {name!r} for this function.")
            self._built_in[name] = dataclasses.replace(self._built_in[name], function=function)

    def __getitem__(self, name: str) -> E:
        if name in self._built_in:
            return self._built_in[name]
        return self._added[name]

    def __setitem__(self, name: str, entry: E) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{self.table}: {name!r} is not a valid name. Use small letters, digits and _."
            )
        if name in self._built_in:
            raise ConfigError(
                f"{self.table} already has the built-in entry {name!r}. Choose another name."
            )
        before = self._added.get(name)
        if before is not None and _module(before) not in (None, _module(entry)):
            raise ConfigError(
                f"{self.table} already has {name!r}, from {_module(before)}. "
                f"Choose another name in {_module(entry)}."
            )
        if entry.colour is not None and not _COLOUR.fullmatch(entry.colour):
            raise ConfigError(f"{self.table}[{name!r}]: colour {entry.colour!r} is not #RRGGBB.")
        self._added[name] = entry
        self._sources.pop(name, None)
        palette.add(name, entry.colour)

    def recall(self, name: str, values: Mapping[str, Json], source: Source) -> None:
        """Add the entry of a stored run without its function, unless the name exists already."""
        if name in self:
            return
        kind = type(next(iter(self._built_in.values())))
        field_names = {item.name for item in dataclasses.fields(kind)}
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
            if key in field_names  # a later version may record more
        }
        self[name] = kind(None, **fields)
        self._sources[name] = source

    def source(self, name: str) -> Source:
        """The source of an added entry, or the source that a stored run recorded."""
        if name not in self._sources:
            self._sources[name] = source_of(self[name])
        return self._sources[name]

    def __delitem__(self, name: str) -> None:
        if name in self._built_in:
            raise ConfigError(f"{self.table}: {name!r} is built in and cannot be removed.")
        del self._added[name]
        self._sources.pop(name, None)
        palette.remove(name)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._built_in, *self._added])

    def __len__(self) -> int:
        return len(self._built_in) + len(self._added)

    def __repr__(self) -> str:
        return f"{self.table}({', '.join(self)})"

    @property
    def own_entry(self) -> str:
        """Sentence for messages: how a user adds an entry."""
        return (
            f"To use your own {self.what}, add an entry to {self.table} and "
            f"name its module in train.plugins."
        )

    def is_added(self, name: str) -> bool:
        """Whether the entry was added, not built in."""
        return name in self._added

    def label(self, name: str) -> str:
        """The label of an entry. A name without an entry is returned unchanged."""
        return (self[name].label or name) if name in self else name

    def check(self, key: str, name: str) -> None:
        """Raise ``ConfigError`` unless ``name``, the value of config key ``key``, is an entry."""
        if name not in self:
            raise ConfigError(
                f"{key}: {name!r} is not one of "
                f"{', '.join(map(repr, self))}{nearest(name, self)}. {self.own_entry}"
            )

    def callable(self, name: str) -> Callable[..., Any]:
        """The function of an entry.

        Raises ``ConfigError`` if only a stored run names the entry and its code is not loaded.
        """
        function = self[name].function
        if function is None:
            raise ConfigError(
                f"The code of {self.what} {name!r} is not loaded. Define {self.table}[{name!r}] "
                f"again, or name its module in train.plugins."
            )
        return function


CLASSIFICATION: Entries[Term] = Entries(
    "classification loss",
    "losses.CLASSIFICATION",
    {
        "focal": Term(None, gamma=2.0, alpha=0.25, label="focal", takes=("gamma", "alpha")),
        "vfl": Term(
            None,
            gamma=2.0,
            alpha=0.75,
            label="VFL",
            takes=("gamma", "alpha"),
            signed_quality=True,
        ),
        "mal": Term(None, gamma=1.5, label="MAL", takes=("gamma", "alpha")),
    },
)

KINDS: Entries[Kind] = Entries(
    "kind of matching",
    "matching.KINDS",
    {
        "hungarian": Kind(None, label="one-to-one", late_cost=True),
        "simota": Kind(None, label="SimOTA", divided_by="pairs"),
        "groups": Kind(None, argument=(2, 20), query_groups=True, late_cost=True),
    },
)


# augment.mosaic_prob and augment.mixup_prob turn on the built-in two, not augment.extra.
OPERATIONS: Entries[Operation] = Entries(
    "augmentation",
    "augment.OPERATIONS",
    {
        "mosaic": Operation(None, label="Mosaic"),
        "mixup": Operation(None, label="MixUp", of="batch"),
    },
)

# COCO's twelve numbers, in its order.
COCO_METRICS = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)

VALIDATION: Entries[Metric] = Entries(
    "validation metric",
    "evaluation.VALIDATION",
    {
        **dict.fromkeys(COCO_METRICS, Metric(None, higher_is_better=True, unit="0–1")),
        "best_f1": Metric(None, label="best F1", higher_is_better=True, unit="0–1"),
        "best_f1_threshold": Metric(None, label="threshold of the best F1", unit="score"),
        "seconds": Metric(None, label="seconds of an evaluation", higher_is_better=False, unit="s"),
    },
)


@dataclass(frozen=True)
class Source:
    """Module and hash of the code of an entry.

    Attributes:
        module: importable name; ``__main__`` for a notebook cell or a script.
        sha256: hash of the module's file and the values of the entry. For ``__main__``, the
            function's own text replaces the file.
    """

    module: str
    sha256: str


def source_of(entry: Entry) -> Source:
    """The source of an added entry. Raises ``ConfigError`` if Python cannot read it."""
    if entry.function is None:
        raise ConfigError("An entry without a function has no source. Give it a function.")
    code = _code(entry.function)
    module = str(code.__module__)
    path = getattr(sys.modules.get(module), "__file__", None)
    if module != "__main__" and path is not None:
        text = Path(path).read_bytes()
    else:
        try:
            text = inspect.getsource(code).encode()
        except (OSError, TypeError) as error:
            raise ConfigError(
                f"The source of {_name_of(entry.function)} cannot be read, so a run could not "
                f"record it. Define it in a module or in a notebook cell."
            ) from error
    values = json.dumps([entry.values(), _bound(entry.function)], sort_keys=True).encode()
    return Source(module, hashlib.sha256(text + b"\0" + values).hexdigest())


def _module(entry: Entry) -> str | None:
    """The module that defined an entry; None if its code is not loaded."""
    return None if entry.function is None else str(_code(entry.function).__module__)


def _code(function: Callable[..., Any]) -> Any:
    """The function, or the class of a callable object, whose source can be read."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function)


def _bound(function: Callable[..., Any]) -> str:
    """The arguments that a ``functools.partial`` binds, as text."""
    if not isinstance(function, functools.partial):
        return ""
    return f"{function.args!r} {sorted(function.keywords.items())!r} {_bound(function.func)}"


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))
