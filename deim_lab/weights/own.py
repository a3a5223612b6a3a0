"""Load and save weights: official checkpoints, this project's files, ``transformers``.

Files are read with ``weights_only=True``: nothing in them is executed. ``layout`` describes foreign
files; ``fill`` copies tensors into a model.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deim_lab import config as configs
from deim_lab.config import Config, plugins
from deim_lab.detector.backbones import BACKBONES
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.errors import WeightsError
from deim_lab.host import files
from deim_lab.host.files import user_path
from deim_lab.weights.classes import Category
from deim_lab.weights.coco80 import COCO80
from deim_lab.weights.fill import LoadReport, fill
from deim_lab.weights.hub import hub_files, hub_folder, is_hub, load_hub
from deim_lab.weights.layout import describe, official_state_dict, some

__all__ = [
    "LoadReport",
    "LoadedDetector",
    "describe",
    "export_official",
    "fingerprint_of",
    "load_detector",
    "load_official",
    "load_weights",
    "official_state_dict",
    "read_state",
    "save_weights",
]

FORMAT = "deim_lab/1"
# files of a run's checkpoints folder; the first that exists is read
RUN_FILES = ("best.pt", "last.pt", "last_previous.pt")

_RESERVED = ("format", "config", "categories", "model", "deployed")

Json = Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedDetector:
    """A trained detector in eval mode, its training config, and its classes.

    ``categories`` has ``{"id", "name"}`` of each class in class order.
    """

    model: Detector
    config: Config
    categories: list[dict[str, Json]]


def load_official(
    model: Detector,
    source: Mapping[str, Any] | str | Path,
    *,
    categories: Sequence[Category] | None = None,
    source_categories: Sequence[Category] | None = None,
    unnamed_categories: Sequence[Category] | None = None,
) -> LoadReport:
    """Copy an official checkpoint (or any of that layout) into ``model``.

    ``reg_scale`` may be int or float, anchors of any size, batch norms of the backbone trained or
    frozen in file and model. The layout doesn't show activations: weights of ``dfine_n`` (ReLU) fit
    ``deim_dfine_n`` (SiLU), with other results. The report notes a difference to a project file.

    Args:
        source: a bare state dict, ``{"model": …}`` or ``{"ema": {"module": …}}`` (preferred); the
            path of a file with one of them, or a run folder; a folder of ``transformers`` or a hub
            id (``hub.load_hub``).
        categories: names, or ``{"id", "name"}``, of the model's classes in class order. Head rows
            are then matched by name; rows of classes that the file lacks are re-initialised, and
            the report's ``table()`` lists them. None: equal numbers of classes are assumed to be
            the same classes; for different numbers, all head rows are re-initialised.
        source_categories: names of the file's classes. None: the names in a file of this project or
            in config.json; COCO's names for 80 classes; else unknown, and with ``categories`` all
            head rows are re-initialised.
        unnamed_categories: names of the file's classes if the file does not name them itself.

    Raises:
        WeightsError: an unsafe file, or one of another size or family. The message describes it.
    """
    if not isinstance(source, Mapping) and is_hub(source):
        return load_hub(
            model,
            source,
            categories=categories,
            source_categories=source_categories,
            unnamed_categories=unnamed_categories,
        )
    content, where = _open(source if isinstance(source, Mapping) else _weights_file(source))
    state = _state_of(content, where)
    notes = _of_other_activation(model, content)
    is_own_file = content.get("format") == FORMAT
    if source_categories is None and is_own_file:
        source_categories = content.get("categories")
    if source_categories is None:
        source_categories = unnamed_categories
    if source_categories is None and categories is not None and not is_own_file:
        head = state.get("decoder.enc_score_head.weight")
        if head is not None and len(head) == len(COCO80):
            source_categories = [name for _, name in COCO80]
            notes.append("the file's 80 classes are assumed to be COCO's")
        elif head is not None:
            notes.append(
                f"the file doesn't name its {len(head)} classes; give source_categories to keep "
                f"head rows"
            )
    return fill(
        model, state, where, categories=categories, source_categories=source_categories, notes=notes
    )


def load_weights(
    model: Detector,
    source: str | Path,
    *,
    categories: Sequence[Category],
    source_categories: Sequence[Category] | None = None,
) -> LoadReport:
    """Fill ``model`` with weights to start training from, with head rows by class name.

    ``source`` is any source of ``load_official``.

    Raises:
        WeightsError: as ``load_official``.
    """
    return load_official(model, source, categories=categories, source_categories=source_categories)


def fingerprint_of(source: str | Path) -> str:
    """Hex sha256 of a weights file, or of all files of a ``transformers`` checkpoint.

    For a run folder, this is the digest of its best checkpoint, else its last. Raises
    ``WeightsError`` if no file exists.
    """
    files = hub_files(hub_folder(source)) if is_hub(source) else [_weights_file(source)]
    digests = []
    for file in files:
        if not file.is_file():
            raise WeightsError(f"{file} does not exist")
        with file.open("rb") as handle:
            digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file: of its EMA, else of its model, else of the file itself.

    Raises ``WeightsError`` if the file can't be read safely.
    """
    content, where = _open(path)
    return _state_of(content, where)


def export_official(
    model: Detector, path: str | Path, *, eval_size: tuple[int, int] = (640, 640)
) -> Path:
    """Write ``{"model": …}`` for the official code's model of the same size.

    The official model can load the file strictly. The file is written completely or not at all.

    Args:
        eval_size: height and width in pixels for which the anchors are written. The official code
            evaluates only at this size.

    Raises:
        WeightsError: the model is in deploy form, whose layout the official code can't load.
    """
    if model.deployed:
        raise WeightsError(
            "the deploy form has another layout than official checkpoints. Export the model that "
            "it was made from"
        )
    _save(
        {
            "model": {
                key: value.detach().cpu().clone()
                for key, value in official_state_dict(model, eval_size).items()
            }
        },
        user_path(path),
    )
    return user_path(path)


def save_weights(
    path: str | Path,
    model: Detector,
    *,
    config: Config,
    categories: Sequence[Mapping[str, Json]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model with everything needed to use it again, completely or not at all.

    Args:
        categories: ``{"id", "name"}`` of each class in class order.
        extra: more entries, such as ``{"ema": state_dict}``, which ``load_detector`` prefers. Only
            tensors, plain values, lists and dicts.

    Raises:
        WeightsError: the numbers of categories and classes differ, or an entry of ``extra`` isn't
            plain or has a reserved name.
    """
    if len(categories) != model.num_classes:
        raise WeightsError(
            f"{len(categories)} categories for a model of {model.num_classes} classes"
        )
    for name, value in (extra or {}).items():
        if name in _RESERVED:
            raise WeightsError(
                f"extra entry {name!r} has a reserved name of the format ({', '.join(_RESERVED)})"
            )
        _check_plain(name, value)
    content = {
        "format": FORMAT,
        "config": configs.to_dict(config),
        "categories": [dict(item) for item in categories],
        "model": model.state_dict(),
        "deployed": model.deployed,
        **(extra or {}),
    }
    _save(content, user_path(path))


def load_detector(
    path_or_run_folder: str | Path, map_location: str | torch.device = "cpu"
) -> LoadedDetector:
    """Load the detector of this project's weights file or run folder, with EMA weights if any.

    Of a run folder, the best checkpoint is loaded, else the last.

    Raises:
        WeightsError: the file is missing, not readable, or not a file of this project.
    """
    path = _weights_file(path_or_run_folder)
    content, where = _open(path)
    if content.get("format") != FORMAT:
        raise WeightsError(
            f"{where}: not a weights file of this project (its format is "
            f"{content.get('format')!r}, expected {FORMAT!r}); "
            f"it looks like {describe(_state_of(content, where))}. For official weights, use "
            f"build_detector(preset, num_classes), then load_official"
        )
    for key in ("config", "categories"):
        if key not in content:
            raise WeightsError(
                f"{where}: lacks {key!r}, so the detector can't be built. The file has "
                f"{some(list(content))}"
            )
    plugins.recall(content.get("plugins") or ())
    config, categories = (
        configs.from_dict(content["config"]),
        [dict(item) for item in content["categories"]],
    )
    if config.model.backbone in BACKBONES and BACKBONES[config.model.backbone].function is None:
        plugins.load(config.train.plugins)  # a backbone's code is needed, a loss's is not
    model = build_detector(config, len(categories)).eval()
    if content.get("deployed"):
        model = model.deploy()
    report = fill(model, _state_of(content, where), where)
    if report != LoadReport():
        raise WeightsError(f"{where}: the weights don't fit the config in the file: {report}")
    return LoadedDetector(model.to(map_location), config, categories)


def _of_other_activation(model: Detector, content: Mapping[str, Any]) -> list[str]:
    """Note an activation in this project's file that differs from the model's.

    The tensors fit in spite of the difference.
    """
    activation = model.decoder.spec.act
    trained = (
        content["config"]["model"]["activation"]
        if content.get("format") == FORMAT and "config" in content
        else activation
    )
    return (
        []
        if trained == activation
        else [
            f"the file was trained with model.activation={trained}, but this model has "
            f"{activation}, so it computes something else with these weights "
            f"(--set model.activation={trained} avoids this)"
        ]
    )


def _save(content: Mapping[str, Any], path: Path) -> None:
    with files.writing_whole(path) as temporary:
        torch.save(content, temporary)


def _open(source: Mapping[str, Any] | str | Path) -> tuple[Mapping[str, Any], str]:
    """The content of a weights file, and its name in messages."""
    if isinstance(source, Mapping):
        return source, "the state dict"
    path = user_path(source)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    if path.suffix.lower() == ".onnx":
        raise WeightsError(
            f"{path} is an ONNX file, which only `deim-lab predict` accepts. Expected weights of "
            f"PyTorch"
        )
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        code = (
            isinstance(error, pickle.UnpicklingError)
            and re.search(r"Unsupported (?:global|class)", str(error)) is not None
        )
        reason = (
            "it holds Python objects that would have to be executed; only tensors and plain values "
            "are read"
            if code
            else "it is truncated, or no PyTorch file"
        )
        raise WeightsError(f"{path}: can't be read: {reason} ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: holds a {type(content).__name__}. Expected a dict of tensors or of state "
            f"dicts"
        )
    return content, str(path)


def _state_of(content: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The weights in a checkpoint: of its EMA, else of its model, else the content itself.

    The prefix ``module.`` of a wrapper is removed.
    """
    state: Any = content
    if isinstance(content.get("ema"), Mapping):
        state = content["ema"].get("module", content["ema"])
    elif isinstance(content.get("model"), Mapping):
        state = content["model"]
    if not isinstance(state, Mapping) or not any(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise WeightsError(f"{where}: holds no weights. Its entries are {some(list(content))}")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _weights_file(source: str | Path) -> Path:
    """The file itself; for a run folder, its best checkpoint, else its last."""
    path = user_path(source)
    if not path.is_dir():
        return path
    folder = path / "checkpoints"
    for name in RUN_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{path}: a folder without {' or '.join(f'checkpoints/{name}' for name in RUN_FILES[:2])}. "
        "Expected a run folder with a checkpoint, or a weights file"
    )


def _check_plain(where: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(f"{where}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_plain(f"{where}[{index}]", item)
    elif not (value is None or isinstance(value, Tensor) or type(value) in (str, int, float, bool)):
        raise WeightsError(
            f"extra entry {where} is a {type(value).__name__}. Only tensors, plain values, lists "
            f"and dicts can be read back"
        )
