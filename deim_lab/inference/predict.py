"""Detect objects in picture files, and draw the boxes."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from deim_lab import palette
from deim_lab.data import images
from deim_lab.detections import Detections, ImageDetections, check_finite, coco_rows, postprocess
from deim_lab.errors import DataError
from deim_lab.host.files import user_path
from deim_lab.structures import Prediction
from deim_lab.weights.own import LoadedDetector

Json = Any
Pixels = np.ndarray | Tensor
Source = str | os.PathLike[str] | Pixels

_LIGHT_FROM = 140  # luma of a label from which its text is black


@dataclass(frozen=True)
class Predictions:
    """The detections of all readable pictures, and the errors of unreadable files by path."""

    images: list[ImageDetections] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ImageDetections]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def to_coco(self) -> list[dict[str, Json]]:
        """COCO result rows, with ``file_name`` next to each ``image_id`` (null for an array)."""
        return [row for image in self.images for row in coco_rows(image)]


class Engine(Protocol):
    """Anything that detects objects in a batch: a PyTorch model or ``onnx_file.OnnxDetector``."""

    categories: list[dict[str, Json]]  # {"id", "name"} of each class in class order
    input_size: tuple[int, int]  # height and width in pixels

    def detect(
        self, images: Tensor, sizes_wh: Tensor, image_ids: Sequence[int]
    ) -> list[Detections]:
        """Detections of ``images [B, 3, H, W]`` (float in [0, 1]).

        Boxes are in pixels of ``sizes_wh [B, 2]``. ``image_ids`` are used in errors.
        """


class TorchEngine:
    """A PyTorch detector as an ``Engine``, moved to the device and set to eval mode."""

    def __init__(self, loaded: LoadedDetector, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.model = loaded.model.to(self.device).eval()
        self.categories = loaded.categories
        self.input_size = loaded.config.data.input_size
        self.top_k = loaded.config.eval.top_k

    @torch.no_grad()
    def detect(
        self, images: Tensor, sizes_wh: Tensor, image_ids: Sequence[int]
    ) -> list[Detections]:
        prediction = self.model(images.to(self.device))
        assert isinstance(prediction, Prediction)
        check_finite(prediction, image_ids)
        return postprocess(prediction, sizes_wh, top_k=self.top_k)


class Predictor:
    """A trained detector for picture files.

    Pictures are decoded upright and resized to the detector's input size without keeping the aspect
    ratio.

    Args:
        loaded: the result of ``weights.load_detector``, or an ``onnx_file.OnnxDetector``.
        device: device of the computation; not used for an exported detector, which has its own.
        threshold: detections with a lower score are left out.
        batch_size: number of pictures at a time.
    """

    def __init__(
        self,
        loaded: LoadedDetector | Engine,
        device: torch.device | str = "cpu",
        *,
        threshold: float = 0.0,
        batch_size: int = 8,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold!r} is outside [0, 1]")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size!r} is below 1")
        self.engine: Engine = (
            TorchEngine(loaded, device) if isinstance(loaded, LoadedDetector) else loaded
        )
        self.categories = self.engine.categories
        self.threshold = threshold
        self.batch_size = batch_size

    def predict(self, sources: Source | Iterable[Source]) -> Predictions:
        """Detections of a file, a folder, a glob, pixels, or several of them.

        Pixels are uint8 RGB: an array ``[H, W, 3]`` or a tensor ``[3, H, W]``. A file that can't be
        read becomes an entry of ``errors``; all other files are still processed. Raises
        ``DataError`` for a folder or glob without pictures and for an array of another kind.
        """
        result = Predictions()
        for item in self.stream(sources):
            if isinstance(item, ImageDetections):
                result.images.append(item)
            else:
                result.errors[item[0]] = item[1]
        return result

    def stream(
        self, sources: Source | Iterable[Source]
    ) -> Iterator[ImageDetections | tuple[str, str]]:
        """Yield the detections of each picture in the given order, as ``predict`` computes them.

        A file that can't be read gives (path, error).
        """
        return (result for result, _ in self.stream_with_pixels(sources))

    def stream_with_pixels(
        self, sources: Source | Iterable[Source]
    ) -> Iterator[tuple[ImageDetections, Tensor] | tuple[tuple[str, str], None]]:
        """Yield the results of ``stream``, each with the picture's pixels for drawing.

        Pixels are uint8 RGB ``[3, H, W]``; None for a file that can't be read.
        """
        numbered = enumerate(expand(sources), start=1)
        while batch := list(itertools.islice(numbered, self.batch_size)):
            failed: dict[int, tuple[str, str]] = {}
            pixels: dict[int, Tensor] = {}
            for image_id, source in batch:
                try:
                    pixels[image_id] = images.decode(source) if isinstance(source, Path) else source
                except DataError as error:
                    failed[image_id] = (str(source), str(error))
            paths = {image_id: source for image_id, source in batch if isinstance(source, Path)}
            detected = {item.image_id: item for item in self.detect(pixels, paths)}
            for image_id, _ in batch:
                if image_id in failed:
                    yield failed[image_id], None
                else:
                    yield detected[image_id], pixels[image_id]

    def detect(
        self, pixels: Mapping[int, Tensor], paths: Mapping[int, Path] | None = None
    ) -> list[ImageDetections]:
        """Detections of one batch, in the order of its image ids.

        ``pixels`` are uint8 RGB ``[3, H, W]`` by image id. ``paths`` are copied into the results.
        """
        if not pixels:
            return []
        size = list(self.engine.input_size)
        inputs = torch.stack([F.resize(image, size, antialias=True) for image in pixels.values()])
        sizes_wh = [(image.shape[2], image.shape[1]) for image in pixels.values()]
        detections = self.engine.detect(inputs.float() / 255, torch.tensor(sizes_wh), list(pixels))
        return [
            self._named(
                image_id, (paths or {}).get(image_id), size_wh, item.above(self.threshold).to("cpu")
            )
            for image_id, size_wh, item in zip(pixels, sizes_wh, detections, strict=True)
        ]

    def _named(
        self, image_id: int, path: Path | None, size_wh: tuple[int, int], detections: Detections
    ) -> ImageDetections:
        categories = [self.categories[label] for label in detections.labels.tolist()]
        return ImageDetections(
            image_id,
            path,
            size_wh,
            detections,
            tuple(int(item["id"]) for item in categories),
            tuple(str(item["name"]) for item in categories),
        )


def expand(sources: Source | Iterable[Source]) -> list[Path | Tensor]:
    """Expand sources into single files, and into pixels as uint8 ``[3, H, W]``.

    Files of a folder are sorted by name; subfolders are left out. Raises ``DataError`` for a folder
    or glob without pictures, for an empty list of sources, and for pixels of another kind.
    """
    given = (
        [sources] if isinstance(sources, (str, os.PathLike, np.ndarray, Tensor)) else list(sources)
    )
    if not given:
        raise DataError("no picture was given. Expected files, a folder or a glob")
    result: list[Path | Tensor] = []
    for source in given:
        if isinstance(source, (np.ndarray, Tensor)):
            result.append(_pixels(source))
            continue
        path = user_path(source)
        if path.is_dir():
            files = sorted(
                item
                for item in path.iterdir()
                if item.suffix.lower() in images.SUFFIXES and item.is_file()
            )
            if not files:
                raise DataError(f"folder {path} holds no picture ({', '.join(images.SUFFIXES)})")
            result += files
        elif not path.exists() and glob.has_magic(str(path)):
            files = sorted(
                Path(item) for item in glob.glob(str(path), recursive=True) if Path(item).is_file()
            )
            if not files:
                raise DataError(f"no file matches {str(source)!r}")
            result += files
        else:
            result.append(path)
    return result


def draw(image: Tensor | Image.Image, detections: Detections, names: Sequence[str]) -> Image.Image:
    """A copy of the picture with boxes, names and scores; the best detection is on top.

    Args:
        image: uint8 ``[3, H, W]`` RGB, or a PIL image; it isn't changed.
        detections: boxes in pixels of the image.
        names: name of each *class*, by label.
    """
    canvas = (
        image.convert("RGB")
        if isinstance(image, Image.Image)
        else Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    )
    pen = ImageDraw.Draw(canvas)
    width, height = canvas.size
    line = max(1, round(min(width, height) / 250))
    font = ImageFont.load_default(size=max(10, min(width, height) / 40))
    rows = list(
        zip(
            detections.scores.tolist(),
            detections.labels.tolist(),
            detections.boxes_xyxy.tolist(),
            strict=True,
        )
    )
    for score, label, (left, top, right, bottom) in reversed(rows):
        colour = palette.of_class(label)
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        text = f"{names[label]} {score:.2f}"
        _, _, text_width, text_height = pen.textbbox((0, 0), text, font=font)
        x = min(max(0.0, left), max(0.0, width - text_width - 4))
        y = top - text_height - 3 if top >= text_height + 3 else max(0.0, top)
        pen.rectangle((x, y, x + text_width + 4, y + text_height + 3), fill=colour)
        pen.text(
            (x + 2, y + 1), text, fill=palette.ink_on(colour, light_from=_LIGHT_FROM), font=font
        )
    return canvas


def _pixels(source: Pixels) -> Tensor:
    """Check an array ``[H, W, 3]`` or tensor ``[3, H, W]``; return a uint8 ``[3, H, W]``."""
    axis = -1 if isinstance(source, np.ndarray) else 0
    channels = source.shape[axis] if source.ndim == 3 else None
    if str(source.dtype).removeprefix("torch.") != "uint8" or channels != 3 or 0 in source.shape:
        raise DataError(
            f"pixels are {source.dtype} of shape {list(source.shape)}. Expected uint8 RGB: an "
            f"array [H, W, 3] or a tensor [3, H, W]"
        )
    return (
        torch.from_numpy(np.ascontiguousarray(source)).permute(2, 0, 1)
        if isinstance(source, np.ndarray)
        else source
    )
