"""Pictures that viewers show but libraries trip over: odd EXIF tags, few bits in 16-bit files, more
pixels than Pillow reads.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from deim_lab.data import images
from deim_lab.data.coco import CocoDataset
from deim_lab.errors import DataError

ORIENTATION, RESOLUTION = 0x0112, 0x011A
ASCII, SHORT, RATIONAL, SIGNED_RATIONAL, DOUBLE = 2, 3, 5, 10, 12


def exif_bytes(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A little-endian TIFF block of (tag, kind, count, value)."""
    head = struct.pack("<H", len(entries))
    free, values = 8 + 2 + 12 * len(entries) + 4, b""
    for tag, kind, count, value in sorted(entries):
        if len(value) > 4:
            head += struct.pack("<HHII", tag, kind, count, free + len(values))
            values += value
        else:
            head += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8) + head + struct.pack("<I", 0) + values


def jpeg(path: Path, pixels: np.ndarray, exif: bytes) -> Path:
    """Write a JPEG with ``exif`` as its bytes stand."""
    Image.fromarray(pixels).save(path, quality=95)
    raw, part = path.read_bytes(), b"Exif\0\0" + exif
    segment = b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part
    path.write_bytes(raw[:2] + segment + raw[2:])
    return path


def opened(folder: Path, path: Path, size_wh: tuple[int, int] | None = None) -> CocoDataset:
    """A data set of one picture and one box."""
    width, height = size_wh or Image.open(path).size
    listed = {"id": 1, "file_name": path.name, "width": width, "height": height}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    content = {"images": [listed], "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
    (folder / "a.json").write_text(json.dumps(content), encoding="utf-8")
    return CocoDataset.load(path.parent, folder / "a.json")


def noise(height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "tag",
    [
        (ORIENTATION, ASCII, 4, b"abc\0"),
        (ORIENTATION, RATIONAL, 1, struct.pack("<II", 1, 0)),
        (ORIENTATION, RATIONAL, 1, struct.pack("<II", 0, 0)),
        (ORIENTATION, DOUBLE, 1, struct.pack("<d", float("nan"))),
        (ORIENTATION, DOUBLE, 1, struct.pack("<d", float("inf"))),
        (ORIENTATION, SHORT, 1, struct.pack("<H", 0)),
        (ORIENTATION, SHORT, 1, struct.pack("<H", 60_000)),
        (ORIENTATION, SHORT, 0, b""),
    ],
)
def test_an_orientation_without_sense_leaves_the_picture_as_stored(
    tmp_path: Path, tag: tuple[int, int, int, bytes]
) -> None:
    path = jpeg(tmp_path / "a.jpg", noise(), exif_bytes(tag))
    stored = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(images.decode(path), stored)
    assert torch.equal(opened(tmp_path, path)[0].image, stored)


def test_damaged_exif_is_no_damaged_picture(tmp_path: Path) -> None:
    for content in (b"", b"II*\0", b"MM\0\0\0\0\0\0", b"II*\0\xff\xff\xff\xff", bytes(range(64))):
        path = jpeg(tmp_path / "a.jpg", noise(), content)
        assert images.decode(path).shape == (3, 24, 40)
        assert len(opened(tmp_path, path)) == 1


@pytest.mark.parametrize(
    "tag",
    [
        (ORIENTATION, SHORT, 1, struct.pack("<H", 6)),
        (ORIENTATION, SHORT, 2, struct.pack("<HH", 6, 1)),
        (ORIENTATION, ASCII, 2, b"6\0"),
        (ORIENTATION, RATIONAL, 1, struct.pack("<II", 6, 1)),
    ],
)
@pytest.mark.parametrize(
    "other",
    [
        (RESOLUTION, SIGNED_RATIONAL, 1, struct.pack("<ii", -5, 0)),
        (RESOLUTION, RATIONAL, 1, struct.pack("<II", 0, 0)),
        (RESOLUTION, ASCII, 3, b"no\0"),
        (RESOLUTION, DOUBLE, 1, struct.pack("<d", float("inf"))),
    ],
)
def test_pixels_are_turned_whatever_the_other_tags_hold(
    tmp_path: Path, tag: tuple[int, int, int, bytes], other: tuple[int, int, int, bytes]
) -> None:
    path = jpeg(tmp_path / "a.jpg", noise(), exif_bytes(tag, other))
    stored = np.array(Image.open(path).convert("RGB"))
    expected = torch.from_numpy(np.rot90(stored, -1).copy()).permute(2, 0, 1)
    assert torch.equal(images.decode(path), expected)
    assert torch.equal(opened(tmp_path, path, (24, 40))[0].image, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_the_eight_orientations_are_pillows(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise()).save(path, exif=exif)
    with Image.open(path) as image:
        image.load()
        expected = np.array(ImageOps.exif_transpose(image))
    assert torch.equal(images.decode(path).permute(1, 2, 0), torch.from_numpy(expected))


def grey_16(path: Path, largest: int) -> Path:
    grey = np.linspace(0, largest, 24 * 40).round().astype(np.uint16).reshape(24, 40)
    Image.fromarray(grey).save(path)
    return path


@pytest.mark.parametrize(
    ("largest", "bits", "factor"), [(4095, 12, 16), (1000, 10, 64), (16383, 14, 4), (200, 8, 256)]
)
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_few_bits_in_sixteen_are_noticed(
    tmp_path: Path, largest: int, bits: int, factor: int, suffix: str
) -> None:
    path = grey_16(tmp_path / f"a.{suffix}", largest)
    dataset = opened(tmp_path, path)
    (notice,) = dataset.notices
    assert notice.startswith("16-bit-dark: 1 of 1 16-bit images")
    assert f"at most {bits} of 16 bits" in notice
    assert f"Multiply their pixel values by {factor} " in notice
    # the remedy: the file is read with its full range
    Image.fromarray(np.array(Image.open(path)) * np.uint16(factor)).save(path)
    repaired = opened(tmp_path, path)
    assert not repaired.notices
    assert repaired[0].image.max() > 120


@pytest.mark.parametrize("largest", [65535, 40_000, 16_384])
def test_sixteen_bits_in_use_are_no_notice(tmp_path: Path, largest: int) -> None:
    assert not opened(tmp_path, grey_16(tmp_path / "a.tif", largest)).notices


def test_one_bright_picture_silences_the_notice_and_few_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deim_lab.data import pictures
    from deim_lab.data.annotations import read

    grey_16(tmp_path / "dark.tif", 4095)
    grey_16(tmp_path / "bright.tif", 60_000)
    opened(tmp_path, tmp_path / "dark.tif")
    annotations = read(tmp_path / "a.json")
    object.__setattr__(annotations, "image_ids", np.arange(1000))
    asked: list[Path] = []
    bits = images.bits_in_use

    def counted(path: Path) -> int:
        asked.append(path)
        return bits(path)

    monkeypatch.setattr(images, "bits_in_use", counted)
    dark = [tmp_path / "dark.tif"] * 1000
    assert pictures._dark_notice(annotations, dark, range(1000))
    assert len(asked) <= 8
    dark[875] = tmp_path / "bright.tif"
    assert not pictures._dark_notice(annotations, dark, range(1000))


def test_sixteen_bit_colours_are_noticed_too(tmp_path: Path) -> None:
    """Pillow keeps the upper byte of 16-bit colours, so 12 bits become nearly black."""
    path = tmp_path / "a.png"
    path.write_bytes(png_rgb_16(np.full((24, 40, 3), 4095, np.uint16)))
    assert opened(tmp_path, path).notices[0].startswith("16-bit-dark")
    path.write_bytes(png_rgb_16(np.full((24, 40, 3), 65_000, np.uint16)))
    assert not opened(tmp_path, path).notices


def png_rgb_16(values: np.ndarray) -> bytes:
    """A PNG of 16-bit RGB, which Pillow cannot write."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("how", [lambda folder, path: images.decode(path), opened])
def test_too_many_pixels_are_named_with_the_limit_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Path, Path], object]
) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (3000, 1000)).save(path)
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    size = (3000, 1000)
    with pytest.raises(DataError) as raised:
        how(tmp_path, path) if how is not opened else opened(tmp_path, path, size)
    message = str(raised.value)
    assert "a.png" in message
    assert "has 3 million pixels. Pillow reads at most 2 million" in message
    assert "Cut the picture into tiles" in message
    assert "readable" not in message
    assert "damaged" not in message
    # the remedy that the message names
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert images.decode(path).shape == (3, 1000, 3000)
