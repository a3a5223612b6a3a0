"""Load D-FINE and RT-DETRv2 of Hugging Face's ``transformers``, from a folder or a hub id.

A folder holds ``config.json`` and ``model.safetensors`` (one file, or shards with an index). Keys
are renamed to the official layout; the projections of queries, keys and values become one tensor.
The tensors don't show some settings of the architecture (activations, scale of offsets, the last
layer of inference). These settings are read from ``config.json``, and different values are refused.

One difference remains: ``transformers`` builds the encoder's position table row by row
with y before x, the official code column by column with x before y. The outputs are equal on square
inputs. On rectangular inputs, the
outputs here are those of the official code.
"""

from __future__ import annotations

import importlib
import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from deim_lab.detector.detector import Detector
from deim_lab.errors import WeightsError, nearest
from deim_lab.host import files
from deim_lab.host.files import user_path
from deim_lab.host.optional import require
from deim_lab.weights.classes import Category
from deim_lab.weights.fill import LoadReport, fill

Json = Any

FAMILIES = {"d_fine": "dfine", "rt_detr_v2": "rtdetrv2"}  # transformers' model_type → model.family
FILES = ("model.safetensors", "model.safetensors.index.json")

# Settings of config.json with the only value that gives the outputs of the official architecture.
_FIXED: dict[str, Json] = {
    "normalize_before": False,
    "activation_function": "silu",
    "encoder_activation_function": "gelu",
    "encoder_layers": 1,
    "learn_initial_query": False,
    "with_box_refine": True,
    "positional_encoding_temperature": 10000,
    "decoder_method": "default",
    "decoder_offset_scale": 0.5,
    "layer_norm_eps": 1e-5,
    "batch_norm_eps": 1e-5,
    "layer_scale": 1,
    "top_prob_values": 4,
    "eval_size": None,  # with a size, transformers omits the position table during inference
}
_FIXED_BACKBONE: dict[str, Json] = {
    "hidden_act": "relu",
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
}

# Key patterns, tried in this order; every matching pattern is applied.
_COMMON = (
    (r"^model\.encoder_input_proj\.(\d+)\.0\.", r"encoder.input_proj.\1.conv."),
    (r"^model\.encoder_input_proj\.(\d+)\.1\.", r"encoder.input_proj.\1.norm."),
    (r"^model\.decoder_input_proj\.(\d+)\.0\.", r"decoder.input_proj.\1.conv."),
    (r"^model\.decoder_input_proj\.(\d+)\.1\.", r"decoder.input_proj.\1.norm."),
    (r"^model\.encoder\.aifi\.", "encoder.encoder."),
    (r"^model\.encoder\.", "encoder."),
    (r"^model\.enc_output\.0\.", "decoder.enc_output.proj."),
    (r"^model\.enc_output\.1\.", "decoder.enc_output.norm."),
    (r"^model\.(enc_score_head|enc_bbox_head|denoising_class_embed)\.", r"decoder.\1."),
    (r"^model\.decoder\.(query_pos_head|pre_bbox_head|reg_scale|up)\b", r"decoder.\1"),
    (r"^(?:model\.decoder\.)?class_embed\.", "decoder.dec_score_head."),
    (r"^(?:model\.decoder\.)?bbox_embed\.", "decoder.dec_bbox_head."),
    (r"^model\.decoder\.(layers|lqe_layers)\.", r"decoder.decoder.\1."),
    (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"^(encoder\..*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(decoder\..*)\.final_layer_norm\.", r"\1.norm3."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.n_points_scale$", ".num_points_scale"),
    (r"\.(?:fc1|mlp\.layers\.0)\.", ".linear1."),
    (r"\.(?:fc2|mlp\.layers\.1)\.", ".linear2."),
)
_DFINE = (
    (r"^model\.backbone\.model\.embedder\.", "backbone.stem."),
    (r"^model\.backbone\.model\.encoder\.stages\.", "backbone.stages."),
    (r"^(backbone\..*)\.convolution\.", r"\1.conv."),
    (r"^(backbone\..*)\.normalization\.", r"\1.bn."),
    (r"^(encoder\.downsample_convs\.\d+)\.conv(\d)\.", r"\1.0.cv\2."),
    (r"^(encoder\.[fp][pa]n_blocks\.\d+)\.csp_rep1\.", r"\1.cv2.0."),
    (r"^(encoder\.[fp][pa]n_blocks\.\d+)\.csp_rep2\.", r"\1.cv3.0."),
    (r"^(encoder\.[fp][pa]n_blocks\.\d+)\.conv([14])\.", r"\1.cv\2."),
    (r"^(encoder\.[fp][pa]n_blocks\.\d+)\.conv2\.", r"\1.cv2.1."),
    (r"^(encoder\.[fp][pa]n_blocks\.\d+)\.conv3\.", r"\1.cv3.1."),
)
_RTDETR = (
    (r"^model\.backbone\.model\.embedder\.embedder\.0\.", "backbone.conv1.conv1_1."),
    (r"^model\.backbone\.model\.embedder\.embedder\.1\.", "backbone.conv1.conv1_2."),
    (r"^model\.backbone\.model\.embedder\.embedder\.2\.", "backbone.conv1.conv1_3."),
    (
        r"^model\.backbone\.model\.encoder\.stages\.(\d+)\.layers\.",
        r"backbone.res_layers.\1.blocks.",
    ),
    (r"^(backbone\..*)\.shortcut\.1\.", r"\1.short.conv."),
    (r"^(backbone\..*)\.shortcut\.", r"\1.short."),
    (r"^(backbone\..*)\.layer\.0\.", r"\1.branch2a."),
    (r"^(backbone\..*)\.layer\.1\.", r"\1.branch2b."),
    (r"^(backbone\..*)\.layer\.2\.", r"\1.branch2c."),
    (r"^(backbone\..*)\.convolution\.", r"\1.conv."),
    (r"^(backbone\..*)\.normalization\.", r"\1.norm."),
)


@dataclass(frozen=True)
class HubCheckpoint:
    """A checkpoint of ``transformers`` in the official layout.

    Attributes:
        state: tensors under the names of official checkpoints.
        config: content of ``config.json``.
        categories: names of the classes; None if they are placeholders (``LABEL_0``).
        folder: folder of the checkpoint.
    """

    state: dict[str, Tensor]
    config: dict[str, Json]
    categories: tuple[str, ...] | None
    folder: Path


def is_hub(source: str | Path) -> bool:
    """Whether ``source`` is a folder of ``transformers`` or a hub id.

    A hub id looks like ``owner/name``, and no path of this name exists.
    """
    path = user_path(source)
    if path.exists():
        return (path / "config.json").is_file() and any(
            (path / name).is_file() for name in (*FILES, "pytorch_model.bin")
        )
    return re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) is not None and path.suffix not in (
        ".pth",
        ".pt",
        ".safetensors",
        ".bin",
        ".onnx",
    )


def load_hub(
    model: Detector,
    folder_or_id: str | Path,
    *,
    categories: Sequence[Category] | None = None,
    source_categories: Sequence[Category] | None = None,
    unnamed_categories: Sequence[Category] | None = None,
) -> LoadReport:
    """Copy a detector of ``transformers`` into ``model``, with head rows by class name.

    Args:
        folder_or_id: a folder with config.json and safetensors, or a hub id such as
            ``ustc-community/dfine-small-coco``.
        categories: classes of the model; None: equal numbers of classes are assumed to be the same
            classes.
        source_categories: classes of the checkpoint, instead of its ``id2label``.
        unnamed_categories: classes of the checkpoint if its ``id2label`` has only placeholders.

    Raises:
        WeightsError: the checkpoint is missing, not readable, or of another architecture (names the
            differences).
        ConfigError: the package safetensors is missing.
    """
    checkpoint = read_hub(folder_or_id)
    _check_architecture(checkpoint, model)
    notes = []
    file_queries = checkpoint.config.get("num_queries", 300)
    model_queries = model.decoder.spec.num_queries
    if file_queries != model_queries:
        notes.append(
            f"num_queries is {file_queries} in the checkpoint and {model_queries} in the model; "
            f"the model's value is used"
        )
    if source_categories is None:
        source_categories = (
            unnamed_categories if checkpoint.categories is None else checkpoint.categories
        )
    return fill(
        model,
        checkpoint.state,
        str(folder_or_id),
        categories=categories,
        source_categories=source_categories,
        notes=notes,
    )


def read_hub(folder_or_id: str | Path) -> HubCheckpoint:
    """Read a checkpoint and rename its keys. Raises as ``load_hub``."""
    folder = hub_folder(folder_or_id)
    config = files.read_json(folder / "config.json", error=WeightsError)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in FAMILIES:
        raise WeightsError(
            f"{folder}: config.json has model_type {kind!r}. Expected one of "
            f"{', '.join(FAMILIES)}{nearest(str(kind), FAMILIES)}"
        )
    patterns = (*_COMMON, *(_DFINE if kind == "d_fine" else _RTDETR))
    renamed = {_rename(key, patterns): value for key, value in _tensors(folder).items()}
    state = _join_projections(renamed, folder)
    _untie_heads(state, int(config.get("decoder_layers", 6)))
    return HubCheckpoint(state, config, _class_names(config), folder)


def hub_folder(folder_or_id: str | Path) -> Path:
    """The folder itself, or the cached folder of a hub id, downloaded if necessary."""
    path = user_path(folder_or_id)
    if path.is_dir():
        return path
    snapshot_download = require(
        "huggingface_hub",
        extra="pretrained",
        purpose=f"Getting {folder_or_id!r} from the hub (it is no folder here)",
    ).snapshot_download
    patterns = ["config.json", "model*.safetensors", "model.safetensors.index.json"]
    try:
        return Path(
            snapshot_download(str(folder_or_id), allow_patterns=patterns, local_files_only=True)
        )
    except Exception:  # not in the cache; the next call reports a wrong id
        pass
    try:
        with cache_alone_without_network():
            return Path(snapshot_download(str(folder_or_id), allow_patterns=patterns))
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise WeightsError(
            f"{folder_or_id!r} is no folder here, not in the hub's cache, and can't be downloaded "
            f"({reason}). Download it on a machine with a network, and give the folder"
        ) from error


@contextmanager
def cache_alone_without_network() -> Iterator[None]:
    """Restrict the hub's client to its cache while the hub's host name can't be resolved.

    Without this context, the client would retry for a minute.
    """
    try:
        constants: Any = importlib.import_module("huggingface_hub.constants")
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _has_address(constants.ENDPOINT)
    try:
        yield
    except Exception as error:
        if (
            before
            or not constants.HF_HUB_OFFLINE
            or not type(error).__module__.startswith("huggingface_hub")
        ):
            raise
        raise ConnectionError(
            f"no network: {urlsplit(constants.ENDPOINT).hostname} has no address here"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _has_address(url: str) -> bool:
    """Whether the host name of ``url`` can be resolved; True behind a proxy."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(url).hostname, 443)
    except OSError:
        return False
    return True


def hub_files(folder: Path) -> list[Path]:
    """All files of a checkpoint, with config.json first."""
    return [folder / "config.json", *_weight_files(folder)]


def _weight_files(folder: Path) -> list[Path]:
    single_file, index = (folder / name for name in FILES)
    if single_file.is_file():
        return [single_file]
    if index.is_file():
        content = files.read_json(index, error=WeightsError)
        try:
            names = sorted(set(content["weight_map"].values()))
        except (KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{index}: no index of shards ({type(error).__name__})") from error
        return [folder / Path(name).name for name in names]
    raise WeightsError(
        f"{folder}: holds no {FILES[0]}. Other formats, such as pytorch_model.bin, are not read. "
        f"Save the model again with `save_pretrained`"
    )


def _tensors(folder: Path) -> dict[str, Tensor]:
    load_file = require(
        "safetensors.torch", extra="pretrained", purpose="Reading a safetensors file"
    ).load_file
    result: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        try:
            result |= load_file(file)
        except Exception as error:
            raise WeightsError(
                f"{file}: can't be read. The file is missing, truncated, or no safetensors file "
                f"({type(error).__name__})"
            ) from error
    return result


def _rename(key: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in patterns:
        key = re.sub(pattern, replacement, key)
    return key


def _join_projections(state: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Join the q, k and v projections of each self-attention into ``in_proj_*`` tensors."""
    result = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*\.self_attn)\.([qkv])_proj\.(weight|bias)", key)
        if match is None:
            result[key] = value
        elif match[2] == "q":
            names = [f"{match[1]}.{letter}_proj.{match[3]}" for letter in "qkv"]
            missing = [name for name in names if name not in state]
            if missing:
                raise WeightsError(f"{folder}: lacks {', '.join(missing)}")
            result[f"{match[1]}.in_proj_{match[3]}"] = torch.cat([state[name] for name in names])
    return result


def _untie_heads(state: dict[str, Tensor], layers: int) -> None:
    """Give every decoder layer its copy of a shared head.

    ``transformers`` writes a shared head once, under the name of the first layer.
    """
    for name in ("dec_score_head", "dec_bbox_head"):
        first = {
            key.removeprefix(f"decoder.{name}.0."): value
            for key, value in state.items()
            if key.startswith(f"decoder.{name}.0.")
        }
        if not any(key.startswith(f"decoder.{name}.1.") for key in state):
            state |= {
                f"decoder.{name}.{layer}.{suffix}": value
                for layer in range(1, layers)
                for suffix, value in first.items()
            }


def _class_names(config: Mapping[str, Json]) -> tuple[str, ...] | None:
    labels = config.get("id2label")
    if not isinstance(labels, Mapping) or not labels:
        return None
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _check_architecture(checkpoint: HubCheckpoint, model: Detector) -> None:
    """Raise ``WeightsError`` for differences of the architecture that the tensors don't show."""
    differing = [
        *_fixed_that_differ(checkpoint.config),
        *_decoder_that_differs(checkpoint.config, model),
        *_encoder_that_differs(checkpoint.config, model),
    ]
    if differing:
        raise WeightsError(
            f"{checkpoint.folder}: another architecture than this model's: {'; '.join(differing)}"
        )


def _fixed_that_differ(config: Mapping[str, Json]) -> list[str]:
    """Describe the differences in settings that have only one supported value."""
    backbone = config.get("backbone_config") or {}
    differing = [
        f"{key} is {config[key]!r}, expected {value!r}"
        for key, value in _FIXED.items()
        if config.get(key, value) != value
    ]
    differing += [
        f"backbone_config.{key} is {backbone[key]!r}, expected {value!r}"
        for key, value in _FIXED_BACKBONE.items()
        if backbone.get(key, value) != value
    ]
    return differing


def _decoder_that_differs(config: Mapping[str, Json], model: Detector) -> list[str]:
    """Describe the differences in the decoder: activation, heads, layers, sampling points."""
    spec, differing = model.decoder.spec, []
    activation = config.get("decoder_activation_function", "relu")
    # Box heads of transformers always have ReLU: another activation is neither D-FINE nor DEIM.
    if activation != "relu":
        differing.append(f"decoder_activation_function is {activation!r}, expected 'relu'")
    elif spec.act != "relu":
        differing.append(
            f"the checkpoint's decoder has ReLU, this model's {spec.act} (use a preset without "
            f"deim_, such as dfine_n, or set model.activation=relu)"
        )
    heads = config.get("decoder_attention_heads", 8)
    if heads != spec.num_heads:
        differing.append(f"decoder_attention_heads is {heads}, this model's {spec.num_heads}")
    layers = config.get("decoder_layers", 6)
    is_dfine = config["model_type"] == "d_fine"
    last = config.get("eval_idx", -1) % layers + 1 if is_dfine else layers
    if last != spec.eval_layers:
        differing.append(
            f"inference ends with layer {last} of {layers} in the checkpoint, with layer "
            f"{spec.eval_layers} of {spec.num_layers} in this model (model.decoder_layers, "
            f"model.eval_layers)"
        )
    points = config.get("decoder_n_points", 4)
    points = [points] * len(spec.points) if isinstance(points, int) else list(points)
    # Another family, or another number of levels, is refused later because of its tensors.
    comparable = is_dfine is (model.decoder.up is not None) and len(points) == len(spec.points)
    if comparable and points != list(spec.points):  # equal sums have equal tensors
        differing.append(
            f"decoder_n_points is {points}, this model's model.decoder_points {list(spec.points)}"
        )
    return differing


def _encoder_that_differs(config: Mapping[str, Json], model: Detector) -> list[str]:
    """Describe a different number of heads in the encoder's self-attention, if it has one."""
    encoders = [
        module for name, module in model.encoder.named_modules() if name.endswith("self_attn")
    ]
    model_heads = getattr(encoders[0], "num_heads", None) if encoders else None
    file_heads = config.get("encoder_attention_heads", 8)
    if model_heads is None or model_heads == file_heads:
        return []
    return [f"encoder_attention_heads is {file_heads}, this model's {model_heads}"]
