"""A short video with a moving square, and the small detector that looks at it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.detector.detector import build_detector
from deim_lab.weights.own import save_weights

CATEGORIES = [{"id": 7, "name": "bright"}, {"id": 9, "name": "other"}]
CONFIG = override(preset("smoke"), {"data.input_size": [64, 96]})
FRAMES, FPS, SIZE_WH = 7, 12.5, (120, 80)


def write_video(path: Path, frames: int = FRAMES) -> Path:
    """A bright square on grey (RGB 250, 40, 40: red) that moves 10 px a frame to the right."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE_WH)
    for index in range(frames):
        picture = np.full((SIZE_WH[1], SIZE_WH[0], 3), 60, np.uint8)
        picture[30:50, 10 * index : 10 * index + 20] = (40, 40, 250)  # BGR
        writer.write(picture)
    writer.release()
    return path


def save_detector(folder: Path) -> Path:
    """Write the weights of the untrained detector of ``CONFIG``."""
    torch.manual_seed(0)
    model = build_detector(CONFIG, 2).eval()
    save_weights(folder / "model.pt", model, config=CONFIG, categories=CATEGORIES)
    return folder / "model.pt"
