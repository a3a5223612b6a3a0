"""Read frames of a video file or a webcam, and write frames with boxes as an MP4.

This needs OpenCV, which is optional. Frames are read one batch at a time, so the length of a video
doesn't matter.
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
DEFAULT_FPS = 25.0  # for a file or camera that doesn't report its rate


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        index: number of the frame, from 0.
        seconds: time after the start, at the nominal rate.
        pixels: uint8 RGB ``[3, H, W]``.
    """

    index: int
    seconds: float
    pixels: Tensor


class VideoReader:
    """The frames of a video file, or of a camera by its number; a context manager.

    Attributes:
        name: name in rows and messages: the path, or ``webcam 0``.
        is_camera: whether the source is a camera.
        fps: frames per second that the file or camera reports, else ``DEFAULT_FPS``.
        count: number of frames that the file reports; None for a camera or if unknown.

    Raises:
        DataError: the file or camera does not exist, or the file is no video.
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
            reason = (
                "no camera of this number answers"
                if isinstance(source, int)
                else "it is damaged, or no video that OpenCV reads"
            )
            raise DataError(f"{self.name} can't be opened: {reason}")
        reported_fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = reported_fps if 0 < reported_fps <= 1000 else DEFAULT_FPS
        length = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = length if isinstance(source, Path) and length > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        for index in itertools.count():
            success, bgr = self._capture.read()
            if not success:
                if index == 0:
                    raise DataError(
                        f"{self.name}: no frame can be read. The video is empty or damaged"
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
    """A context manager that writes an MP4; the file gets its name when it is complete.

    The size of the first frame is the size of the video.

    Raises:
        DataError: OpenCV can't write the file.
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
                f"{self.fps:g} frames per second)"
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
    """The detections in one frame of ``source`` (see ``VideoReader.name``)."""

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
    """Yield the detections of each frame, computed ``predictor.batch_size`` frames at a time.

    Args:
        first_id: image id of the first frame; later frames count up from it.
        limit: maximum number of frames; None: all frames.
        writer: writes every frame with its boxes.
        draw_from: lowest score of the boxes that are drawn.
    """
    names = [str(item["name"]) for item in predictor.categories]
    frames = itertools.islice(reader, limit)
    while batch := list(itertools.islice(frames, predictor.batch_size)):
        for frame, result in zip(
            batch,
            predictor.detect({first_id + item.index: item.pixels for item in batch}),
            strict=True,
        ):
            if writer is not None:
                writer.write(draw(frame.pixels, result.detections.above(draw_from), names))
            yield FrameDetections(reader.name, frame.index, frame.seconds, result)


def is_video(path: Path) -> bool:
    """Whether the suffix of a path is that of a video."""
    return path.suffix.lower() in SUFFIXES


def _opencv() -> Any:
    return require("cv2", extra="video", purpose="Reading and writing videos")
