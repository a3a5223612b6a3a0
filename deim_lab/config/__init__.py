"""Every knob of an experiment, and the named presets.

``sections`` holds the knobs, ``schema`` the whole config, ``checks`` what knobs must fit together,
``values`` what one value must be, ``official`` and ``presets`` the recipes. ``entries`` holds the
tables that can be added to, ``plugins`` loads the modules that add to them.
"""

from __future__ import annotations

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
    DataConfig,
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
