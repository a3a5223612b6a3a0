"""Every knob of an experiment, and the named presets.

``sections`` defines the knobs and ``schema`` the whole config. ``values`` checks one value,
``checks`` checks knobs together. ``official`` and ``presets`` hold the recipes. ``entries`` holds
the tables of losses, matchings and so on. ``plugins`` loads the modules that add entries to them.
"""

from __future__ import annotations

from deim_lab.config.data import DataConfig
from deim_lab.config.presets import PLAIN_RECIPE, PRESETS, preset
from deim_lab.config.schema import (
    NOT_IDENTITY,
    Config,
    coerce_plugins,
    diff,
    fingerprint,
    flatten,
    from_dict,
    keys,
    override,
    parse_assignments,
    to_dict,
)
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
from deim_lab.config.values import check_device

__all__ = [
    "NOT_IDENTITY",
    "PLAIN_RECIPE",
    "PRESETS",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "EmaConfig",
    "EvalConfig",
    "LossConfig",
    "MatchConfig",
    "ModelConfig",
    "OptimConfig",
    "ScheduleConfig",
    "TrainConfig",
    "check_device",
    "coerce_plugins",
    "diff",
    "fingerprint",
    "flatten",
    "from_dict",
    "keys",
    "override",
    "parse_assignments",
    "preset",
    "to_dict",
]
