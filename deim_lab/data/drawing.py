"""Draw the pictures of the embedded data set: simple things on textured grounds.

One generator gives one scene. The five classes differ only in shape. Colour, texture, size,
rotation and stretch are drawn independently of the class. Things overlap, leave the frame, and lie
among clutter (bars, lines, arcs, specks). Some scenes have no things.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

CLASSES = ("disc", "triangle", "cross", "ring", "star")

Array = NDArray[np.float32]

_SUPERSAMPLE = 3  # drawn at this multiple of the final size, then averaged
_THINGS_SHARE = (
    0.07,
    0.10,
    0.22,
    0.28,
    0.20,
    0.13,
)  # share of scenes with 0, 1, … 5 things: 2.8 on average
_SIZE_SHARE = (0.15, 0.50)  # longer extent of a thing / shorter side of the scene
_MIN_VISIBLE = (
    0.4  # visible share of a thing's full area; the part outside the frame counts as hidden
)
_VIVID = ((0.45, 0.95), (0.4, 1.0))  # saturation and value of things
_MIN_CONTRAST = 80.0  # Euclidean RGB distance between a thing and the ground around it


@dataclass(frozen=True)
class Thing:
    """A drawn object: class, box and visible pixels.

    The box also covers occluded parts and is clipped to the frame.
    """

    label: int
    box_xyxy: tuple[float, float, float, float]
    visible_px: float
    visible_share: float


@dataclass
class _Canvas:
    """The supersampled picture during drawing, and the mask of each thing's visible part."""

    image: Image.Image
    masks: list[Image.Image] = field(default_factory=list)
    full_px: list[float] = field(default_factory=list)


def scene(generator: Generator, size_hw: tuple[int, int]) -> tuple[Image.Image, list[Thing]]:
    """Draw one RGB picture of ``size_hw`` pixels; return it and the things in it."""
    height, width = (side * _SUPERSAMPLE for side in size_hw)
    canvas = _Canvas(_ground(generator, *size_hw).resize((width, height), Image.Resampling.BICUBIC))
    _clutter(generator, canvas, count=int(generator.integers(2, 9)))
    labels: list[int] = []
    boxes: list[tuple[float, float, float, float]] = []
    for _ in range(int(generator.choice(len(_THINGS_SHARE), p=_THINGS_SHARE))):
        label = int(generator.integers(len(CLASSES)))
        for _ in range(30):
            box = _place(generator, canvas, label)
            if box is not None:
                labels.append(label)
                boxes.append(box)
                break
    if generator.random() < 0.3:
        _clutter(generator, canvas, count=1, occluding=True)
    visible = [_count(mask) for mask in canvas.masks]
    things = [
        Thing(
            label,
            tuple(value / _SUPERSAMPLE for value in box),  # type: ignore[arg-type]
            pixels / _SUPERSAMPLE**2,
            pixels / full,
        )
        for label, box, pixels, full in zip(labels, boxes, visible, canvas.full_px, strict=True)
    ]
    return _expose(generator, canvas.image.reduce(_SUPERSAMPLE)), things


def _place(
    generator: Generator, canvas: _Canvas, label: int
) -> tuple[float, float, float, float] | None:
    """Draw one thing if enough of it and of all other things stays visible.

    Returns its box on the canvas, or None if nothing was drawn.
    """
    width, height = canvas.image.size
    low, high = _SIZE_SHARE
    extent = min(width, height) * low * (high / low) ** generator.beta(1.2, 1.0)
    stamp = _stamp(generator, label, extent)
    left = int(generator.uniform(-0.12, 1.12) * (width - stamp.width))
    top = int(generator.uniform(-0.12, 1.12) * (height - stamp.height))
    mask = Image.new("L", (width, height))
    mask.paste(stamp, (left, top))
    full_px, inside_px = _count(stamp), _count(mask)
    if inside_px < 0.65 * full_px:
        return None
    remaining = [ImageChops.subtract(other, mask) for other in canvas.masks]
    if any(
        _count(other) < _MIN_VISIBLE * full
        for other, full in zip(remaining, canvas.full_px, strict=True)
    ):
        return None
    _paint(generator, canvas.image, mask, stamp, (left, top))
    canvas.masks = [*remaining, mask]
    canvas.full_px.append(full_px)
    box = mask.point(lambda value: 255 * (value > 127)).getbbox()
    return None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


def _stamp(generator: Generator, label: int, extent: float) -> Image.Image:
    """A mask cropped to the thing, white inside; its longer side has ``extent`` pixels."""
    outline = _outline(generator, CLASSES[label]) * np.array([generator.uniform(0.78, 1.0), 1.0])
    angle = generator.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = outline @ turn.T
    low, high = points.min(0), points.max(0)
    scale = extent / (high - low).max()
    size = np.ceil((high - low) * scale).astype(int) + 1
    stamp = Image.new("L", (int(size[0]), int(size[1])))
    draw = ImageDraw.Draw(stamp)
    draw.polygon([tuple(point) for point in (points - low) * scale], fill=255)
    if CLASSES[label] == "ring":
        hole = points * generator.uniform(0.48, 0.66)
        draw.polygon([tuple(point) for point in (hole - low) * scale], fill=0)
    return stamp


def _outline(generator: Generator, name: str) -> NDArray[np.float64]:
    """Points ``[n, 2]`` of a shape around the origin, within the unit circle."""
    if name in ("disc", "ring"):
        return _around(np.ones(64))
    if name == "triangle":
        return _around(np.ones(3))
    if name == "star":
        return _around(np.array([1.0, generator.uniform(0.36, 0.46)] * 5))
    arm = generator.uniform(0.26, 0.36)
    corner = [(arm, 1.0), (arm, arm), (1.0, arm), (1.0, -arm), (arm, -arm), (arm, -1.0)]
    return np.array(corner + [(-x, -y) for x, y in corner])


def _around(radii: NDArray[np.float64]) -> NDArray[np.float64]:
    angles = np.arange(len(radii)) * 2 * math.pi / len(radii)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _paint(
    generator: Generator,
    image: Image.Image,
    mask: Image.Image,
    stamp: Image.Image,
    corner: tuple[int, int],
) -> None:
    """Fill the mask with a texture that contrasts with the ground below.

    Often adds a shadow and an outline.
    """
    unit = _SUPERSAMPLE * max(1.0, min(image.size) / _SUPERSAMPLE / 160)
    below = np.asarray(image.resize((32, 32)), dtype=np.float32)[
        np.asarray(mask.resize((32, 32))) > 64
    ]
    ground = below.mean(0) if len(below) else np.full(3, 128, dtype=np.float32)
    colour = _colour(generator, *_VIVID)
    while np.linalg.norm(colour - ground) < _MIN_CONTRAST:
        colour = _colour(generator, *_VIVID)
    if generator.random() < 0.6:
        offset = (generator.uniform(1, 3, 2) * unit).astype(int)
        shadow = ImageChops.offset(mask, int(offset[0]), int(offset[1])).filter(
            ImageFilter.BoxBlur(2 * unit)
        )
        image.paste((12, 12, 18), (0, 0), shadow.point(lambda value: int(value * 0.4)))
    fill = _texture(generator, colour, stamp.height, stamp.width)
    image.paste(Image.fromarray(fill), corner, stamp)
    if generator.random() < 0.5:
        rim = ImageChops.subtract(stamp, stamp.filter(ImageFilter.MinFilter(2 * int(unit / 2) + 3)))
        shade = 0.45 if colour.mean() > 90 else 1.7
        image.paste(tuple(int(v) for v in np.clip(colour * shade, 0, 255)), corner, rim)


def _texture(generator: Generator, colour: Array, height: int, width: int) -> NDArray[np.uint8]:
    """A texture ``[h, w, 3]`` in one colour: flat, shaded, striped, dotted or mottled."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = generator.uniform(0, math.pi), generator.uniform(4, 9) * _SUPERSAMPLE
    along, across = (
        (x * math.cos(angle) + y * math.sin(angle)),
        (y * math.cos(angle) - x * math.sin(angle)),
    )
    kind = generator.choice(
        ("flat", "shaded", "striped", "dotted", "mottled"), p=(0.25, 0.3, 0.15, 0.1, 0.2)
    )
    tone = np.zeros((height, width), dtype=np.float32)
    if kind == "shaded":
        tone = 0.55 * (along - along.mean()) / (np.ptp(along) + 1)
    elif kind == "striped":
        tone = 0.22 * np.tanh(4 * np.sin(along * 2 * math.pi / period))
    elif kind == "dotted":
        tone = 0.3 * np.tanh(
            6 * (np.sin(along * 2 * math.pi / period) * np.sin(across * 2 * math.pi / period) - 0.3)
        )
    elif kind == "mottled":
        tone = 0.35 * (_noise(generator, height, width, cells=int(generator.integers(4, 9))) - 0.5)
    filled: NDArray[np.uint8] = np.clip(colour * (1 + tone[..., None]), 0, 255).astype(np.uint8)
    return filled


def _ground(generator: Generator, height: int, width: int) -> Image.Image:
    """A textured background of two or three muted tones with grain.

    The tones are mixed by clouds, waves, a checker or a slope.
    """
    dark, light, third = (_colour(generator, (0.05, 0.5), (0.15, 0.85)) for _ in range(3))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / min(height, width)
    angle = generator.uniform(0, math.pi)
    along, across = (
        x * math.cos(angle) + y * math.sin(angle),
        y * math.cos(angle) - x * math.sin(angle),
    )
    clouds = _noise(generator, height, width, cells=int(generator.integers(2, 5)))
    fine = _noise(generator, height, width, cells=int(generator.integers(10, 28)))
    kind = generator.choice(("clouds", "waves", "checker", "slope"), p=(0.4, 0.2, 0.15, 0.25))
    if kind == "clouds":
        mix = clouds + 0.35 * (fine - 0.5)
    elif kind == "waves":
        mix = 0.5 + 0.4 * np.sin(2 * math.pi * (generator.uniform(3, 8) * along + 0.8 * clouds))
    elif kind == "checker":
        cells = generator.uniform(3, 7)
        mix = (
            0.25
            + 0.5 * (np.sin(along * cells * math.pi) * np.sin(across * cells * math.pi) > 0)
            + 0.3 * (fine - 0.5)
        )
    else:
        mix = (along - along.min()) / np.ptp(along) + 0.3 * (fine - 0.5)
    mix = np.clip(mix, 0, 1)[..., None]
    tint = 0.35 * np.clip(_noise(generator, height, width, cells=3) * 2 - 1, 0, 1)[..., None]
    return Image.fromarray(
        ((dark * (1 - mix) + light * mix) * (1 - tint) + third * tint).astype(np.uint8)
    )


def _clutter(generator: Generator, canvas: _Canvas, *, count: int, occluding: bool = False) -> None:
    """Draw distractors without a class: bars, lines, arcs, specks.

    ``occluding``: draw a thin bar in front, which hides things below.
    """
    width, height = canvas.image.size
    side = min(width, height)
    for _ in range(count):
        mask = Image.new("L", (width, height))
        draw = ImageDraw.Draw(mask)
        x, y = generator.uniform(0, width), generator.uniform(0, height)
        angle = generator.uniform(0, math.pi)
        kind = "bar" if occluding else generator.choice(("bar", "line", "arc", "specks"))
        if kind in ("bar", "line"):
            reach = side * generator.uniform(0.15, 0.8)
            thick = side * (
                generator.uniform(0.02, 0.06) if kind == "bar" else generator.uniform(0.006, 0.015)
            )
            step = np.array([math.cos(angle), math.sin(angle)]) * reach / 2
            draw.line(
                [x - step[0], y - step[1], x + step[0], y + step[1]],
                fill=255,
                width=max(2, int(thick)),
            )
        elif kind == "arc":
            radius, start = side * generator.uniform(0.06, 0.3), generator.uniform(0, 360)
            draw.arc(
                [x - radius, y - radius, x + radius, y + radius],
                start,
                start + generator.uniform(40, 150),
                fill=255,
                width=max(2, int(side * generator.uniform(0.008, 0.03))),
            )
        else:
            for _ in range(int(generator.integers(3, 9))):
                left, top = generator.normal((x, y), side * 0.06)
                radius = side * generator.uniform(0.006, 0.018)
                draw.ellipse([left - radius, top - radius, left + radius, top + radius], fill=255)
        remaining = [ImageChops.subtract(other, mask) for other in canvas.masks]
        if all(
            _count(other) >= _MIN_VISIBLE * full
            for other, full in zip(remaining, canvas.full_px, strict=True)
        ):
            canvas.masks = remaining
            canvas.image.paste(
                tuple(int(v) for v in _colour(generator, (0.1, 0.8), (0.1, 1.0))), (0, 0), mask
            )


def _expose(generator: Generator, image: Image.Image) -> Image.Image:
    """Change contrast and brightness a little, add sensor noise, sometimes blur slightly."""
    if generator.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 0.8)))
    pixels = np.asarray(image, dtype=np.float32)
    pixels = (pixels - 128) * generator.uniform(0.85, 1.1) + 128 + generator.uniform(-12, 12)
    pixels += generator.normal(0, generator.uniform(1, 5), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _colour(
    generator: Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> Array:
    """A random colour of any hue: RGB ``[3]`` in [0, 255]."""
    hue, s, v = generator.uniform(0, 6), generator.uniform(*saturation), generator.uniform(*value)
    ramp = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return (255 * v * (1 - s + s * ramp)).astype(np.float32)


def _noise(generator: Generator, height: int, width: int, *, cells: int) -> Array:
    """Smooth noise ``[h, w]`` in [0, 1] with about ``cells`` bumps per side."""
    coarse = Image.fromarray(generator.random((cells + 1, cells + 1), dtype=np.float32))
    return np.clip(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)


def _count(mask: Image.Image) -> float:
    """Number of pixels of a mask with a value of at least 128."""
    return float(sum(mask.histogram()[128:]))
