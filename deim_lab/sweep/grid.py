"""Read a grid file into a ``Grid``: arms of dotted overrides, and seeds.

Values keep their types and are checked against the config. Nothing here needs torch, so an
error in a grid is reported within the first second.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deim_lab import config as configs
from deim_lab.config import Config, checks, plugins
from deim_lab.config.presets import preset as preset_config
from deim_lab.config.values import plain as plain_value
from deim_lab.errors import ConfigError, nearest
from deim_lab.host import shipped
from deim_lab.host.files import user_path
from deim_lab.sweep import gridfile

Json = Any

NOTEBOOK = "03_train"
EMBEDDED = "embedded"
# The content of these weights belongs to a run's identity; the config holds only their name.
START = "model.backbone_weights"
PLUGINS = "train.plugins"
# parameters of the notebook that the grid's own keys fill
OWN_PARAMETERS = (
    "preset",
    "overrides",
    "data",
    "seed",
    "runs_dir",
)
_KINDS: dict[str, tuple[type, ...]] = {
    "notebook": (str,),
    "preset": (str,),
    "data": (str, dict),
    "base": (dict,),
    "arms": (dict,),
    "axes": (dict,),
    "seeds": (list,),
    "baseline": (str,),
    "parameters": (dict,),
    "plugins": (str, list),
    "about": (str,),
}
_NAMES: dict[type, str] = {str: "text", dict: "a mapping", list: "a list"}


@dataclass(frozen=True)
class Grid:
    """A resolved grid: every arm by name.

    Attributes:
        name: name of the sweep's folder.
        path: path of the grid file as the user gave it; None for a mapping.
        notebook: absolute path of the notebook.
        data: ``embedded``, an absolute folder, or a mapping as ``data.coco.resolve`` takes it.
        base: overrides of every run; an arm's own overrides come on top.
        arms: name → overrides of the arm; axes are multiplied out.
        baseline: the arm that all other arms are compared with.
        parameters: further parameters of the notebook, beyond ``OWN_PARAMETERS``.
    """

    name: str
    path: str | None
    notebook: str
    preset: str
    data: Json
    base: dict[str, Json]
    arms: dict[str, dict[str, Json]]
    seeds: tuple[int, ...]
    baseline: str
    parameters: dict[str, Json] = field(default_factory=dict)
    about: str = ""

    @property
    def source(self) -> str:
        """The name of the grid in messages."""
        return self.path or f"grid {self.name!r}"

    def overrides(self, arm: str) -> dict[str, Json]:
        """All overrides of an arm on top of the preset."""
        return {**self.base, **self.arms[arm]}

    def config(self, arm: str) -> Config:
        """The complete config of an arm. Raises ``ConfigError`` naming the arm."""
        try:
            config = preset_config(self.preset, self.overrides(arm))
            checks.one_start(config.model, self.parameters.get("weights"))
            return config
        except ConfigError as error:
            raise ConfigError(f"{self.source}, arm {arm!r}: {error}") from error

    def as_dict(self) -> dict[str, Json]:
        """All fields of the grid as JSON values."""
        plain: dict[str, Json] = json.loads(
            json.dumps({key: getattr(self, key) for key in self.__dataclass_fields__})
        )
        return plain


def read(
    source: str | Path | Mapping[str, Json],
    *,
    preset: str | None = None,
    data: Json = None,
    overrides: Mapping[str, Json] | None = None,
    seeds: Sequence[int] | None = None,
    name: str | None = None,
    parameters: Mapping[str, Json] | None = None,
) -> Grid:
    """Read and check a grid.

    Args:
        source: the name of a ready grid, a YAML or JSON file, or its content.
        preset, data, seeds, name: replace the grid's own.
        overrides: on top of the grid's ``base``. A key that an arm or axis sets is refused.
        parameters: further parameters of the notebook, on top of the grid's own.

    Raises:
        ConfigError: naming grid, arm and key, the expected value, and the nearest right name.
    """
    if isinstance(source, Mapping):
        path, values, label = None, gridfile.plain(source, "grid"), "grid"
    else:
        path, label = str(source), str(source)
        values = gridfile.load(shipped.locate("grids", source))
    _check_kinds(values, label)
    base, added = (
        _absolute_start(values.get("base") or {}),
        _absolute_start(gridfile.plain(overrides or {}, "overrides")),
    )
    base |= _plugins(values.get("plugins"), base, label)
    _check_keys(base, f"{label}: base")
    _check_keys(added, label)
    arms = _multiply(_arms(values, label), _axes(values, label), label)
    for key in added:
        setting = next((arm for arm, changes in arms.items() if key in changes), None)
        if setting is not None:
            raise ConfigError(
                f"{label}: override of {key} has no effect on arm {setting!r}, which sets it itself"
            )
    grid = Grid(
        name=_name(name, path),
        path=path,
        notebook=_absolute(shipped.locate("notebooks", values.get("notebook") or NOTEBOOK)),
        preset=preset or _preset(values, label),
        data=_absolute_data(data if data is not None else values.get("data")),
        base={**base, **added},
        arms=arms,
        seeds=_seeds(seeds if seeds is not None else values.get("seeds"), label),
        baseline=_baseline(values.get("baseline"), arms, label),
        parameters=_parameters({**(values.get("parameters") or {}), **(parameters or {})}, label),
        about=values.get("about") or "",
    )
    _check_arms(grid)
    return grid


def _baseline(name: str | None, arms: Mapping[str, Json], label: str) -> str:
    """The baseline's name, checked; None: the first arm."""
    chosen = name or next(iter(arms))
    if chosen not in arms:
        raise ConfigError(
            f"{label}: baseline {chosen!r} is not an arm{nearest(chosen, arms)}. The arms are: "
            f"{', '.join(arms)}"
        )
    return chosen


def _check_arms(grid: Grid) -> None:
    """Raise ``ConfigError`` for an arm with a wrong config, or two arms with the same config."""
    seen: dict[str, str] = {}
    for arm in grid.arms:
        config = grid.config(arm)
        same = configs.override(
            config,
            {"loss.gamma": config.loss.effective_gamma, "loss.alpha": config.loss.effective_alpha},
        )
        # γ = None and γ = 1.5 are one and the same MAL
        identity = configs.fingerprint(same, config.model.backbone_weights)
        if identity in seen:
            raise ConfigError(
                f"{grid.source}: arms {seen[identity]!r} and {arm!r} resolve to the same config, "
                f"so the same run would be made twice" + _why_same(grid, seen[identity], arm)
            )
        seen[identity] = arm


def _why_same(grid: Grid, one: str, other: str) -> str:
    """Name the keys that differ between two arms but have no effect; "" where no key differs."""
    keys = list(configs.diff(grid.config(one), grid.config(other)))
    if not keys:
        return ""
    make = "makes" if len(keys) == 1 else "make"
    return f" ({', '.join(keys)} {make} no difference to what a run computes here)"


def _check_kinds(values: Mapping[str, Json], label: str) -> None:
    for key, value in values.items():
        if key not in _KINDS:
            raise ConfigError(
                f"{label}: unknown key {key!r}{nearest(key, _KINDS)}. Known keys: "
                f"{', '.join(_KINDS)}"
            )
        if value is not None and not isinstance(value, _KINDS[key]):
            raise ConfigError(
                f"{label}: {key} is {value!r} ({type(value).__name__}), expected "
                f"{' or '.join(_NAMES[kind] for kind in _KINDS[key])}"
            )


def _preset(values: Mapping[str, Json], label: str) -> str:
    if not values.get("preset"):
        raise ConfigError(
            f"{label}: no preset. Name one in the grid or in the call; `deim-lab presets` lists "
            f"them"
        )
    return str(values["preset"])


def _check_keys(overrides: Mapping[str, Json], label: str) -> None:
    fields = configs.keys()
    for key, value in overrides.items():
        if key not in fields:
            nested = (
                f"; keys are dotted, e.g. {key}.{next(iter(value))}"
                if isinstance(value, dict) and value
                else ""
            )
            raise ConfigError(
                f"{label}: {key!r} names no config field{nearest(key, fields)}{nested}"
            )


def _arms(values: Mapping[str, Json], label: str) -> dict[str, dict[str, Json]]:
    arms: dict[str, dict[str, Json]] = {}
    for arm, overrides in (values.get("arms") or {}).items():
        if overrides is not None and not isinstance(overrides, dict):
            raise ConfigError(
                f"{label}, arm {arm!r}: {overrides!r} is not a mapping of dotted keys to values"
            )
        if not arm.strip():
            raise ConfigError(f"{label}: an arm has no name")
        arms[arm] = _absolute_start(overrides or {})
        _check_keys(arms[arm], f"{label}, arm {arm!r}")
    return arms


def _axes(values: Mapping[str, Json], label: str) -> dict[str, list[Json]]:
    axes: dict[str, list[Json]] = values.get("axes") or {}
    for key, axis in axes.items():
        _check_keys({key: None}, f"{label}: axis")
        if not isinstance(axis, list) or not axis:
            raise ConfigError(f"{label}: axis {key!r} is {axis!r}, expected a list of values")
    return axes


def _multiply(
    arms: dict[str, dict[str, Json]], axes: dict[str, list[Json]], label: str
) -> dict[str, dict[str, Json]]:
    """Every arm at every point of the axes, named ``<arm>, gamma=1.5``."""
    if not arms and not axes:
        raise ConfigError(
            f"{label}: no arms and no axes, so nothing can be compared. Give one of them"
        )
    if not axes:
        return arms
    tails = [key.rpartition(".")[2] for key in axes]
    shown = [tail if tails.count(tail) == 1 else key for key, tail in zip(axes, tails, strict=True)]
    product: dict[str, dict[str, Json]] = {}
    for arm, changes in (arms or {"": {}}).items():
        for key in axes:
            if key in changes:
                raise ConfigError(f"{label}: {key!r} is an axis, and arm {arm!r} sets it too")
        for values in itertools.product(*axes.values()):
            point = ", ".join(
                f"{name}={_shown(value)}" for name, value in zip(shown, values, strict=True)
            )
            name = f"{arm}, {point}" if arm else point
            if name in product:
                raise ConfigError(
                    f"{label}: arms {name!r} and {name!r} resolve to the same config: a value "
                    f"appears twice on an axis"
                )
            product[name] = {**changes, **dict(zip(axes, values, strict=True))}
    return product


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _seeds(seeds: Json, label: str) -> tuple[int, ...]:
    chosen = [0] if seeds is None else [plain_value(seed) for seed in seeds]
    if not chosen:
        raise ConfigError(f"{label}: seeds is empty")
    for seed in chosen:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"{label}: seed {seed!r} is not a whole number from 0")
        if chosen.count(seed) > 1:
            raise ConfigError(f"{label}: seed {seed} appears twice")
    return tuple(chosen)


def _parameters(values: Mapping[str, Json], label: str) -> dict[str, Json]:
    for key, value in values.items():
        if key in OWN_PARAMETERS:
            where = {
                "overrides": "base, arms and axes",
                "seed": "seeds",
                "runs_dir": "the call",
            }.get(key, key)
            raise ConfigError(
                f"{label}: parameters must not hold {key!r}: its value comes from {where}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{label}: parameters.{key} {value!r} is not finite")
    if isinstance(values.get("device"), str):
        configs.check_device(values["device"])
    weights = values.get("weights")  # a file, a run folder, or the name of something on the hub
    if weights is not None and not isinstance(weights, str):
        raise ConfigError(
            f"{label}: parameters.weights is {weights!r} ({type(weights).__name__}). Expected the "
            f"path of a run folder, a weights file or a hub folder"
        )
    return (
        {**values, "weights": _absolute(weights)}
        if isinstance(weights, str) and user_path(weights).exists()
        else dict(values)
    )


def _name(name: str | None, path: str | None) -> str:
    chosen = name or (Path(path).stem if path else "grid")
    if chosen in (".", "..") or any(sign in chosen for sign in "/\\\0"):
        raise ConfigError(f"sweep name {chosen!r} is not a folder name")
    return chosen


def _absolute(path: str | Path) -> str:
    return str(user_path(path).absolute())


def _absolute_start(overrides: Mapping[str, Json]) -> dict[str, Json]:
    """Make the paths of backbone weights and plugins in overrides absolute, for every worker.

    Names of sources and of installed modules stay.
    """
    weights = overrides.get(START)
    result = dict(overrides)
    if isinstance(weights, str) and user_path(weights).is_file():
        result[START] = _absolute(weights)
    if overrides.get(PLUGINS):
        result[PLUGINS] = plugins.absolute(configs.coerce_plugins(overrides), Path.cwd())
    return result


def _plugins(modules: Json, base: Mapping[str, Json], label: str) -> dict[str, Json]:
    """The override that loads a grid's plugins in every worker; empty without plugins.

    Plugins are searched for in the current folder, then in the folder of the grid file.
    """
    if not modules:
        return {}
    if PLUGINS in base:
        raise ConfigError(f"{label}: plugins and base's {PLUGINS} say the same. Give one of them.")
    names = [modules] if isinstance(modules, str) else modules
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{label}: plugins is {modules!r}, expected names of modules")
    try:
        return {PLUGINS: plugins.absolute(names, Path.cwd(), Path(label).parent)}
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from error


def _absolute_data(data: Json) -> Json:
    """Make the paths of a data set absolute, so that workers in any folder find it."""
    if data is None or data == EMBEDDED:
        return EMBEDDED
    if isinstance(data, Mapping):
        return {
            key: {name: _absolute(str(path)) for name, path in half.items()}
            if isinstance(half, Mapping)
            else half
            for key, half in data.items()
        }
    return _absolute(str(data))
