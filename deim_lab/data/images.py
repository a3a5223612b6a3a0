"""Decode picture files to RGB pixels, for training, evaluation and prediction.

Greyscale, palette, alpha, 16-bit, CMYK and EXIF-rotated files all become upright 8-bit RGB, as
shown by a viewer. No other module decodes files.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from deim_lab.errors import DataError

# Suffixes to search for in a folder of images. A file given by name may have any suffix that Pillow
# reads.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")

_SIXTEEN_TO_EIGHT_BIT = 257  # 65535 / 255, from full range to full range


def decode(path: str | os.PathLike[str], *, follow_exif: bool = True) -> Tensor:
    """Decode a picture file to ``uint8 [3, H, W]`` RGB; an animation to its first frame.

    Alpha is composited on black. 16-bit grey is divided by 257. Pillow converts CMYK and palettes.
    ``follow_exif`` turns the picture upright by its EXIF orientation, so H and W are as shown by a
    viewer. Otherwise H and W are as stored in the file.

    Raises ``DataError`` with the file name for a file that is missing, truncated or not a picture.
    Also raises it for pixels without a defined range (float, 32-bit integer above 65535).
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
        raise DataError(f"image {file} does not exist.") from error
    # Pillow's decoders raise almost anything on a damaged file: SyntaxError, struct.error, …
    except Exception as error:
        raise DataError(
            f"image {file} can't be decoded: {error or type(error).__name__}. "
            "It is truncated, damaged or not a picture. Replace it or remove it from the data set."
        ) from error
    return torch.from_numpy(pixels).permute(
        2, 0, 1
    )  # a view of HWC memory, which torchvision resizes several times faster


def _rgb(image: Image.Image, file: Path) -> np.ndarray:
    """Convert an opened picture of any mode to ``uint8 [H, W, 3]`` RGB."""
    if image.mode == "F":
        raise DataError(
            f"image {file} has float pixels, which have no defined range. Save it as 8- or 16-bit."
        )
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.size and (grey.min() < 0 or grey.max() > 65535):
            raise DataError(
                f"image {file} has 32-bit pixels of range [{grey.min()}, {grey.max()}]. Expected "
                f"at most [0, 65535]. Save it as 8- or 16-bit."
            )
        eight_bit = np.round(grey / _SIXTEEN_TO_EIGHT_BIT).astype(np.uint8)
        return np.repeat(eight_bit[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)
    return np.array(image.convert("RGB"))
