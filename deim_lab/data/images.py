"""Decode picture files to RGB pixels, for training, evaluation and prediction.

Greyscale, palette, alpha, 16-bit, CMYK and EXIF-rotated files all become upright 8-bit RGB, as
shown by a viewer. No other module decodes files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deim_lab.errors import DataError
from deim_lab.host.files import user_path

# Suffixes to search for in a folder of images. A file given by name may have any suffix that Pillow
# reads.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")

_SIXTEEN_TO_EIGHT_BIT = 257  # 65535 / 255, from full range to full range

_ORIENTATION = 0x0112  # the EXIF tag
TURNED = (5, 6, 7, 8)  # orientations that swap width and height
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(path: str | os.PathLike[str], *, follow_exif: bool = True) -> Tensor:
    """Decode a picture file to ``uint8 [3, H, W]`` RGB; an animation to its first frame.

    Alpha is composited on black. 16-bit grey is divided by 257. Pillow converts CMYK and palettes.
    ``follow_exif`` turns the picture upright by its EXIF orientation, so H and W are as shown by a
    viewer. Otherwise H and W are as stored in the file.

    Raises ``DataError`` with the file name for a file that is missing, truncated or not a picture.
    Also raises it for pixels without a defined range (float, 32-bit integer above 65535).
    """
    file = user_path(path)
    try:
        with Image.open(file) as opened:
            opened.load()
            turn = _UPRIGHT.get(orientation(opened)) if follow_exif else None
            pixels = _rgb(opened if turn is None else opened.transpose(turn), file)
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"image {file} {too_large(error)}") from error
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


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened picture, 1 to 8.

    1 (upright) if the tag makes no sense. Reads leniently, as viewers do: a damaged tag says
    nothing about the pixels.
    """
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        value = int(value[0] if isinstance(value, tuple) else value)
    except Exception:  # Pillow raises almost anything on damaged EXIF data
        return 1
    return value if value in _UPRIGHT else 1


def too_large(error: Image.DecompressionBombError) -> str:
    """Say why Pillow refuses a picture with too many pixels, and what to do."""
    size = re.search(r"\d+", str(error))
    pixels = f"{int(size[0]) / 1e6:.0f} million pixels" if size else "too many pixels"
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return (
        f"has {pixels}. Pillow reads at most {limit:.0f} million, against files that are made to "
        "fill the memory. Cut the picture into tiles, which also keeps small objects visible. Or, "
        "if you trust the file, set PIL.Image.MAX_IMAGE_PIXELS = None in Python before the data "
        "set is opened (on the command line: in a module of train.plugins)."
    )


def is_sixteen_bit(image: Image.Image) -> bool:
    """Whether an opened file stores more than 8 bits per value. Reads only the header."""
    return image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ""))


def bits_in_use(path: Path) -> int:
    """Number of bits that the largest value of a 16-bit picture needs, 0 to 16."""
    with Image.open(path) as image:
        largest = int(np.asarray(image).max(initial=0))
        # Pillow keeps only the upper 8 bits of 16-bit colours
        return (largest if image.mode.startswith("I") else largest << 8).bit_length()


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
