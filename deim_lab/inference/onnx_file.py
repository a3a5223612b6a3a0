"""An exported detector as an ONNX file: what its metadata say, and running it with onnxruntime.

The file carries all that prediction needs (classes, input size, what its outputs are), so nothing
beside it is asked for.
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
from deim_lab.host.optional import require
from deim_lab.structures import Prediction

FORMAT = "deim_lab/onnx/1"
IMAGES, SIZES = (
    "images",
    "orig_target_sizes",
)  # the official exports' names, so that their runtimes take these files, too
DETECTIONS = ("labels", "boxes", "scores")
RAW = ("logits", "boxes_cxcywh")
SUFFIX = ".onnx"
_METADATA = ("format", "preset", "categories", "input_size", "outputs", "precision", "top_k")

Json = Any


@dataclass(frozen=True)
class OnnxInfo:
    """The metadata of an exported file.

    Attributes:
        preset: that the model was built from.
        categories: ``{"id", "name"}`` of each class in class order.
        input_size: height and width in pixels of the images that it takes; their number is free.
        outputs: ``detections`` (labels, boxes in pixels, scores; best first) or ``raw`` (logits,
            boxes).
        precision: ``fp32``, or ``fp16`` for a backbone and encoder in half precision.
        top_k: detections of an image.
    """

    preset: str
    categories: list[dict[str, Json]]
    input_size: tuple[int, int]
    outputs: Literal["detections", "raw"]
    precision: Literal["fp32", "fp16"]
    top_k: int

    def to_metadata(self) -> dict[str, str]:
        """As ONNX keeps it: strings."""
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
        """Raises ``WeightsError`` naming what is missing, for a file that this project didn't
        write.
        """
        missing = ", ".join(repr(name) for name in _METADATA if name not in metadata)
        if metadata.get("format") != FORMAT:
            found = (
                "without a format"
                if "format" not in metadata
                else f"of the format {metadata['format']!r}"
            )
            lack = (
                f": its metadata lack {missing}, so its classes and its input can't be known"
                if missing
                else ""
            )
            raise WeightsError(
                f"{where} is an ONNX file {found}, not one that `deim-lab export` wrote "
                f"({FORMAT!r}){lack}; export the model "
                "from its run or weights with this version"
            )
        if missing:
            raise WeightsError(f"{where}: its metadata lack {missing}; export the model again")
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
                f"{where}: its metadata can't be read ({error}); export the model again"
            ) from error


class OnnxDetector:
    """An exported detector, ready to run; a ``Predictor`` takes it in place of a
    ``LoadedDetector``.

    Args:
        path: of a file that ``export`` wrote.
        device: ``cuda`` asks for onnxruntime's CUDA provider; ``auto`` takes it where it is.

    Raises:
        WeightsError: no file, no ONNX file, or not one of this project.
        ConfigError: onnxruntime is missing, or has no CUDA provider where one was asked for.
    """

    def __init__(self, path: str | Path, device: torch.device | str = "auto") -> None:
        runtime = require("onnxruntime", extra="export", purpose="Running an ONNX file")
        self.path = Path(path)
        if not self.path.is_file():
            raise WeightsError(f"{self.path}: there is no such file")
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3  # errors; it warns of every initializer that it folds
        try:
            self.session = runtime.InferenceSession(
                str(self.path), settings, providers=_providers(runtime, str(device))
            )
        except Exception as error:  # its exceptions share no type of their own
            if isinstance(error, ConfigError):
                raise
            said = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"{self.path} can't be read as ONNX ({said}); it is truncated or no ONNX file"
            ) from error
        self.info = OnnxInfo.from_metadata(
            self.session.get_modelmeta().custom_metadata_map, str(self.path)
        )
        self.categories = self.info.categories
        self.input_size = self.info.input_size

    def run(self, images: Tensor, sizes_wh: Tensor) -> tuple[Tensor, ...]:
        """The outputs as they are: ``images [B, 3, H, W]`` float32 in [0, 1], ``sizes_wh [B, 2]``
        px (not used by a raw file).
        """
        given: dict[str, np.ndarray] = {IMAGES: images.float().cpu().numpy()}
        if self.info.outputs == "detections":
            given[SIZES] = sizes_wh.to(torch.int64).cpu().numpy()
        names = RAW if self.info.outputs == "raw" else DETECTIONS
        return tuple(torch.from_numpy(item) for item in self.session.run(list(names), given))

    def detect(
        self, images: Tensor, sizes_wh: Tensor, image_ids: Sequence[int]
    ) -> list[Detections]:
        """Detections of each image, best first. Raises ``NonFiniteError`` naming images whose
        outputs are inf or NaN.
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
    there = "CUDAExecutionProvider" in runtime.get_available_providers()
    if kind == "cuda" and not there:
        raise ConfigError(
            f"device {device!r}: this onnxruntime has no CUDA provider; install onnxruntime-gpu, "
            f"or use 'cpu'"
        )
    return (
        ["CUDAExecutionProvider", "CPUExecutionProvider"]
        if there and kind in ("cuda", "auto")
        else ["CPUExecutionProvider"]
    )
