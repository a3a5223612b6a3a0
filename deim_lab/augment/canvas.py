"""Bound the canvas of Mosaic and zoom-out, so that no picture fills the memory.

One lying and one standing strip make a Mosaic of gigabytes, although both pictures are small. So
does zoom-out of a large photo. Such pictures are made smaller before they are put on the canvas.
Pictures of usual shape and size never reach a bound.
"""

from __future__ import annotations

import functools
import logging
import math

from torch import Tensor
from torch.utils.data import get_worker_info

logger = logging.getLogger(__name__)

# A Mosaic has at most this many times the pixels of one square tile. Four tiles of aspect ratio
# 16:1 reach the bound. So do lying and standing tiles of 4:1 together.
MOSAIC_TILES = 64
# Beyond this aspect ratio, a tile alone makes the Mosaic too large.
MOSAIC_ASPECT = MOSAIC_TILES // 4
# Pixels of the canvas of zoom-out (100 MB). A photo of 1920 × 1080 px fits, four times as wide and
# high.
ZOOM_OUT_PX = 2**25


def mosaic_factor(cell_hw: tuple[int, int], tile_px: int) -> float:
    """The factor on the sides of all tiles of a Mosaic; 1.0 within the bound.

    ``cell_hw``: height and width of the largest tile, which are half those of the canvas.
    """
    return _factor(4 * cell_hw[0] * cell_hw[1], MOSAIC_TILES * tile_px**2)


def zoom_out_factor(size_hw: tuple[int, int], ratio: float) -> float:
    """The factor on the sides of a picture before zoom-out; 1.0 within the bound.

    ``ratio``: side of the canvas / side of the picture.
    """
    return _factor(size_hw[0] * size_hw[1] * ratio**2, ZOOM_OUT_PX)


def scaled(size_hw: tuple[int, int], factor: float) -> tuple[int, int]:
    """``size_hw`` times ``factor``, rounded down; each side keeps at least one pixel."""
    return max(1, int(size_hw[0] * factor)), max(1, int(size_hw[1] * factor))


def announce(sizes_wh: Tensor, *, mosaic: bool, zoom_out: float) -> None:
    """Log once if pictures of these sizes ``[N, 2]`` can reach a bound.

    ``mosaic``: whether Mosaic is on. ``zoom_out``: largest ratio of zoom-out; 1.0 if it is off.
    """
    if not len(sizes_wh):
        return
    width, height = sizes_wh.double().clamp(min=1).unbind(1)
    widest = max(1.0, float((width / height).max()))
    highest = max(1.0, float((height / width).max()))
    if mosaic and 4 * widest * highest > MOSAIC_TILES:
        note_mosaic()
    if float((width * height).max()) * zoom_out**2 > ZOOM_OUT_PX:
        note_zoom_out()


def note_mosaic() -> None:
    """Log once that a Mosaic is made of smaller tiles."""
    _note(
        "Mosaic: the set has very long pictures. Where one would make the canvas larger than "
        f"{MOSAIC_TILES} square tiles, all four tiles are made smaller. This keeps the memory "
        "bounded. Cut very long pictures into pieces to keep their details."
    )


def note_zoom_out() -> None:
    """Log once that a picture is made smaller before zoom-out."""
    _note(
        "Zoom-out: the set has very large pictures. Where the canvas would have more than "
        f"{ZOOM_OUT_PX / 1e6:.0f} million pixels, the picture is made smaller first. This keeps "
        "the memory bounded. Cut very large pictures into tiles to keep their details."
    )


def _note(text: str) -> None:
    """Log ``text`` once. Loader workers stay silent: the main process calls ``announce``."""
    if get_worker_info() is None:
        _once(text)


@functools.cache
def _once(text: str) -> None:
    logger.warning(text)


def _factor(pixels: float, limit: int) -> float:
    return 1.0 if pixels <= limit else math.sqrt(limit / pixels)
