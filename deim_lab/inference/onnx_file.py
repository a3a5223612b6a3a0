"""Read the metadata of an exported ONNX file, and run the file with onnxruntime.

The file has everything that prediction needs (classes, input size, kind of outputs). No other file
is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deim_lab.detections import Detections, check_finite, postprocess
from deim_lab.errors import ConfigError, NonFiniteError, WeightsError
from deim_lab.host.files import user_path
from deim_lab.host.optional import require
from deim_lab.structures import Prediction

FORMAT = "deim_lab/onnx/1"
# Names of the official exports, so that runtimes for them can also use these files.
IMAGES, SIZES = "images", "orig_target_sizes"
DETECTIONS = ("labels", "boxes", "scores")
RAW = ("logits", "boxes_cxcywh")
SUFFIX = ".onnx"
_METADATA = ("format", "preset", "categories", "input_size", "outputs", "precision", "top_k")

Json = Any


@dataclass(frozen=True)
class OnnxInfo:
    """The metadata of an exported file.

    Attributes:
        preset: preset of the model.
        categories: ``{"id", "name"}`` of each class in class order.
        input_size: height and width in pixels of the input images; the batch size is free.
        outputs: ``detections`` (labels, boxes in pixels, scores; best first) or ``raw`` (logits,
            boxes).
        precision: ``fp32``, or ``fp16`` for a backbone and encoder in half precision.
        top_k: number of detections per image.
    """

    preset: str
    categories: list[dict[str, Json]]
    input_size: tuple[int, int]
    outputs: Literal["detections", "raw"]
    precision: Literal["fp32", "fp16"]
    top_k: int

    def to_metadata(self) -> dict[str, str]:
        """The metadata as strings, the only type in ONNX metadata."""
        return {
            "format": FORMAT,
            "preset": self.preset,
            "categories": json.dumps(self.categories),
            "input_size": json.dumps(self.input_size),
            "outputs": self.outputs,
            "precision": self.precision,
            "top_k": json.dumps(self.top_k),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str) -> OnnxInfo:
        """Read the metadata of a file. Raises ``WeightsError`` for a file of another project.

        The error names the missing entries.
        """
        missing = ", ".join(repr(name) for name in _METADATA if name not in metadata)
        if metadata.get("format") != FORMAT:
            file_format = (
                "without a format"
                if "format" not in metadata
                else f"of the format {metadata['format']!r}"
            )
            lack = (
                f": its metadata lack {missing}, so its classes and its input are unknown"
                if missing
                else ""
            )
            raise WeightsError(
                f"{where} is an ONNX file {file_format}, not one that `deim-lab export` wrote "
                f"({FORMAT!r}){lack}. Export the model from its run or weights with this version"
            )
        if missing:
            raise WeightsError(f"{where}: its metadata lack {missing}. Export the model again")
        try:
            height, width = json.loads(metadata["input_size"])
            return cls(
                metadata["preset"],
                json.loads(metadata["categories"]),
                (int(height), int(width)),
                metadata["outputs"],  # type: ignore[arg-type]
                metadata["precision"],  # type: ignore[arg-type]
                int(metadata["top_k"]),
            )
        except (ValueError, TypeError) as error:
            raise WeightsError(
                f"{where}: its metadata can't be read ({error}). Export the model again"
            ) from error


class OnnxDetector:
    """An exported detector, ready to run in a ``Predictor`` instead of a ``LoadedDetector``.

    Args:
        path: path of a file that ``export`` wrote.
        device: ``cuda`` requires onnxruntime's CUDA provider; ``auto`` uses it if it is available.

    Raises:
        WeightsError: the file does not exist, is no ONNX file, or is not one of this project.
        ConfigError: onnxruntime is missing, or lacks the CUDA provider for ``cuda``.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "auto") -> None:
        runtime = require("onnxruntime", extra="export", purpose="Running an ONNX file")
        self.path = user_path(path)
        if not self.path.is_file():
            raise WeightsError(f"{self.path} does not exist")
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3  # only errors: it warns of every initializer that it folds
        try:
            self.session = runtime.InferenceSession(
                str(self.path), settings, providers=_providers(runtime, str(device))
            )
        except Exception as error:  # onnxruntime's exceptions have no common type
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"{self.path} can't be read as ONNX ({reason}). The file is truncated or no ONNX "
                f"file"
            ) from error
        self.info = OnnxInfo.from_metadata(
            self.session.get_modelmeta().custom_metadata_map, str(self.path)
        )
        self.categories = self.info.categories
        self.input_size = self.info.input_size

    def run(self, images: Tensor, sizes_wh: Tensor) -> tuple[Tensor, ...]:
        """Run the file and return its outputs unchanged.

        ``images [B, 3, H, W]`` are float32 in [0, 1], ``sizes_wh [B, 2]`` in px. A raw file doesn't
        use the sizes.
        """
        inputs: dict[str, np.ndarray] = {IMAGES: images.float().cpu().numpy()}
        if self.info.outputs == "detections":
            inputs[SIZES] = sizes_wh.to(torch.int64).cpu().numpy()
        names = RAW if self.info.outputs == "raw" else DETECTIONS
        return tuple(torch.from_numpy(item) for item in self.session.run(list(names), inputs))

    def detect(
        self, images: Tensor, sizes_wh: Tensor, image_ids: Sequence[int]
    ) -> list[Detections]:
        """Detections of each image, best first.

        Raises ``NonFiniteError`` naming the images with outputs that are inf or NaN.
        """
        if self.info.outputs == "raw":
            prediction = Prediction(*self.run(images, sizes_wh))
            check_finite(prediction, image_ids)
            return postprocess(prediction, sizes_wh, top_k=self.info.top_k)
        labels, boxes_xyxy, scores = self.run(images, sizes_wh)
        bad = tuple(
            image_ids[index]
            for index in (~(scores + boxes_xyxy.sum(-1)).isfinite().all(1))
            .nonzero()
            .flatten()
            .tolist()
        )
        if bad:
            raise NonFiniteError(
                f"the outputs of {self.path} are inf or NaN for images {list(bad[:8])}",
                image_ids=bad,
                term="boxes",
            )
        return [Detections(*parts) for parts in zip(scores, labels, boxes_xyxy, strict=True)]


def _providers(runtime: ModuleType, device: str) -> list[str]:
    kind = device.partition(":")[0]
    has_cuda = "CUDAExecutionProvider" in runtime.get_available_providers()
    if kind == "cuda" and not has_cuda:
        raise ConfigError(
            f"device {device!r}: this onnxruntime has no CUDA provider. Install onnxruntime-gpu, "
            f"or use 'cpu'"
        )
    return (
        ["CUDAExecutionProvider", "CPUExecutionProvider"]
        if has_cuda and kind in ("cuda", "auto")
        else ["CPUExecutionProvider"]
    )
