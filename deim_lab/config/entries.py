"""Tables of named entries: one entry is all that a new loss or matching needs.

A table holds the entries of the lab and those that you add, from a module or from a notebook cell.
The entries of the lab are named here without torch, so that a config can be checked quickly; the
rooms that compute attach their functions (``losses.terms``, ``matching.assignment``).
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
_PHASES = ("warm_up", "dense", "plain", "clean")  # by ``schedule.Phase``'s values
_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")


@dataclass(frozen=True)
class Entry:
    """What all entries share: the function that computes, a label and a colour.

    Attributes:
        function: computes; None where a stored run names an entry that is not defined here.
        label: in figures and tables; "": the entry's name.
        colour: ``#RRGGBB`` in figures; None: the next free one.
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
    """A classification loss, as ``losses.CLASSIFICATION`` holds it.

    ``function(logits, target, iou, *, gamma, alpha)`` takes three tensors ``[..., B, Q, C]`` and
    returns the elementwise loss in the same shape (``losses.terms``). A function without ``gamma``
    or ``alpha`` is called without it.

    Attributes:
        gamma: γ where ``loss.gamma`` is None; None: the default of the function's own signature.
        alpha: α where ``loss.alpha`` is None, likewise.
        takes: which of γ and α the function takes; None: read from its signature.
        signed_quality: whether the loss can use a quality below 0, as GIoU may be.
    """

    gamma: float | None = dataclasses.field(default=None, kw_only=True)
    alpha: float | None = dataclasses.field(default=None, kw_only=True)
    takes: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)
    signed_quality: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.takes is not None:
            return
        if self.function is None:
            raise ConfigError("a Term needs a function")
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
        """γ (``gamma``) or α (``alpha``) of the loss. Raises ``ConfigError`` where it has none."""
        value: float | None = getattr(self, name)
        if value is None:
            raise ConfigError(f"{self.label or 'this loss'} has no default for {name}")
        return value


@dataclass(frozen=True)
class Kind(Entry):
    """A kind of matching, as ``matching.KINDS`` holds it.

    ``function(logits, boxes_cxcywh, targets, match)`` takes ``[K, B, Q, C]`` and ``[K, B, Q, 4]``
    of the ``K`` levels, the ``Targets`` and the ``MatchConfig``. It returns ``Matches`` on the CPU
    with a level axis, ordered by level, image and query. ``match.iou_power`` is None unless the run
    is in its late part.

    Attributes:
        divided_by: ``targets``: sums of losses are divided by the targets of the batch (times the
            query groups); ``pairs``: by each level's own pairs, so that more positives don't make
            the loss larger.
        argument: least and largest whole number ``k`` of ``match.kind`` "name(k)"; None: the kind
            takes no number.
        query_groups: whether ``k`` is the number of query groups that the detector trains with.
        late_cost: whether ``match.iou_power`` changes its cost.
    """

    divided_by: Literal["targets", "pairs"] = dataclasses.field(default="targets", kw_only=True)
    argument: tuple[int, int] | None = dataclasses.field(default=None, kw_only=True)
    query_groups: bool = dataclasses.field(default=False, kw_only=True)
    late_cost: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.divided_by not in ("targets", "pairs"):
            raise ConfigError(
                f"Kind: divided_by {self.divided_by!r} is unknown; known: targets, pairs"
            )
        if self.query_groups and self.argument is None:
            raise ConfigError("Kind: query_groups needs argument=(least, largest)")


@dataclass(frozen=True)
class Operation(Entry):
    """An augmentation, as ``augment.OPERATIONS`` holds it. ``augment.extra`` turns it on.

    With ``of="image"``, ``function(scene, generator)`` returns a ``Scene``: the image is uint8
    ``[3, h, w]`` at its own size or a Mosaic, before the plain augmentations and the resizing. With
    ``of="batch"``, ``function(images, targets, generator)`` returns float images ``[B, 3, H, W]``
    in [0, 1] and ``Targets``, after MixUp. All randomness comes from ``generator``.

    Attributes:
        of: what the function changes, one image or the whole batch.
        prob: probability where ``augment.extra_prob`` is None, in [0, 1].
        phases: of the schedule in which it is on: ``warm_up``, ``dense``, ``plain``, ``clean``.
    """

    of: Literal["image", "batch"] = dataclasses.field(default="image", kw_only=True)
    prob: float = dataclasses.field(default=0.5, kw_only=True)
    phases: tuple[str, ...] = dataclasses.field(default=("dense",), kw_only=True)

    def __post_init__(self) -> None:
        if self.of not in ("image", "batch"):
            raise ConfigError(f"Operation: of {self.of!r} is unknown; known: image, batch")
        if not 0 <= self.prob <= 1:
            raise ConfigError(f"Operation: prob {self.prob!r} is outside [0, 1]")
        for phase in self.phases:
            if phase not in _PHASES:
                raise ConfigError(
                    f"Operation: phase {phase!r} is unknown{nearest(phase, _PHASES)}; "
                    f"known: {', '.join(_PHASES)}"
                )


@dataclass(frozen=True)
class Metric(Entry):
    """A number of each validation, as ``evaluation.VALIDATION`` holds it.

    ``function(evaluation, dataset)`` takes the ``evaluation.Evaluation`` and the ``CocoDataset``
    and returns a float, NaN where it is undefined.

    Attributes:
        higher_is_better: None: neither direction is better.
        unit: "0–1", "s", …
    """

    higher_is_better: bool | None = dataclasses.field(default=None, kw_only=True)
    unit: str = dataclasses.field(default="", kw_only=True)


E = TypeVar("E", bound=Entry)


class Entries(MutableMapping[str, E], Generic[E]):
    """Name → entry. The lab's own entries stay as they are; yours can be added and taken out.

    Args:
        what: of an entry, in messages ("classification loss").
        table: where users find the table ("losses.CLASSIFICATION").
        built_in: the entries of the lab.
    """

    def __init__(self, what: str, table: str, built_in: Mapping[str, E]) -> None:
        self.what, self.table = what, table
        self._built_in = dict(built_in)
        self._added: dict[str, E] = {}
        self._recalled: dict[str, Source] = {}  # of entries that a stored run names

    def attach(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Give the lab's entries their functions.

        Raises ``ConfigError`` for a name that is not an entry of the lab.
        """
        for name, function in functions.items():
            if name not in self._built_in:
                raise ConfigError(f"{self.table} has no {name!r} to attach a function to")
            self._built_in[name] = dataclasses.replace(self._built_in[name], function=function)

    def __getitem__(self, name: str) -> E:
        if name in self._built_in:
            return self._built_in[name]
        return self._added[name]

    def __setitem__(self, name: str, entry: E) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{self.table}: {name!r} is not a name. Use small letters, digits and _."
            )
        if name in self._built_in:
            raise ConfigError(
                f"{self.table} has {name!r} already, and it is part of the lab. "
                f"Choose another name."
            )
        before = self._added.get(name)
        if before is not None and _module(before) not in (None, _module(entry)):
            raise ConfigError(
                f"{self.table} has {name!r} already, from {_module(before)}. "
                f"{_module(entry)} needs another name."
            )
        if entry.colour is not None and not _COLOUR.fullmatch(entry.colour):
            raise ConfigError(f"{self.table}[{name!r}]: colour {entry.colour!r} is not #RRGGBB")
        self._added[name] = entry
        self._recalled.pop(name, None)
        palette.add(name, entry.colour)

    def recall(self, name: str, values: Mapping[str, Json], source: Source) -> None:
        """Make the entry of a stored run known without its code, unless its name is known."""
        if name in self:
            return
        kind = type(next(iter(self._built_in.values())))
        known = {item.name for item in dataclasses.fields(kind)}
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
            if key in known  # a later version may record more
        }
        self[name] = kind(None, **fields)
        self._recalled[name] = source

    def source(self, name: str) -> Source:
        """The source of an added entry, or the one that its stored run recorded."""
        return self._recalled[name] if name in self._recalled else source_of(self[name])

    def __delitem__(self, name: str) -> None:
        if name in self._built_in:
            raise ConfigError(f"{self.table}: {name!r} is part of the lab and stays")
        del self._added[name]
        self._recalled.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._built_in, *self._added])

    def __len__(self) -> int:
        return len(self._built_in) + len(self._added)

    def __repr__(self) -> str:
        return f"{self.table}({', '.join(self)})"

    @property
    def own_entry(self) -> str:
        """How a user adds an entry, as messages say it."""
        return (
            f"A {self.what} of your own is an entry of {self.table}; "
            f"name its module in train.plugins."
        )

    def is_added(self, name: str) -> bool:
        """Whether the entry is one that was added."""
        return name in self._added

    def label(self, name: str) -> str:
        """The label of an entry; a name that is no entry is its own label."""
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

        Raises ``ConfigError`` where a stored run named the entry and its code is not loaded.
        """
        function = self[name].function
        if function is None:
            raise ConfigError(
                f"the code of {self.what} {name!r} is not loaded. Define {self.table}[{name!r}] "
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


# The lab's two are turned on by augment.mosaic_prob and augment.mixup_prob, not by augment.extra.
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
    """Where the code of an entry stands, and what it was.

    Attributes:
        module: importable name; ``__main__`` for a notebook cell or a script.
        sha256: of the module's file, or of the function's own text for ``__main__``, together with
            the values of the entry.
    """

    module: str
    sha256: str


def source_of(entry: Entry) -> Source:
    """The source of an added entry. Raises ``ConfigError`` where Python cannot read it."""
    if entry.function is None:
        raise ConfigError("an entry without a function has no source")
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
                f"the source of {_name_of(entry.function)} cannot be read, so a run could not "
                f"record it. Define it in a module or in a notebook cell."
            ) from error
    values = json.dumps([entry.values(), _bound(entry.function)], sort_keys=True).encode()
    return Source(module, hashlib.sha256(text + b"\0" + values).hexdigest())


def _module(entry: Entry) -> str | None:
    """The module that defined an entry; None for one whose code is not loaded."""
    return None if entry.function is None else str(_code(entry.function).__module__)


def _code(function: Callable[..., Any]) -> Any:
    """The function, or the class of a callable object, that has the source."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function)


def _bound(function: Callable[..., Any]) -> str:
    """Arguments that a ``functools.partial`` binds, as text."""
    if not isinstance(function, functools.partial):
        return ""
    return f"{function.args!r} {sorted(function.keywords.items())!r} {_bound(function.func)}"


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))
