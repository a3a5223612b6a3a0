"""Frames of a video file or a webcam in, frames with boxes out as an MP4; by OpenCV, which is
optional.

Frames are read one batch ahead, never all at once, so the length of a video doesn't matter.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deim_lab.detections import ImageDetections, Json, coco_rows
from deim_lab.errors import DataError
from deim_lab.host.files import writing_whole
from deim_lab.host.optional import require
from deim_lab.inference.predict import Predictor, draw

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
DEFAULT_FPS = 25.0  # where a camera doesn't say its own


@dataclass(frozen=True)
class Frame:
    """``pixels`` uint8 RGB ``[3, H, W]`` of frame ``index`` (from 0), ``seconds`` after the start
    at the nominal rate.
    """

    index: int
    seconds: float
    pixels: Tensor


class VideoReader:
    """The frames of a video file, or of a camera by its number; a context manager.

    Attributes:
        name: what rows and messages call it: the path, or ``webcam 0``.
        is_camera: whether it is a camera.
        fps: frames a second, as the file or camera says (``DEFAULT_FPS`` where it says nothing).
        count: frames, as the file says; None for a camera or where it doesn't say.

    Raises:
        DataError: no such file or camera, or not a video.
        ConfigError: OpenCV is not installed.
    """

    def __init__(self, source: Path | int) -> None:
        cv2 = _opencv()
        self.is_camera = isinstance(source, int)
        self.name = f"webcam {source}" if isinstance(source, int) else str(source)
        if isinstance(source, Path) and not source.is_file():
            raise DataError(f"video {source} does not exist")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            expected = (
                "no camera of this number answers"
                if isinstance(source, int)
                else "it is damaged, or no video that OpenCV reads"
            )
            raise DataError(f"{self.name} can't be opened: {expected}")
        said = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = said if 0 < said <= 1000 else DEFAULT_FPS
        length = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = length if isinstance(source, Path) and length > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        for index in itertools.count():
            there, bgr = self._capture.read()
            if not there:
                if index == 0:
                    raise DataError(
                        f"{self.name}: not one frame can be read; it is empty or damaged"
                    )
                return
            rgb = np.ascontiguousarray(bgr[..., ::-1])
            yield Frame(index, index / self.fps, torch.from_numpy(rgb).permute(2, 0, 1))

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._capture.release()


class VideoWriter:
    """An MP4 that gets its name when it is complete; a context manager. The first frame gives the
    size.

    Raises:
        DataError: OpenCV can't write it.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._cv2 = _opencv()
        self.path, self.fps = path, fps
        self._file = contextlib.ExitStack()
        self._writer: Any = None

    def write(self, picture: Image.Image) -> None:
        if self._writer is None:
            self._writer = self._open(picture.size)
        self._writer.write(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))

    def _open(self, size_wh: tuple[int, int]) -> Any:
        temporary = self._file.enter_context(writing_whole(self.path, suffix=self.path.suffix))
        codec = self._cv2.VideoWriter_fourcc(*"mp4v")
        writer = self._cv2.VideoWriter(str(temporary), codec, self.fps, size_wh)
        if not writer.isOpened():
            raise DataError(
                f"{self.path} can't be written as MP4 ({size_wh[0]} × {size_wh[1]} px, "
                f"{self.fps:g} frames a second)"
            )
        return writer

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        self._file.__exit__(kind, value, trace)


@dataclass(frozen=True)
class FrameDetections:
    """What was found in one frame of ``source`` (see ``VideoReader.name``)."""

    source: str
    frame: int
    seconds: float
    found: ImageDetections

    def rows(self) -> list[dict[str, Json]]:
        """COCO result rows with ``file_name`` (the video), ``frame`` and ``seconds``."""
        return [
            row | {"file_name": self.source, "frame": self.frame, "seconds": round(self.seconds, 3)}
            for row in coco_rows(self.found)
        ]


def detect_frames(
    predictor: Predictor,
    reader: VideoReader,
    *,
    first_id: int = 1,
    limit: int | None = None,
    writer: VideoWriter | None = None,
    draw_from: float = 0.0,
) -> Iterator[FrameDetections]:
    """Detections frame by frame, ``predictor.batch_size`` frames at a time.

    Args:
        first_id: image id of the first frame; the others follow.
        limit: frames at most; None: to the end.
        writer: gets every frame with boxes.
        draw_from: lowest score that is drawn.
    """
    names = [str(item["name"]) for item in predictor.categories]
    frames = itertools.islice(reader, limit)
    while batch := list(itertools.islice(frames, predictor.batch_size)):
        for frame, found in zip(
            batch,
            predictor.detect({first_id + item.index: item.pixels for item in batch}),
            strict=True,
        ):
            if writer is not None:
                writer.write(draw(frame.pixels, found.detections.above(draw_from), names))
            yield FrameDetections(reader.name, frame.index, frame.seconds, found)


def is_video(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in SUFFIXES


def _opencv() -> Any:
    return require("cv2", extra="video", purpose="Reading and writing videos")
