"""Augmentations of one image: colour, zoom-out, IoU crop, flip, resize, sanitise.

The operations, their order and their ranges are SSD's (Liu et al. 2016, section 2.2), as in
torchvision and the official recipes. Pixels stay uint8 in height-width-channel memory up to the
last step, because resizing is five times faster there than with planes. A scene with its image on
the ``meta`` device has a size and boxes, but no pixels. Every random draw and every box is the
same, so ``sampling`` can count targets without pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from deim_lab.augment import canvas
from deim_lab.boxes import pairwise_iou
from deim_lab.structures import Scene


def uniform(low: float, high: float, generator: Generator) -> float:
    """Draw one number from U(low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def coin(prob: float, generator: Generator) -> bool:
    """Return True with probability ``prob``: never at 0, always at 1."""
    return float(torch.rand((), generator=generator)) < prob


@dataclass(frozen=True, kw_only=True)
class Photometric:
    """Change brightness, contrast, saturation, hue and channel order, each with ``prob``.

    Contrast comes before or after saturation and hue, at random. Works on PIL images, as the
    official pipeline does. So the rounding between steps is the same, and it is faster than torch
    on uint8.
    """

    prob: float = 0.5
    brightness: tuple[float, float] = (0.875, 1.125)
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: tuple[float, float] = (-0.05, 0.05)  # of the full circle

    def __call__(self, scene: Scene, generator: Generator) -> Scene:
        drawn = {
            name: uniform(*span, generator) if coin(self.prob, generator) else None
            for name, span in (
                ("brightness", self.brightness),
                ("contrast", self.contrast),
                ("saturation", self.saturation),
                ("hue", self.hue),
            )
        }
        contrast_first = coin(0.5, generator)
        channels = torch.randperm(3, generator=generator) if coin(self.prob, generator) else None
        if scene.image.is_meta or (
            channels is None and not any(value is not None for value in drawn.values())
        ):
            return scene
        order = (
            ("brightness", "contrast", "saturation", "hue")
            if contrast_first
            else ("brightness", "saturation", "hue", "contrast")
        )
        picture = to_pil(scene.image)
        for name in order:
            value = drawn[name]
            if value is not None:
                picture = getattr(F, f"adjust_{name}")(picture, value)
        image = from_pil(picture)
        return replace(
            scene,
            image=image
            if channels is None
            else image.permute(1, 2, 0)[..., channels].permute(2, 0, 1),
        )


@dataclass(frozen=True, kw_only=True)
class ZoomOut:
    """Put the image at a random place of a black canvas, so that objects become small.

    The canvas is 1 to ``max_ratio`` times as large as the image, per side. A very large image is
    made smaller first (``canvas.ZOOM_OUT_PX``).
    """

    prob: float = 0.5
    max_ratio: float = 4.0

    def __call__(self, scene: Scene, generator: Generator) -> Scene:
        if not coin(self.prob, generator):
            return scene
        ratio = uniform(1.0, self.max_ratio, generator)
        factor = canvas.zoom_out_factor(scene.size_hw, ratio)
        if factor < 1:
            canvas.note_zoom_out()
            scene = resize(scene, canvas.scaled(scene.size_hw, factor))
        height, width = scene.size_hw
        canvas_height, canvas_width = int(height * ratio), int(width * ratio)
        left = int(uniform(0, canvas_width - width, generator))
        top = int(uniform(0, canvas_height - height, generator))
        image = black(canvas_height, canvas_width, like=scene.image)
        image[:, top : top + height, left : left + width] = scene.image
        return replace(
            scene, image=image, boxes_xyxy=scene.boxes_xyxy + torch.tensor([left, top, left, top])
        )


@dataclass(frozen=True, kw_only=True)
class IouCrop:
    """Crop to a window that overlaps some box by at least a random IoU.

    Boxes with their centre outside the window are dropped. This is SSD's sampler. It draws a
    minimal IoU from ``overlaps`` (1.0 leaves the image unchanged), then ``trials`` windows. It
    takes the first window that fits. If none fits, it draws a new IoU. All windows of a round are
    drawn and judged at once.
    """

    prob: float = 0.8
    overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    trials: int = 40
    scale: tuple[float, float] = (0.3, 1.0)  # of width and of height
    aspect: tuple[float, float] = (0.5, 2.0)  # width / height in pixels

    def __call__(self, scene: Scene, generator: Generator) -> Scene:
        if not coin(self.prob, generator) or not len(
            scene.boxes_xyxy
        ):  # without boxes, no window would ever fit
            return scene
        while True:
            overlap = self.overlaps[int(torch.randint(len(self.overlaps), (), generator=generator))]
            if overlap >= 1.0:
                return scene
            windows_xyxy = self._windows(scene.size_hw, generator)
            centred, fits = self._judge(windows_xyxy, scene.boxes_xyxy, overlap)
            if fits.any():
                first = int(fits.int().argmax())
                return crop(scene, windows_xyxy[first], centred[first])

    def _windows(self, size_hw: tuple[int, int], generator: Generator) -> Tensor:
        """Draw windows ``[trials, 4]`` in whole pixels."""
        height, width = size_hw
        size_share, place = torch.rand(2, self.trials, 2, generator=generator)
        image_wh = torch.tensor([width, height])
        window_wh = (
            image_wh * (self.scale[0] + (self.scale[1] - self.scale[0]) * size_share)
        ).floor()
        corner = ((image_wh - window_wh) * place).floor()
        return torch.cat([corner, corner + window_wh], dim=1)

    def _judge(
        self, windows_xyxy: Tensor, boxes_xyxy: Tensor, overlap: float
    ) -> tuple[Tensor, Tensor]:
        """Flags: box centred in the window ``[trials, n]``, and window valid ``[trials]``."""
        size_wh = windows_xyxy[:, 2:] - windows_xyxy[:, :2]
        aspect = size_wh[:, 0] / size_wh[:, 1].clamp(min=1e-6)
        shaped = (size_wh > 0).all(1) & (aspect >= self.aspect[0]) & (aspect <= self.aspect[1])
        centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
        centred = ((windows_xyxy[:, None, :2] < centre) & (centre < windows_xyxy[:, None, 2:])).all(
            -1
        )
        iou = pairwise_iou(windows_xyxy, boxes_xyxy).masked_fill(~centred, -1.0)
        return centred, shaped & centred.any(1) & (iou.amax(1) >= overlap)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror left and right with probability ``prob``."""

    prob: float = 0.5

    def __call__(self, scene: Scene, generator: Generator) -> Scene:
        if not coin(self.prob, generator):
            return scene
        x1, y1, x2, y2 = scene.boxes_xyxy.unbind(-1)
        width = scene.size_hw[1]
        return replace(
            scene,
            image=scene.image.flip(-1),
            boxes_xyxy=torch.stack([width - x2, y1, width - x1, y2], dim=-1),
        )


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Squash to ``size_hw`` without keeping the aspect ratio; bilinear, antialiased as in PIL."""

    size_hw: tuple[int, int]

    def __call__(self, scene: Scene, generator: Generator | None = None) -> Scene:
        return resize(scene, self.size_hw)


@dataclass(frozen=True, kw_only=True)
class Sanitise:
    """Clip boxes to the image; drop boxes narrower or lower than ``min_px`` or without area."""

    min_px: float = 1.0

    def __call__(self, scene: Scene, generator: Generator | None = None) -> Scene:
        boxes_xyxy = clip(scene.boxes_xyxy, scene.size_hw)
        size = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
        keep = ((size >= self.min_px) & (size > 0)).all(-1)
        return replace(scene, boxes_xyxy=boxes_xyxy[keep], labels=scene.labels[keep])


def resize(scene: Scene, size_hw: tuple[int, int]) -> Scene:
    """Resize a scene to ``(height, width)`` without keeping its aspect ratio."""
    (height, width), (new_height, new_width) = scene.size_hw, size_hw
    if (height, width) == (new_height, new_width):
        return scene
    factor = torch.tensor([new_width / width, new_height / height] * 2, dtype=torch.float32)
    return replace(
        scene, image=resize_pixels(scene.image, size_hw), boxes_xyxy=scene.boxes_xyxy * factor
    )


def resize_pixels(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize ``[3, H, W]`` uint8 → ``[3, *size_hw]`` uint8, bilinear with antialias."""
    if image.is_meta:
        return image.new_empty((image.shape[0], *size_hw))
    resized: Tensor = F.resize(image, list(size_hw), antialias=True)
    return resized


def crop(scene: Scene, window_xyxy: Tensor, keep: Tensor) -> Scene:
    """Crop a scene to a window in whole pixels; keep the boxes of ``keep [n]``, clipped."""
    left, top, right, bottom = (int(value) for value in window_xyxy)
    boxes_xyxy = scene.boxes_xyxy[keep] - torch.tensor([left, top, left, top])
    return replace(
        scene,
        image=scene.image[:, top:bottom, left:right],
        labels=scene.labels[keep],
        boxes_xyxy=clip(boxes_xyxy, (bottom - top, right - left)),
    )


def clip(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Clamp box corners to the image."""
    height, width = size_hw
    return boxes_xyxy.clamp(min=0).minimum(
        torch.tensor([width, height, width, height], dtype=boxes_xyxy.dtype)
    )


def black(height: int, width: int, *, like: Tensor) -> Tensor:
    """A black image ``[3, height, width]`` with the dtype and device of ``like``.

    Its memory layout is height-width-channel.
    """
    return torch.zeros(height, width, 3, dtype=like.dtype, device=like.device).permute(2, 0, 1)


def to_pil(image: Tensor) -> Image.Image:
    """Convert ``[3, H, W]`` uint8 to PIL."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def from_pil(picture: Image.Image) -> Tensor:
    """Convert PIL to ``[3, H, W]`` uint8, a view of height-width-channel memory."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
