"""Weights in and out: official checkpoints, this project's own files and run folders, and detectors
of ``transformers``.

Files are read with ``weights_only=True``: nothing in them is executed. What a file looks like that
is of another model says ``layout``; how tensors go into a model, ``fill``.
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
RUN_FILES = (
    "best.pt",
    "last.pt",
    "last_previous.pt",
)  # of a run's checkpoints folder, the first that is there

_RESERVED = ("format", "config", "categories", "model", "deployed")

Json = Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedDetector:
    """A trained detector in eval mode, the config it was trained with, and ``{"id", "name"}`` of
    each class in class order.
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

    ``reg_scale`` may be int or float, batch norms of the backbone trained or frozen on either side,
    anchors of any size. A layout doesn't tell activation functions: official weights of ``dfine_n``
    (ReLU) also fit ``deim_dfine_n`` (SiLU), which then computes something else. Own files say what
    they were trained with, and the report notes a difference.

    Args:
        source: a bare state dict, ``{"model": …}`` or ``{"ema": {"module": …}}`` (which is
            preferred); the path of a file with one of them, or a run folder; a folder of
            ``transformers`` or a hub id (``hub.load_hub``).
        categories: names, or ``{"id", "name"}``, of the model's classes in class order. Head rows
            then go by name: classes that the file hasn't start anew, and the report's ``table()``
            says which. None: equal numbers of classes are taken to be the same ones, and of another
            number all head rows start anew.
        source_categories: of the file's classes. None: as an own file or config.json says; COCO's
            where there are 80; else unknown, and with ``categories`` all head rows start anew.
        unnamed_categories: of the file's classes if the file does not name them itself.

    Raises:
        WeightsError: the file can't be read safely, or it is of another size or family; says what
            it looks like.
    """
    if not isinstance(source, Mapping) and is_hub(source):
        return load_hub(
            model,
            source,
            categories=categories,
            source_categories=source_categories,
            unnamed_categories=unnamed_categories,
        )
    content, where = _open(source if isinstance(source, Mapping) else _weights_file(Path(source)))
    state = _state_of(content, where)
    notes = _of_other_activation(model, content)
    own = content.get("format") == FORMAT
    if source_categories is None and own:
        source_categories = content.get("categories")
    if source_categories is None:
        source_categories = unnamed_categories
    if source_categories is None and categories is not None and not own:
        head = state.get("decoder.enc_score_head.weight")
        if head is not None and len(head) == len(COCO80):
            source_categories = [name for _, name in COCO80]
            notes.append("its 80 classes are taken to be COCO's")
        elif head is not None:
            notes.append(
                f"the file doesn't name its {len(head)} classes: source_categories would say whose "
                f"head rows can be kept"
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
    """Start training ``model`` from whatever ``load_official`` takes, head rows by class name.

    Raises:
        WeightsError: as ``load_official``.
    """
    return load_official(model, source, categories=categories, source_categories=source_categories)


def fingerprint_of(source: str | Path) -> str:
    """Hex sha256 of a weights file, of the file that a run folder stands for, or of all files of a
    ``transformers`` checkpoint.

    Raises ``WeightsError`` where there is none.
    """
    files = hub_files(hub_folder(source)) if is_hub(source) else [_weights_file(Path(source))]
    digests = []
    for file in files:
        if not file.is_file():
            raise WeightsError(f"{file}: there is no such file")
        with file.open("rb") as handle:
            digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file, EMA before model before the content itself. Raises
    ``WeightsError`` where it can't be read safely.
    """
    content, where = _open(path)
    return _state_of(content, where)


def export_official(
    model: Detector, path: str | Path, *, eval_size: tuple[int, int] = (640, 640)
) -> Path:
    """Write ``{"model": …}`` that goes strictly into the official code's model of the same size;
    whole or not at all.

    Args:
        eval_size: height and width in pixels for which the anchors are written (official code
            evaluates at this size alone).

    Raises:
        WeightsError: the deploy form, whose layout official code can't take up.
    """
    if model.deployed:
        raise WeightsError(
            "the deploy form has another layout than official checkpoints: export the model it was "
            "made from"
        )
    _save(
        {
            "model": {
                key: value.detach().cpu().clone()
                for key, value in official_state_dict(model, eval_size).items()
            }
        },
        Path(path),
    )
    return Path(path)


def save_weights(
    path: str | Path,
    model: Detector,
    *,
    config: Config,
    categories: Sequence[Mapping[str, Json]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model with all that is needed to use it again; whole or not at all.

    Args:
        categories: ``{"id", "name"}`` of each class in class order.
        extra: more entries, such as ``{"ema": state_dict}``, which ``load_detector`` prefers.
            Tensors, plain values, lists and dicts only.

    Raises:
        WeightsError: not as many categories as classes, or an ``extra`` that isn't plain or takes a
            reserved name.
    """
    if len(categories) != model.num_classes:
        raise WeightsError(
            f"{len(categories)} categories for a model of {model.num_classes} classes"
        )
    for name, value in (extra or {}).items():
        if name in _RESERVED:
            raise WeightsError(
                f"extra entry {name!r} is a reserved name of the format ({', '.join(_RESERVED)})"
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
    _save(content, Path(path))


def load_detector(
    path_or_run_folder: str | Path, map_location: str | torch.device = "cpu"
) -> LoadedDetector:
    """The detector of an own weights file or of a run folder (its best checkpoint, else its last),
    with EMA weights where it has them.

    Raises:
        WeightsError: nothing there, not readable, or not a file of this project.
    """
    path = _weights_file(Path(path_or_run_folder))
    content, where = _open(path)
    if content.get("format") != FORMAT:
        raise WeightsError(
            f"{where}: not a weights file of this project (its format is "
            f"{content.get('format')!r}, expected {FORMAT!r}); "
            f"it looks like {describe(_state_of(content, where))}. For official weights: "
            f"build_detector(preset, "
            "num_classes), then load_official"
        )
    for key in ("config", "categories"):
        if key not in content:
            raise WeightsError(
                f"{where}: lacks {key!r}, so it can't be built; its entries are "
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
        raise WeightsError(f"{where}: its weights don't fit its own config: {report}")
    return LoadedDetector(model.to(map_location), config, categories)


def _of_other_activation(model: Detector, content: Mapping[str, Any]) -> list[str]:
    """A note where an own file was trained with another activation than the model's: its tensors
    fit all the same.
    """
    mine = model.decoder.spec.act
    trained = (
        content["config"]["model"]["activation"]
        if content.get("format") == FORMAT and "config" in content
        else mine
    )
    return (
        []
        if trained == mine
        else [
            f"it was trained with model.activation={trained}, and this model has {mine}: "
            f"the weights mean something else here (--set model.activation={trained} keeps their "
            f"meaning)"
        ]
    )


def _save(content: Mapping[str, Any], path: Path) -> None:
    with files.writing_whole(path) as temporary:
        torch.save(content, temporary)


def _open(source: Mapping[str, Any] | str | Path) -> tuple[Mapping[str, Any], str]:
    """The content, and how to name it in messages."""
    if isinstance(source, Mapping):
        return source, "the state dict"
    path = Path(source)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    if path.suffix.lower() == ".onnx":
        raise WeightsError(
            f"{path} is an ONNX file, which only `deim-lab predict` takes; expected weights of "
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
            else "it is truncated, or no PyTorch file at all"
        )
        raise WeightsError(f"{path}: can't be read: {reason} ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: holds a {type(content).__name__}, expected a dict of tensors or of state "
            f"dicts"
        )
    return content, str(path)


def _state_of(content: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The weights inside a checkpoint: EMA before model before the content itself; wrappers'
    ``module.`` taken off.
    """
    state: Any = content
    if isinstance(content.get("ema"), Mapping):
        state = content["ema"].get("module", content["ema"])
    elif isinstance(content.get("model"), Mapping):
        state = content["model"]
    if not isinstance(state, Mapping) or not any(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise WeightsError(f"{where}: holds no weights; its entries are {some(list(content))}")
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
    raise WeightsError(
        f"{path}: a folder without {' or '.join(f'checkpoints/{name}' for name in RUN_FILES[:2])}; "
        "expected a run folder with a checkpoint, or a weights file"
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
            f"extra entry {where} is a {type(value).__name__}; only tensors, plain values, lists "
            f"and dicts can be read back"
        )
