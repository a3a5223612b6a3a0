"""Mosaic: join four images in a 2 × 2 grid, then rotate, shift and scale the grid.

A Mosaic has about four times the targets of one image. As in the official code, the shorter side of
each image becomes ``tile_px``. The canvas is twice as wide as the widest tile and twice as high as
the highest tile. Every tile lies at the top left of its quadrant. Then an affine map transforms the
whole canvas. A box becomes the upright box around its rotated corners.

Very long images would make a huge canvas. Their tiles are made smaller (``canvas``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from deim_lab.augment import canvas
from deim_lab.augment.single import black, from_pil, resize, to_pil, uniform
from deim_lab.structures import Scene


class SceneSource(Protocol):
    """Anything that returns a scene for a position: a data set, a list."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Scene: ...


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Mosaic of the image at ``index`` and three random images of the source.

    The three images are drawn with replacement, so the image at ``index`` may appear again.
    """

    tile_px: int = 320
    rotation_deg: float = 10.0  # angle drawn from ± this
    translate: float = 0.1  # shift drawn from ± this share of the canvas, in whole pixels
    scale: tuple[float, float] = (0.5, 1.5)

    def __call__(self, source: SceneSource, index: int, generator: Generator) -> Scene:
        others = torch.randint(len(source), (3,), generator=generator).tolist()
        tiles = [self._tile(source[item]) for item in (index, *others)]
        joined = assemble(self._bounded(tiles))
        height, width = joined.size_hw
        angle_deg = uniform(-self.rotation_deg, self.rotation_deg, generator)
        shift_xy = (
            round(uniform(-1, 1, generator) * self.translate * width),
            round(uniform(-1, 1, generator) * self.translate * height),
        )
        return affine(
            joined, angle_deg=angle_deg, shift_xy=shift_xy, scale=uniform(*self.scale, generator)
        )

    def _tile(self, scene: Scene) -> Scene:
        """Resize an image to a tile; bound the longer side of a very long image."""
        shorter, longer = sorted(scene.size_hw)
        if longer <= canvas.MOSAIC_ASPECT * shorter:
            return resize_shorter(scene, self.tile_px)
        canvas.note_mosaic()
        factor = canvas.MOSAIC_ASPECT * self.tile_px / longer
        return resize(scene, canvas.scaled(scene.size_hw, factor))

    def _bounded(self, tiles: Sequence[Scene]) -> Sequence[Scene]:
        """Make all tiles smaller by one factor if their canvas would be too large."""
        factor = canvas.mosaic_factor(_cell(tiles), self.tile_px)
        if factor == 1:
            return tiles
        canvas.note_mosaic()
        return [resize(tile, canvas.scaled(tile.size_hw, factor)) for tile in tiles]


def resize_shorter(scene: Scene, shorter_px: int) -> Scene:
    """Resize a scene to the shorter side ``shorter_px``, keeping its aspect ratio.

    The longer side is rounded down.
    """
    height, width = scene.size_hw
    longer_px = int(shorter_px * max(height, width) / min(height, width))
    return resize(scene, (shorter_px, longer_px) if height <= width else (longer_px, shorter_px))


def assemble(tiles: Sequence[Scene]) -> Scene:
    """Join four scenes on a black canvas: top left, top right, bottom left, bottom right."""
    cell_height, cell_width = _cell(tiles)
    image = black(2 * cell_height, 2 * cell_width, like=tiles[0].image)
    boxes_xyxy = []
    for position, tile in enumerate(tiles):
        (height, width), left, top = (
            tile.size_hw,
            position % 2 * cell_width,
            position // 2 * cell_height,
        )
        image[:, top : top + height, left : left + width] = tile.image
        boxes_xyxy.append(tile.boxes_xyxy + torch.tensor([left, top, left, top]))
    return Scene(
        image,
        torch.cat(boxes_xyxy),
        torch.cat([tile.labels for tile in tiles]),
        tuple(image_id for tile in tiles for image_id in tile.image_ids),
    )


def _cell(tiles: Sequence[Scene]) -> tuple[int, int]:
    """Height of the highest tile and width of the widest tile."""
    return max(tile.size_hw[0] for tile in tiles), max(tile.size_hw[1] for tile in tiles)


def affine(scene: Scene, *, angle_deg: float, shift_xy: tuple[int, int], scale: float) -> Scene:
    """Rotate a scene about its centre, scale and shift it on a canvas of the same size.

    Pixels are sampled by nearest neighbour, black outside the scene. Boxes become the upright boxes
    around their rotated corners, clamped to the canvas. A box outside the canvas has no area.
    """
    motion = {"angle": angle_deg, "translate": list(shift_xy), "scale": scale, "shear": [0.0, 0.0]}
    boxes = tv_tensors.BoundingBoxes(scene.boxes_xyxy, format="XYXY", canvas_size=scene.size_hw)
    boxes_xyxy = (
        F.affine(boxes, **motion).as_subclass(torch.Tensor) if len(boxes) else scene.boxes_xyxy
    )
    image = (
        scene.image
        if scene.image.is_meta
        else from_pil(F.affine(to_pil(scene.image), **motion, fill=0))
    )
    return replace(scene, image=image, boxes_xyxy=boxes_xyxy)
