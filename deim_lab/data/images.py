"""Picture files → RGB pixels: the one place where a file is decoded, for training, evaluation and
prediction alike.

Greyscale, palette, alpha, 16-bit, CMYK and EXIF-rotated files all become the upright 8-bit RGB that
a viewer would show.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from deim_lab.errors import DataError

# What a folder of images is searched for; a file named outright may have any suffix that Pillow
# reads.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")

_SIXTEEN_TO_EIGHT_BIT = 257  # 65535 / 255: full range to full range


def decode(path: str | os.PathLike[str], *, follow_exif: bool = True) -> Tensor:
    """``uint8 [3, H, W]`` RGB of a picture file (of an animation: the first frame).

    Alpha is composited on black; 16-bit grey is divided by 257; CMYK and palettes are converted by
    Pillow. ``follow_exif`` turns the picture upright by its EXIF orientation, so H and W are those
    that a viewer shows; without it they are the stored ones. Raises ``DataError`` naming the file
    when it is missing, truncated, no picture or of a pixel type without a defined range (32-bit
    integer above 65535, float).
    """
    file = Path(path)
    try:
        with Image.open(file) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened) if follow_exif else opened
            pixels = _rgb(image, file)
    except (DataError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"image {file} does not exist") from error
    # Pillow's decoders raise almost anything on a damaged file: SyntaxError, struct.error, …
    except Exception as error:
        raise DataError(
            f"image {file} can't be decoded: {error or type(error).__name__}; "
            "it is truncated, damaged or no picture: replace it or take it out of the data set"
        ) from error
    return torch.from_numpy(pixels).permute(
        2, 0, 1
    )  # a view of HWC memory: torchvision resizes that several times faster


def _rgb(image: Image.Image, file: Path) -> np.ndarray:
    """``uint8 [H, W, 3]`` of an opened picture of any mode."""
    if image.mode == "F":
        raise DataError(
            f"image {file} has float pixels, whose range is not defined; save it as 8- or 16-bit"
        )
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.size and (grey.min() < 0 or grey.max() > 65535):
            raise DataError(
                f"image {file} has 32-bit pixels of range [{grey.min()}, {grey.max()}]; expected "
                f"at most [0, 65535]: "
                "save it as 8- or 16-bit"
            )
        eight_bit = np.round(grey / _SIXTEEN_TO_EIGHT_BIT).astype(np.uint8)
        return np.repeat(eight_bit[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)
    return np.array(image.convert("RGB"))
