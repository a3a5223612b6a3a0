"""A grid file → ``Grid``: arms of dotted overrides and seeds, read with types kept and checked
against the config.

Nothing here needs torch: whatever is wrong with a grid is said in the first second.
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
from deim_lab.errors import ConfigError, nearest
from deim_lab.host import shipped
from deim_lab.sweep import gridfile

Json = Any

NOTEBOOK = "03_train"
EMBEDDED = "embedded"
# belongs to a run's identity by its content, which the config alone doesn't show
START = "model.backbone_weights"
PLUGINS = "train.plugins"
OWN_PARAMETERS = (
    "preset",
    "overrides",
    "data",
    "seed",
    "runs_dir",
)  # of the notebook, which the grid's own keys fill
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
        name: of the sweep's folder.
        path: of the grid file as it was given; None for a mapping.
        notebook: absolute.
        data: ``embedded``, an absolute folder, or a mapping as ``data.coco.resolve`` takes it.
        base: overrides of every run, below those of its arm.
        arms: name → what the arm changes; axes are multiplied out.
        baseline: the arm that the others are compared with.
        parameters: of the notebook, beyond ``OWN_PARAMETERS``.
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
        """The grid as messages name it."""
        return self.path or f"grid {self.name!r}"

    def overrides(self, arm: str) -> dict[str, Json]:
        """All that an arm overrides of the preset."""
        return {**self.base, **self.arms[arm]}

    def config(self, arm: str) -> Config:
        """The whole config of an arm. Raises ``ConfigError`` naming the arm."""
        try:
            config = preset_config(self.preset, self.overrides(arm))
            checks.one_start(config.model, self.parameters.get("weights"))
            return config
        except ConfigError as error:
            raise ConfigError(f"{self.source}, arm {arm!r}: {error}") from error

    def as_dict(self) -> dict[str, Json]:
        """Everything, as JSON values."""
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
        preset, data, seeds, name: instead of the grid's own.
        overrides: on top of the grid's ``base``; a key that an arm or axis sets is refused, since
            it would have no effect there.
        parameters: further parameters of the notebook, on top of the grid's own.

    Raises:
        ConfigError: naming grid, arm and key, what was expected, and the nearest right name.
    """
    if isinstance(source, Mapping):
        path, values, said = None, gridfile.plain(source, "grid"), "grid"
    else:
        path, said = str(source), str(source)
        values = gridfile.load(shipped.locate("grids", source))
    _check_kinds(values, said)
    base, given = _absolute_start(values.get("base") or {}), _absolute_start(overrides or {})
    base |= _plugins(values.get("plugins"), base, said)
    _check_keys(base, f"{said}: base")
    _check_keys(given, said)
    arms = _multiply(_arms(values, said), _axes(values, said), said)
    for key in given:
        setting = next((arm for arm, own in arms.items() if key in own), None)
        if setting is not None:
            raise ConfigError(
                f"{said}: override of {key} has no effect on arm {setting!r}, which sets it itself"
            )
    baseline = values.get("baseline") or next(iter(arms))
    if baseline not in arms:
        raise ConfigError(
            f"{said}: baseline {baseline!r} is no arm{nearest(baseline, arms)}; arms: "
            f"{', '.join(arms)}"
        )
    grid = Grid(
        name=_name(name, path),
        path=path,
        notebook=_absolute(shipped.locate("notebooks", values.get("notebook") or NOTEBOOK)),
        preset=preset or _preset(values, said),
        data=_absolute_data(data if data is not None else values.get("data")),
        base={**base, **given},
        arms=arms,
        seeds=_seeds(seeds if seeds is not None else values.get("seeds"), said),
        baseline=baseline,
        parameters=_parameters({**(values.get("parameters") or {}), **(parameters or {})}, said),
        about=values.get("about") or "",
    )
    _check_arms(grid)
    return grid


def _check_arms(grid: Grid) -> None:
    """Every arm makes a config, and no two the same one."""
    seen: dict[str, str] = {}
    for arm in grid.arms:
        config = grid.config(arm)
        same = configs.override(
            config,
            {"loss.gamma": config.loss.effective_gamma, "loss.alpha": config.loss.effective_alpha},
        )
        identity = configs.fingerprint(
            same, config.model.backbone_weights
        )  # γ = None and γ = 1.5 are one and the same MAL
        if identity in seen:
            raise ConfigError(
                f"{grid.source}: arms {seen[identity]!r} and {arm!r} resolve to the same config, "
                f"so they would be one run twice" + _why_same(grid, seen[identity], arm)
            )
        seen[identity] = arm


def _why_same(grid: Grid, one: str, other: str) -> str:
    """What of two arms differs without a difference; "" where nothing does."""
    keys = list(configs.diff(grid.config(one), grid.config(other)))
    if not keys:
        return ""
    make = "makes" if len(keys) == 1 else "make"
    return f" ({', '.join(keys)} {make} no difference to what a run computes here)"


def _check_kinds(values: Mapping[str, Json], said: str) -> None:
    for key, value in values.items():
        if key not in _KINDS:
            raise ConfigError(
                f"{said}: unknown key {key!r}{nearest(key, _KINDS)}; known: {', '.join(_KINDS)}"
            )
        if value is not None and not isinstance(value, _KINDS[key]):
            raise ConfigError(
                f"{said}: {key} is {value!r} ({type(value).__name__}), expected "
                f"{' or '.join(_NAMES[kind] for kind in _KINDS[key])}"
            )


def _preset(values: Mapping[str, Json], said: str) -> str:
    if not values.get("preset"):
        raise ConfigError(
            f"{said}: no preset, neither in the grid nor beside it; `deim-lab presets` lists them"
        )
    return str(values["preset"])


def _check_keys(overrides: Mapping[str, Json], said: str) -> None:
    known = configs.keys()
    for key, value in overrides.items():
        if key not in known:
            nested = (
                f"; keys are dotted, e.g. {key}.{next(iter(value))}"
                if isinstance(value, dict) and value
                else ""
            )
            raise ConfigError(f"{said}: {key!r} names no config field{nearest(key, known)}{nested}")


def _arms(values: Mapping[str, Json], said: str) -> dict[str, dict[str, Json]]:
    arms: dict[str, dict[str, Json]] = {}
    for arm, overrides in (values.get("arms") or {}).items():
        if overrides is not None and not isinstance(overrides, dict):
            raise ConfigError(
                f"{said}, arm {arm!r}: {overrides!r} is no mapping of dotted keys to values"
            )
        if not arm.strip():
            raise ConfigError(f"{said}: an arm has no name")
        arms[arm] = _absolute_start(overrides or {})
        _check_keys(arms[arm], f"{said}, arm {arm!r}")
    return arms


def _axes(values: Mapping[str, Json], said: str) -> dict[str, list[Json]]:
    axes: dict[str, list[Json]] = values.get("axes") or {}
    for key, axis in axes.items():
        _check_keys({key: None}, f"{said}: axis")
        if not isinstance(axis, list) or not axis:
            raise ConfigError(f"{said}: axis {key!r} is {axis!r}, expected a list of values")
    return axes


def _multiply(
    arms: dict[str, dict[str, Json]], axes: dict[str, list[Json]], said: str
) -> dict[str, dict[str, Json]]:
    """Every arm at every point of the axes, named ``<arm>, gamma=1.5``."""
    if not arms and not axes:
        raise ConfigError(f"{said}: neither arms nor axes: there is nothing to compare")
    if not axes:
        return arms
    tails = [key.rpartition(".")[2] for key in axes]
    shown = [tail if tails.count(tail) == 1 else key for key, tail in zip(axes, tails, strict=True)]
    product: dict[str, dict[str, Json]] = {}
    for arm, own in (arms or {"": {}}).items():
        for key in axes:
            if key in own:
                raise ConfigError(f"{said}: {key!r} is an axis, and arm {arm!r} sets it too")
        for values in itertools.product(*axes.values()):
            point = ", ".join(
                f"{name}={_shown(value)}" for name, value in zip(shown, values, strict=True)
            )
            name = f"{arm}, {point}" if arm else point
            if name in product:
                raise ConfigError(
                    f"{said}: arms {name!r} and {name!r} resolve to the same config: a value "
                    f"stands twice on an axis"
                )
            product[name] = {**own, **dict(zip(axes, values, strict=True))}
    return product


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _seeds(seeds: Json, said: str) -> tuple[int, ...]:
    chosen = [0] if seeds is None else list(seeds)
    if not chosen:
        raise ConfigError(f"{said}: seeds is empty")
    for seed in chosen:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"{said}: seed {seed!r} is no whole number from 0")
        if chosen.count(seed) > 1:
            raise ConfigError(f"{said}: seed {seed} stands twice")
    return tuple(chosen)


def _parameters(values: Mapping[str, Json], said: str) -> dict[str, Json]:
    for key, value in values.items():
        if key in OWN_PARAMETERS:
            where = {
                "overrides": "base, arms and axes",
                "seed": "seeds",
                "runs_dir": "the call",
            }.get(key, key)
            raise ConfigError(f"{said}: parameters must not hold {key!r}: that comes from {where}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{said}: parameters.{key} {value!r} is not finite")
    if isinstance(values.get("device"), str):
        configs.check_device(values["device"])
    weights = values.get("weights")  # a file, a run folder, or the name of something on the hub
    if weights is not None and not isinstance(weights, str):
        raise ConfigError(
            f"{said}: parameters.weights is {weights!r} ({type(weights).__name__}). Expected the "
            f"path of a run folder, a weights file or a hub folder"
        )
    return (
        {**values, "weights": _absolute(weights)}
        if isinstance(weights, str) and Path(weights).exists()
        else dict(values)
    )


def _name(name: str | None, path: str | None) -> str:
    chosen = name or (Path(path).stem if path else "grid")
    if chosen in (".", "..") or any(sign in chosen for sign in "/\\\0"):
        raise ConfigError(f"sweep name {chosen!r} is no folder name")
    return chosen


def _absolute(path: str | Path) -> str:
    return str(Path(path).expanduser().absolute())


def _absolute_start(overrides: Mapping[str, Json]) -> dict[str, Json]:
    """Overrides with files of backbone weights and plugins as every worker needs them.

    Names of sources and of installed modules stay.
    """
    weights = overrides.get(START)
    result = dict(overrides)
    if isinstance(weights, str) and Path(weights).is_file():
        result[START] = _absolute(weights)
    if overrides.get(PLUGINS):
        result[PLUGINS] = plugins.absolute(configs.coerce_plugins(overrides), Path.cwd())
    return result


def _plugins(modules: Json, base: Mapping[str, Json], said: str) -> dict[str, Json]:
    """The override that loads a grid's plugins in every worker; empty where it has none.

    Plugins are looked for in the current folder, then in the grid file's own.
    """
    if not modules:
        return {}
    if PLUGINS in base:
        raise ConfigError(f"{said}: plugins and base's {PLUGINS} say the same. Give one of them.")
    names = [modules] if isinstance(modules, str) else modules
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{said}: plugins is {modules!r}, expected names of modules")
    try:
        return {PLUGINS: plugins.absolute(names, Path.cwd(), Path(said).parent)}
    except ConfigError as error:
        raise ConfigError(f"{said}: {error}") from error


def _absolute_data(data: Json) -> Json:
    """Paths of a data set as every worker needs them, whatever folder it works in."""
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
