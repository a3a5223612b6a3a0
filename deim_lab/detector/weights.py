"""Weights in and out: official checkpoints, this project's own files, and what a file looks like that is neither.

Module names follow the official state-dict layout, so official checkpoints go in without a key map. What can be derived (anchors,
point scales, copies of ``up`` and ``reg_scale``) is neither required nor trusted. Files are read with ``weights_only=True``: nothing
in them is executed. A model is changed only after everything was found to fit.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deim_lab import config as configs
from deim_lab.config import Config
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.detector.queries import make_anchors
from deim_lab.errors import WeightsError
from deim_lab.presets import PRESETS

FORMAT = "deim_lab/1"
RUN_FILES = ("best.pt", "last.pt", "last_previous.pt")  # of a run's checkpoints folder, the first that is there

_RESERVED = ("format", "config", "categories", "model", "deployed")
_DERIVED = ("anchors", "valid_mask", "num_points_scale", "project")
_ONLY_TRAINING = ("decoder.group_embed.",)  # what a comparator adds for training alone; no official checkpoint has it
_COPIED = ("up", "reg_scale")  # stand at decoder.* and again at decoder.decoder.*
# More missing or unexpected keys than this share: the file is of another model, not one with a part more or less.
_FOREIGN_SHARE = 0.1

Json = Any
StateDict = Mapping[str, Tensor]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What did not go from file to model as it was: names of tensors.

    Attributes:
        missing: in the model, not in the file; they keep their values.
        unexpected: in the file, not in the model; not used.
        reinitialised: of another set of classes; set to their initial values (score heads to the focal prior).
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "re-initialised for other classes": self.reinitialised}
        parts = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
        return f"weights loaded; tensors {'; '.join(parts)}" if parts else "weights loaded, all tensors fit"


@dataclass(frozen=True)
class LoadedDetector:
    """A trained detector in eval mode, the config it was trained with, and ``{"id", "name"}`` of each class in class order."""

    model: Detector
    config: Config
    categories: list[dict[str, Json]]


def load_official(model: Detector, state_dict_or_path: Mapping[str, Any] | str | Path) -> LoadReport:
    """Copy an official checkpoint (or any of that layout) into ``model``.

    Takes a bare state dict, ``{"model": …}`` or ``{"ema": {"module": …}}`` (which is preferred), or the path of a file with one of them.
    ``reg_scale`` may be int or float, batch norms of the backbone trained or frozen on either side. Score heads and denoising
    embedding of another number of classes are re-initialised, and reported.

    Raises:
        WeightsError: the file can't be read safely, or it is of another size or family; says what it looks like.
    """
    return _load(model, *_open(state_dict_or_path), other_classes=False)


def load_weights(model: Detector, path: str | Path, *, categories: Sequence[Mapping[str, Json]] | None = None) -> LoadReport:
    """Start ``model`` from a file, official or own, or from a run folder.

    Args:
        categories: of the model's classes. Where the file says that its own classes are others, score heads and denoising embedding are
            re-initialised even if their number is the same.

    Raises:
        WeightsError: as ``load_official``.
    """
    content, where = _open(_weights_file(Path(path)))
    theirs = content.get("categories") if content.get("format") == FORMAT else None
    other = categories is not None and theirs is not None and [dict(item) for item in categories] != theirs
    return _load(model, content, where, other_classes=other)


def fingerprint_of(path: str | Path) -> str:
    """Hex sha256 of a weights file, or of the file that a run folder stands for. Raises ``WeightsError`` where there is none."""
    file = _weights_file(Path(path))
    if not file.is_file():
        raise WeightsError(f"{file}: there is no such file")
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def official_state_dict(model: Detector, eval_size: tuple[int, int] = (640, 640)) -> dict[str, Tensor]:
    """The exact official layout: keys, order, shapes and dtypes, derived entries included.

    Args:
        eval_size: height and width in pixels for which the anchors are written.
    """
    device = next(model.parameters()).device
    anchors, valid = make_anchors([(eval_size[0] // stride, eval_size[1] // stride) for stride in model.strides], device=device)
    shape: dict[str, Tensor] = {}  # of W(n), where the family has edge distributions
    if model.decoder.up is not None and model.decoder.reg_scale is not None:
        up, reg_scale = model.decoder.up.detach(), model.decoder.reg_scale.detach()
        shape = {"up": up, "reg_scale": reg_scale.long() if bool((reg_scale == reg_scale.round()).all()) else reg_scale}
    result: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if key.startswith(_ONLY_TRAINING):
            continue
        if key.startswith("decoder.") and key.removeprefix("decoder.") not in shape and "decoder.anchors" not in result:
            result |= {"decoder.anchors": anchors, "decoder.valid_mask": valid}
        if shape and key.startswith("decoder.decoder.") and "decoder.decoder.up" not in result:
            result |= {f"decoder.decoder.{name}": item for name, item in shape.items()}
        module, _, name = key.rpartition(".")
        if name == "weight" and module.endswith("cross_attn.sampling_offsets"):
            attention = module.removesuffix(".sampling_offsets")
            result[f"{attention}.num_points_scale"] = model.get_submodule(attention).num_points_scale  # type: ignore[assignment]
        result[key] = shape[name] if module == "decoder" and name in shape else value
    return result


def save_weights(path: str | Path, model: Detector, *, config: Config, categories: Sequence[Mapping[str, Json]],
                 extra: Mapping[str, Any] | None = None) -> None:
    """Write a model with all that is needed to use it again; whole or not at all.

    Args:
        categories: ``{"id", "name"}`` of each class in class order.
        extra: more entries, such as ``{"ema": state_dict}``, which ``load_detector`` prefers. Tensors, plain values, lists and dicts only.

    Raises:
        WeightsError: not as many categories as classes, or an ``extra`` that isn't plain or takes a reserved name.
    """
    if len(categories) != model.num_classes:
        raise WeightsError(f"{len(categories)} categories for a model of {model.num_classes} classes")
    for name, value in (extra or {}).items():
        if name in _RESERVED:
            raise WeightsError(f"extra entry {name!r} is a reserved name of the format ({', '.join(_RESERVED)})")
        _check_plain(name, value)
    content = {"format": FORMAT, "config": configs.to_dict(config), "categories": [dict(item) for item in categories],
               "model": model.state_dict(), "deployed": model.deployed, **(extra or {})}
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_detector(path_or_run_folder: str | Path, map_location: str | torch.device = "cpu") -> LoadedDetector:
    """The detector of an own weights file or of a run folder (its best checkpoint, else its last), with EMA weights where it has them.

    Raises:
        WeightsError: nothing there, not readable, or not a file of this project.
    """
    path = _weights_file(Path(path_or_run_folder))
    content, where = _open(path)
    if content.get("format") != FORMAT:
        raise WeightsError(f"{where}: not a weights file of this project (its format is {content.get('format')!r}, expected {FORMAT!r}); "
                           f"it looks like {describe(_state_of(content, where))}. For official weights: build_detector(preset, "
                           "num_classes), then load_official")
    for key in ("config", "categories"):
        if key not in content:
            raise WeightsError(f"{where}: lacks {key!r}, so it can't be built; its entries are {_some(list(content))}")
    config, categories = configs.from_dict(content["config"]), [dict(item) for item in content["categories"]]
    model = build_detector(config, len(categories)).eval()
    if content.get("deployed"):
        model = model.deploy()
    report = _load(model, content, where, other_classes=False)
    if report != LoadReport():
        raise WeightsError(f"{where}: its weights don't fit its own config: {report}")
    return LoadedDetector(model.to(map_location), config, categories)


def describe(state: StateDict) -> str:
    """What a state dict looks like, in words: for error messages."""
    keys = list(state)
    shapes = {key: tuple(value.shape) for key, value in state.items() if _is_structural(key)}
    heads = state.get("decoder.enc_score_head.weight")
    classes = f" of {len(heads)} classes" if heads is not None else ""
    if not keys:
        return "nothing: it holds no tensors"
    if not any(key.startswith("decoder.") for key in keys):
        part = "an HGNetV2 backbone alone" if any("stem." in key or "stages." in key for key in keys) else "no detector"
        return f"{part} (tensors {_some(keys)})"
    deploy = " in deploy form" if any("conv_bn_fused" in key for key in keys) else ""
    if not deploy:
        fitting = [name for name in PRESETS if _structure_of(name) == shapes]
        if fitting:
            return f"{' or '.join(fitting)}{classes}"
    if any("swish_ffn" in key for key in keys):
        return f"a DEIMv2{classes}{deploy}"
    layers = len({key.split(".")[3] for key in keys if key.startswith("decoder.decoder.layers.")})
    if any("cross_attn.value_proj" in key for key in keys):
        blocks = len({key.rpartition(".branch2a")[0] for key in keys if ".branch2a." in key})
        return f"an RT-DETRv2{classes}{deploy} with {layers} decoder layers" + (f" and a ResNet-vd of {blocks} blocks" if blocks else "")
    width = next((value.shape[0] for key, value in state.items() if key.endswith("enc_output.proj.weight")), "unknown")
    stem = next((value.shape[0] for key, value in state.items() if key.endswith("stem.stem1.conv.weight")), "unknown")
    return f"a D-FINE{classes}{deploy} with a stem of {stem} channels, {layers} decoder layers of width {width}"


def _load(model: Detector, content: Mapping[str, Any], where: str, *, other_classes: bool) -> LoadReport:
    """Sort the file's tensors into fitting, missing, unexpected and of other classes; copy only if it is a file of this model."""
    state = _state_of(content, where)
    given = {key: value for key, value in state.items() if not _is_derived(key)}
    wanted = model.state_dict()
    for key in (f"decoder.{name}" for name in _COPIED):
        value = given.get(key, state.get(f"decoder.{key}"))
        if value is not None and key in wanted:
            given[key] = value.reshape(1)
            if float(value) != float(wanted[key]):
                _log.warning("%s: %s is %g in the file and %g in the model's config; the file's is used", where, key, value, wanted[key])
    class_names = {key for key in wanted if _is_of_classes(key)}
    shared = given.keys() & wanted.keys()
    reinitialised = {key for key in shared & class_names if other_classes or _differ_in_classes(given[key], wanted[key])}
    wrong = sorted(key for key in shared - reinitialised if given[key].shape != wanted[key].shape)
    missing = [key for key in wanted if key not in given and not _is_optional(key)]
    unexpected = [key for key in given if key not in wanted and not _is_optional(key)]
    _refuse_foreign(model, state, where, wrong, missing, unexpected)
    for key in sorted(shared - reinitialised):
        if given[key].is_floating_point() and not bool(given[key].isfinite().all()):
            raise WeightsError(f"{where}: {key} holds values that are not finite; the training that wrote it had diverged")

    with torch.no_grad():
        for key in shared - reinitialised:
            wanted[key].copy_(given[key])
    _reinitialise(model, reinitialised)
    report = LoadReport(tuple(missing), tuple(unexpected), tuple(key for key in wanted if key in reinitialised))
    if report != LoadReport():
        _log.warning("%s: %s", where, report)
    return report


def _refuse_foreign(model: Detector, state: StateDict, where: str, wrong: list[str], missing: list[str], unexpected: list[str]) -> None:
    mine = model.state_dict()
    foreign = len(missing) > _FOREIGN_SHARE * len(mine) or len(unexpected) > _FOREIGN_SHARE * len(state)
    if not wrong and not foreign:
        return
    detail = f"of {len(mine)} tensors {len(missing)} are missing ({_some(missing)}), {len(unexpected)} are unexpected ({_some(unexpected)})"
    if wrong:
        shapes = f"{list(state[wrong[0]].shape)} in the file, {list(mine[wrong[0]].shape)} in the model"
        detail = f"{len(wrong)} tensors have another shape, such as {wrong[0]}: {shapes}"
    raise WeightsError(f"{where} is of another model: it looks like {describe(state)}, while this model is {describe(mine)}; {detail}")


def _reinitialise(model: Detector, keys: set[str]) -> None:
    """Initial values for what depends on the classes: as a new model has them."""
    decoder = model.decoder
    for name in sorted({key.removeprefix("decoder.").rpartition(".")[0] for key in keys}):
        module = decoder.get_submodule(name)
        assert isinstance(module, (nn.Linear, nn.Embedding))
        module.reset_parameters()
        if isinstance(module, nn.Linear):
            decoder.initialise_score(module)


def _open(source: Mapping[str, Any] | str | Path) -> tuple[Mapping[str, Any], str]:
    """The content, and how to name it in messages."""
    if isinstance(source, Mapping):
        return source, "the state dict"
    path = Path(source)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        code = isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error)
        reason = ("it holds Python objects that would have to be executed; only tensors and plain values are read" if code
                  else "it is truncated, or no PyTorch file at all")
        raise WeightsError(f"{path}: can't be read: {reason} ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a dict of tensors or of state dicts")
    return content, str(path)


def _state_of(content: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The weights inside a checkpoint: EMA before model before the content itself; wrappers' ``module.`` taken off."""
    state: Any = content
    if isinstance(content.get("ema"), Mapping):
        state = content["ema"].get("module", content["ema"])
    elif isinstance(content.get("model"), Mapping):
        state = content["model"]
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{where}: holds no weights; its entries are {_some(list(content))}")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _weights_file(path: Path) -> Path:
    """A file as it is; of a run folder its best checkpoint, else its last."""
    if not path.is_dir():
        return path
    folder = path / "checkpoints"
    for name in RUN_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{path}: a folder without {' or '.join(f'checkpoints/{name}' for name in RUN_FILES[:2])}; "
                       "expected a run folder with a checkpoint, or a weights file")


def _is_derived(key: str) -> bool:
    return key.rpartition(".")[2] in _DERIVED or key in {f"decoder.decoder.{name}" for name in _COPIED}


def _is_optional(key: str) -> bool:
    """Batch counters (a frozen norm has none) and the shape of W(n), which the config gives too."""
    return key.endswith("num_batches_tracked") or key in {f"decoder.{name}" for name in _COPIED}


def _is_of_classes(key: str) -> bool:
    return key.startswith(("decoder.denoising_class_embed.", "decoder.enc_score_head.", "decoder.dec_score_head."))


def _is_structural(key: str) -> bool:
    return not (_is_derived(key) or _is_optional(key) or _is_of_classes(key) or key.startswith(_ONLY_TRAINING))


def _differ_in_classes(given: Tensor, wanted: Tensor) -> bool:
    return given.shape != wanted.shape and given.shape[1:] == wanted.shape[1:]


@functools.cache
def _structure_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = build_detector(name, 1)
    return {key: tuple(value.shape) for key, value in model.state_dict().items() if _is_structural(key)}


def _check_plain(where: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(f"{where}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_plain(f"{where}[{index}]", item)
    elif not (value is None or isinstance(value, Tensor) or type(value) in (str, int, float, bool)):
        raise WeightsError(f"extra entry {where} is a {type(value).__name__}; only tensors, plain values, lists and dicts can be read back")


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(map(str, list(names)[:limit])) + (", …" if len(names) > limit else "")
