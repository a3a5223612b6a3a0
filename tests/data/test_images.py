"""Picture files of every kind come out as the RGB that a viewer shows; damaged ones as a named
error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deim_lab.data.images import decode
from deim_lab.errors import DataError


def save(folder: Path, image: Image.Image, name: str, **options: Any) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def test_rgb_is_read_as_stored(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    got = decode(save(tmp_path, Image.fromarray(pixels), "a.png"))
    assert got.dtype == torch.uint8
    assert got.shape == (3, 5, 7)
    assert torch.equal(got, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_fills_three_channels(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 255, 255], [255, 0, 0]], dtype=np.uint8)
    got = decode(save(tmp_path, Image.fromarray(grey).convert(mode), "a.png"))
    assert torch.equal(got, torch.from_numpy(grey).expand(3, 2, 3))


def test_sixteen_bit_keeps_its_full_range(tmp_path: Path) -> None:
    grey = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        got = decode(save(tmp_path, Image.fromarray(grey), name))
        assert got[0].tolist() == [[0, 1, 100, 255]]
        assert torch.equal(got[0], got[2])


def test_alpha_is_composited_on_black(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]], dtype=np.uint8)
    got = decode(save(tmp_path, Image.fromarray(rgba), "a.png"))
    assert got[:, 0, 0].tolist() == [200, 100, 50]
    assert got[:, 0, 1].tolist() == [0, 0, 0]
    assert got[:, 0, 2].tolist() == [40, 20, 10]
    la = np.array([[[200, 255], [200, 0]]], dtype=np.uint8)
    assert (
        decode(save(tmp_path, Image.fromarray(la, "LA"), "b.png"))[:, 0].tolist() == [[200, 0]] * 3
    )


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert decode(save(tmp_path, image, "a.png"))[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    assert decode(save(tmp_path, image, "b.png", transparency=1))[:, 0].T.tolist() == [
        [10, 20, 30],
        [0, 0, 0],
    ]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = save(
        tmp_path, Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK"), "a.jpg", quality=100
    )
    assert decode(path).float().mean((1, 2)).tolist() == pytest.approx([255, 0, 0], abs=4)


def test_exif_orientation_is_followed_unless_told_not_to(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate 90° clockwise to see it upright
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, 0] = 255  # top left as stored → top right when upright
    path = save(tmp_path, Image.fromarray(pixels), "a.png", exif=exif)
    upright, stored = decode(path), decode(path, follow_exif=False)
    assert upright.shape == (3, 4, 2)
    assert stored.shape == (3, 2, 4)
    assert upright[:, 0, 1].tolist() == [255, 255, 255]
    assert stored[:, 0, 0].tolist() == [255, 255, 255]
    assert int(upright.sum()) == int(stored.sum()) == 765


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(pixels), name)
    content = path.read_bytes()
    for length in (0, 4, len(content) // 3, len(content) * 2 // 3):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=name):
            decode(path)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png does not exist"):
        decode(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match=r"text\.png"):
        decode(tmp_path / "text.png")
    with pytest.raises(DataError, match="can't be decoded"):
        decode(tmp_path)
    with pytest.raises(DataError, match="float pixels"):
        decode(save(tmp_path, Image.fromarray(np.ones((2, 2), np.float32)), "f.tif"))
    with pytest.raises(DataError, match=r"32-bit pixels of range \[70000, 70000\]"):
        decode(save(tmp_path, Image.fromarray(np.full((2, 2), 70000, np.int32)), "i.tif"))
