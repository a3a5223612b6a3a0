"""The config of an experiment: override, diff, fingerprint, JSON in and out.

An experiment arm is a plain dict of dotted overrides, ``{"loss.gamma": 2.0}``. It fits into JSON, a
papermill parameter, a grid file, a widget and the command line. Unknown keys, wrong types and
values out of range raise ``ConfigError`` with the nearest valid name. Only the names of losses and
matchings are global state (``entries``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from deim_lab.config import checks, plugins
from deim_lab.config.data import DataConfig
from deim_lab.config.sections import (
    AugmentConfig,
    EmaConfig,
    EvalConfig,
    LossConfig,
    MatchConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)
from deim_lab.config.values import coerce
from deim_lab.errors import ConfigError, nearest

Json = Any


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of an experiment, except its data set and its seed.

    Build a config with ``presets.preset``. Change it with ``override``.
    """

    preset: str = "deim_dfine_n"
    model: ModelConfig = field(default_factory=ModelConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check = getattr(getattr(self, item.name), "_check", None)
            if check is not None:
                check()
        checks.edges(self.model, self.loss)
        checks.anchors(self.model, self.augment, self.data)


# Keys outside the fingerprint: they say where a run happens, not what it computes. Weights count by
# content, not by name (weights.start). Plugins count by the source of the entries in use
# (plugins.identity).
NOT_IDENTITY = (
    "train.device",
    "train.threads",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
    "train.plugins",
    "data.workers",
    "data.cache",
    "eval.backend",
    "model.backbone_weights",
)


def override(config: Config, overrides: Mapping[str, Json]) -> Config:
    """``config`` with the values of dotted keys replaced.

    Example: ``{"loss.gamma": 2.0, "data.input_size": [384, 640]}``.
    Raises ``ConfigError`` for an unknown key (with the nearest valid name) or a wrong type. Also
    raises it for a value out of range and for a knob that would have no effect.
    """
    plugins.load(coerce_plugins(overrides))
    changed = _replaced(config, overrides)
    checks.of_the_model(changed.model, overrides)
    return changed


def coerce_plugins(overrides: Mapping[str, Json]) -> tuple[str, ...]:
    """The modules named in the override of ``train.plugins``."""
    return tuple(coerce("train.plugins", overrides.get("train.plugins", ()), tuple[str, ...]))


def _replaced(config: Config, overrides: Mapping[str, Json]) -> Config:
    """``config`` with dotted keys replaced, each checked alone and with the others."""
    parts: dict[str, dict[str, Json]] = {}
    kinds = _kinds()
    for key, value in overrides.items():
        if key not in kinds:
            raise ConfigError(f"unknown config key {key!r}{nearest(key, kinds)}.")
        section, name = key.split(".")
        parts.setdefault(section, {})[name] = coerce(key, value, kinds[key])
    return dataclasses.replace(
        config,
        **{
            section: dataclasses.replace(getattr(config, section), **values)
            for section, values in parts.items()
        },
    )


@cache
def _kinds() -> dict[str, Any]:
    """Dotted key → type of its value. Cached, because Python parses the types from text."""
    return {
        f"{section}.{name}": kind
        for section, part in typing.get_type_hints(Config).items()
        if dataclasses.is_dataclass(part)
        for name, kind in typing.get_type_hints(part).items()
    }


def keys() -> tuple[str, ...]:
    """Every dotted key that ``override`` accepts."""
    return tuple(_kinds())


def flatten(config: Config) -> dict[str, Json]:
    """``{"loss.gamma": …}`` for every knob, values as JSON."""
    return {
        f"{section}.{name}": value
        for section, part in to_dict(config).items()
        if isinstance(part, dict)
        for name, value in part.items()
    }


def diff(base: Config, other: Config) -> dict[str, Json]:
    """The overrides that turn ``base`` into ``other``."""
    before, after = flatten(base), flatten(other)
    return {key: value for key, value in after.items() if before[key] != value}


def fingerprint(config: Config, *extra: Json) -> str:
    """Eight hex digits that identify an experiment; equal for equal experiments.

    Device and loader do not count (``NOT_IDENTITY``). Knobs at their default do not count either,
    so a knob added by a later version does not change the fingerprint of older runs.
    """
    flat, defaults = flatten(config), flatten(Config())
    changed = {
        key: value
        for key, value in flat.items()
        if key not in NOT_IDENTITY and value != defaults[key]
    }
    text = json.dumps([changed, *extra, *plugins.identity(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def to_dict(config: Config) -> dict[str, Json]:
    """The complete config as JSON values (tuples become lists)."""
    plain: dict[str, Json] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(values: Mapping[str, Json]) -> Config:
    """Inverse of ``to_dict``: a config equal to the written one.

    Unknown sections and keys raise ``ConfigError``. A knob without effect is accepted, because a
    stored config holds every knob.
    """
    sections = {item.name for item in dataclasses.fields(Config)}
    for section in values:
        if section not in sections:
            raise ConfigError(f"unknown config section {section!r}{nearest(section, sections)}.")
    flat = {
        f"{section}.{name}": value
        for section, part in values.items()
        if isinstance(part, Mapping)
        for name, value in part.items()
    }
    return _replaced(Config(preset=str(values.get("preset", Config.preset))), flat)


def parse_assignments(assignments: typing.Iterable[str]) -> dict[str, Json]:
    """Parse texts such as ``loss.gamma=2.0`` and ``data.input_size=[384, 640]``.

    A value is read as JSON. Text that is not JSON stays a plain string.
    """
    result: dict[str, Json] = {}
    for item in assignments:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"{item!r} is not KEY=VALUE. Write for example loss.gamma=2.0.")
        try:
            value = json.loads({"None": "null", "True": "true", "False": "false"}.get(text, text))
        except json.JSONDecodeError:
            value = text
        result[key.strip()] = value
    return result
