"""Conversions there and back: the same boxes, nothing overwritten, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import sets
from deim_lab.data import convert, layouts
from deim_lab.data.annotations import Categories
from deim_lab.data.writers import Box, Half, Picture
from deim_lab.errors import ConfigError, DataError

SETS = ("bccd", "coco_mini", "deeppcb", "fruits_nuts", "pear640")
TOLERANCE = {"coco": 0.01, "yolo": 0.01, "voc": 1.0}  # pixels; VOC has whole pixels
CLASSES = Categories((3, 7, 9), ("apple", "no", "quince: a fruit"))
ODD = ("b c.jpg", "sub/ü 1.png", "other/b c.jpg", "images/x.v2.JPG", "a&<b>.jpg")


def half(
    folder: Path,
    boxes: dict[str, list[tuple[float, float, float, float]]],
    name: str = "train",
    classes: Categories = CLASSES,
    crowd: bool = False,
) -> Half:
    """A half of pictures of 40×30 with boxes of the second class."""
    pictures: list[Picture] = []
    for place, (file_name, listed) in enumerate(boxes.items(), 5):
        path = sets.picture(folder / f"{name}{place}.jpg")
        listed_boxes = tuple(Box(classes.ids[1], xywh, xywh[2] * xywh[3], crowd) for xywh in listed)
        pictures.append(Picture(place, path, file_name, (40, 30), listed_boxes))
    return Half(name, classes, tuple(pictures))


def table(half: Half) -> dict[str, list[tuple[str, bool, tuple[float, ...]]]]:
    """File name → class name, crowd and the corners of every box."""
    classes = dict(zip(half.categories.ids, half.categories.names, strict=True))
    return {
        picture.file_name: [
            (
                classes[box.category_id],
                box.crowd,
                (*box.xywh[:2], box.xywh[0] + box.xywh[2], box.xywh[1] + box.xywh[3]),
            )
            for box in picture.boxes
        ]
        for picture in half.pictures
    }


def assert_same(before: Half, after: Half, tolerance: float, *, crowds: bool = True) -> None:
    assert after.categories.names == before.categories.names
    expected, actual = table(before), table(after)
    assert set(actual) == set(expected)
    for name, rows in expected.items():
        rows = [row for row in rows if crowds or not row[1]]
        assert [row[:2] for row in actual[name]] == [row[:2] for row in rows], name
        for (*_, corners), (*_, other) in zip(rows, actual[name], strict=True):
            assert np.abs(np.subtract(corners, other)).max() <= tolerance, name


@pytest.mark.parametrize("format", convert.FORMATS)
def test_there_and_back(tmp_path: Path, format: str) -> None:
    boxes = {name: [(3.0, 4.0, 10.0, 6.0)] for name in ODD}
    boxes["empty.jpg"] = []
    boxes["b c.jpg"] = [(0.0, 0.0, 40.0, 30.0), (1.4, 2.6, 0.2, 7.123456)]
    boxes["tiny.jpg"] = [(1.6, 29.6, 0.2, 0.3), (39.7, 0.1, 0.3, 0.2)]
    halves = [half(tmp_path / "from", boxes), half(tmp_path / "from", {"v.jpg": []}, "val")]
    written = convert.write(format, tmp_path / "to", halves)
    assert written.notices == ()
    after = convert.read(tmp_path / "to")
    assert [item.name for item in after] == ["train", "val"]
    for before, back in zip(halves, after, strict=True):
        assert_same(before, back, TOLERANCE[format])
        assert back.notices == ()
    sources = {item.file_name: item.path for item in halves[0].pictures}
    for item in after[0].pictures:
        assert os.path.samefile(sources[item.file_name], item.path)  # a hard link
    if format == "coco":
        assert [item.id for item in after[0].pictures] == [item.id for item in halves[0].pictures]
        assert after[0].categories == CLASSES


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("format", convert.FORMATS)
def test_real_sets_there_and_back(tmp_path: Path, format: str, name: str) -> None:
    folder = os.environ.get("DEIM_LAB_SETS")
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip("DEIM_LAB_SETS names no folder of data sets")
    halves = convert.read(Path(folder) / name)
    convert.write(format, tmp_path / "to", halves)
    for before, after in zip(halves, convert.read(tmp_path / "to"), strict=True):
        assert_same(before, after, TOLERANCE[format], crowds=format != "yolo")


@pytest.mark.parametrize("format", convert.FORMATS)
def test_crowds_are_kept_or_counted(tmp_path: Path, format: str) -> None:
    halves = [
        half(tmp_path, {"a.jpg": [(3, 4, 10, 6)]}, crowd=True),
        half(tmp_path, {"b.jpg": [(3, 4, 10, 6)]}, "val"),
    ]
    written = convert.write(format, tmp_path / "to", halves)
    after = convert.read(tmp_path / "to")[0]
    assert [box.crowd for box in after.pictures[0].boxes] == [True] * (format != "yolo")
    named = [notice.partition("train: ")[2].partition(" (")[0] for notice in written.notices]
    assert (
        named
        == {
            "coco": [],
            "yolo": ["crowd regions are left out, because YOLO has no mark for them"],
            "voc": ["crowd regions are marked as difficult"],
        }[format]
    )


@pytest.mark.parametrize("format", ["yolo", "voc"])
def test_boxes_beyond_the_picture_are_clipped_and_counted(tmp_path: Path, format: str) -> None:
    boxes = [(-5.0, 2.0, 10.0, 6.0), (41.0, 2.0, 5.0, 5.0), (1.0, 1.0, 0.0, 5.0), (30, 20, 99, 99)]
    halves = [half(tmp_path, {"a.jpg": boxes}), half(tmp_path, {"b.jpg": []}, "val")]
    written = convert.write(format, tmp_path / "to", halves)
    assert [notice.split(":")[0] for notice in written.notices] == [
        "convert-empty",
        "convert-clipped",
    ]
    assert all("2 train" in notice for notice in written.notices)
    after = convert.read(tmp_path / "to")[0]
    corners = [row[2] for row in table(after)["a.jpg"]]
    assert np.allclose(corners, [(0, 2, 5, 8), (30, 20, 40, 30)])


@pytest.mark.parametrize("format", convert.FORMATS)
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_boxes_of_stored_pixels_are_turned_with_the_picture(
    tmp_path: Path, orientation: int, format: str
) -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[4:10, 3:13] = 255
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    x, y, w, h = 3.0, 4.0, 10.0, 6.0
    if orientation < 5:  # both sizes fit, so the boxes are those of the upright picture
        shown = np.asarray(ImageOps.exif_transpose(Image.open(path)))[..., 0]
        rows, columns = np.nonzero(shown)
        x, y = float(columns.min()), float(rows.min())
    item = Picture(1, path, "a.png", (40, 30), (Box(7, (x, y, w, h), 60.0, False),))
    halves = [Half("train", CLASSES, (item,)), half(tmp_path, {"b.jpg": []}, "val")]
    written = convert.write(format, tmp_path / "to", halves)
    turned = orientation >= 5 and format != "coco"
    assert [notice.split(":")[0] for notice in written.notices] == ["convert-turned"] * turned
    after = convert.read(tmp_path / "to")[0].pictures[0]
    image: Image.Image = Image.open(after.path)
    if turned or orientation < 5:
        image = ImageOps.exif_transpose(image)
    assert after.size_wh == image.size
    left, top, right, bottom = (round(value) for value in corners_of(after))
    bright = np.asarray(image)[..., 0]
    assert bright[top:bottom, left:right].all()
    assert bright.astype(bool).sum() == (right - left) * (bottom - top) == 60


def corners_of(picture: Picture) -> tuple[float, float, float, float]:
    x, y, w, h = picture.boxes[0].xywh
    return x, y, x + w, y + h


def test_halves_with_the_same_names_get_sub_folders_in_voc(tmp_path: Path) -> None:
    halves = [half(tmp_path, {"a.jpg": [(3, 4, 10, 6)]}, name) for name in ("train", "val")]
    written = convert.write("voc", tmp_path / "to", halves)
    assert written.notices[0].startswith("convert-sub-folders: 1 names occur in several halves")
    after = convert.read(tmp_path / "to")
    assert [list(table(item)) for item in after] == [["train/a.jpg"], ["val/a.jpg"]]
    for before, back in zip(halves, after, strict=True):
        assert os.path.samefile(before.pictures[0].path, back.pictures[0].path)


@pytest.mark.parametrize(
    ("format", "names", "message"),
    [
        ("coco", ["../a.jpg"], r"file_name '\.\./a\.jpg' is not inside"),
        ("coco", ["/a.jpg"], r"file_name '/a\.jpg' is not inside"),
        ("coco", ["a.jpg", "./a.jpg"], r"'a\.jpg' occurs twice"),
        ("yolo", ["a.jpg", "a.png"], r"'a\.jpg' and 'a\.png' would share their label file"),
        ("voc", ["a.jpg", "a.png"], r"'a\.jpg' and 'a\.png' would share"),
        ("yolo", ["a.jfif"], r"'a\.jfif' is hidden or has an unusual suffix"),
        ("voc", [".a/b.jpg"], r"'\.a/b\.jpg' is hidden"),
        ("voc", ["a\n.jpg"], r"line breaks"),
        ("voc", [" a.jpg"], r"blanks at an end"),
        ("voc", ["a\x01.jpg"], r"control characters"),
    ],
)
def test_names_that_a_format_cannot_hold_are_refused(
    tmp_path: Path, format: str, names: list[str], message: str
) -> None:
    item = half(tmp_path / "from", {name: [] for name in names})
    with pytest.raises(DataError, match=message):
        convert.write(format, tmp_path / "to", [item])
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("a", "a"), "two classes are named 'a'"),
        (("a ", "b"), "class 'a ' is empty or has"),
        (("a\nb", "c"), "line breaks"),
    ],
)
def test_class_names_that_voc_cannot_hold_are_refused(
    tmp_path: Path, classes: tuple[str, ...], message: str
) -> None:
    item = half(tmp_path, {"a.jpg": [(3, 4, 10, 6)]}, classes=Categories((1, 2), classes))
    with pytest.raises(DataError, match=message):
        convert.write("voc", tmp_path / "to", [item])
    halves = [item, half(tmp_path, {"b.jpg": []}, "val", Categories((1, 2), classes))]
    convert.write("yolo", tmp_path / "yolo", halves)  # YOLO counts its classes
    assert convert.read(tmp_path / "yolo")[0].categories.names == classes


def test_halves_share_their_classes(tmp_path: Path) -> None:
    halves = [
        half(tmp_path, {"a.jpg": [(3, 4, 10, 6)]}, classes=Categories((1, 5), ("a", "e"))),
        half(tmp_path, {"b.jpg": [(3, 4, 10, 6)]}, "val", Categories((1, 3), ("a", "c"))),
    ]
    convert.write("yolo", tmp_path / "to", halves)
    after = convert.read(tmp_path / "to")
    assert [item.categories.names for item in after] == [("a", "c", "e")] * 2
    assert [table(item).popitem()[1][0][0] for item in after] == ["e", "c"]
    other = half(tmp_path, {"b.jpg": []}, "val", Categories((1, 3), ("A", "c")))
    with pytest.raises(DataError, match="val: category id 1 is 'A' here and 'a' in another half"):
        convert.write("yolo", tmp_path / "again", [halves[0], other])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    item = half(tmp_path / "from", {"a.jpg": []})
    target = tmp_path / "to"
    target.mkdir()
    convert.write("yolo", target, [item])  # an empty folder is free
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    with pytest.raises(DataError, match=r"to is not empty\. Nothing is overwritten"):
        convert.write("coco", target, [item])
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    with pytest.raises(DataError, match=r"a\.txt is a file"):
        convert.write("coco", sets.text(tmp_path / "a.txt", ""), [item])


@pytest.mark.parametrize("format", convert.FORMATS)
def test_nothing_half_written_is_left(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = half(tmp_path / "from", {"a.jpg": [], "b.jpg": []})

    def full(source: Path, place: Path) -> None:
        if place.name == "b.jpg":
            raise OSError(errno.ENOSPC, "No space left on device", str(place))
        place.write_bytes(source.read_bytes())

    monkeypatch.setattr("deim_lab.data.convert.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        convert.write(format, tmp_path / "to", [item], pictures="copy")
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_pictures_are_linked_copied_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = half(tmp_path / "from", {"a.jpg": []})
    places = {}
    for how in convert.PICTURES:
        written = convert.write("yolo", tmp_path / how, [item], pictures=how)
        assert written.notices == ()
        places[how] = tmp_path / how / "images" / "train" / "a.jpg"
    assert os.path.samefile(places["link"], item.pictures[0].path)
    assert not os.path.samefile(places["copy"], item.pictures[0].path)
    assert places["copy"].read_bytes() == item.pictures[0].path.read_bytes()
    assert not places["none"].exists()
    assert (tmp_path / "none" / "labels" / "train" / "a.txt").is_file()

    def refuse(source: str, place: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("deim_lab.data.convert.os.link", refuse)
    written = convert.write("yolo", tmp_path / "other disk", [item])
    assert (tmp_path / "other disk" / "images" / "train" / "a.jpg").is_file()
    assert written.notices == (
        "convert-copied: 1 pictures were copied; they can't be linked (files a.jpg)",
    )


def test_a_linked_picture_of_a_link_is_the_file_itself(tmp_path: Path) -> None:
    item = half(tmp_path / "from", {"a.jpg": []})
    link = tmp_path / "link.jpg"
    link.symlink_to(item.pictures[0].path)
    linked = Half("train", CLASSES, (Picture(1, link, "a.jpg", (40, 30), ()),))
    convert.write("coco", tmp_path / "to", [linked])
    place = tmp_path / "to" / "images" / "train" / "a.jpg"
    assert not place.is_symlink()
    assert os.path.samefile(place, item.pictures[0].path)


@pytest.mark.parametrize(("format", "pictures"), [("yolov8", "link"), ("yolo", "links")])
def test_unknown_words(tmp_path: Path, format: str, pictures: str) -> None:
    with pytest.raises(ConfigError, match=r"is unknown \(did you mean '(yolo|link)'\?\)"):
        convert.write(format, tmp_path / "to", [], pictures=pictures)


def test_a_folder_that_no_reader_knows_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        convert.read(tmp_path)
    for words in ("annotations/instances_{train,val}.json", "data.yaml", "ImageSets", "train.csv"):
        assert words in str(caught.value)


def test_the_written_coco_is_that_of_the_layouts(tmp_path: Path) -> None:
    halves = [half(tmp_path, {"a.jpg": [(3, 4, 10, 6)]}), half(tmp_path, {"b.jpg": []}, "val")]
    convert.write("coco", tmp_path / "to", halves)
    source = layouts.resolve(tmp_path / "to")
    assert isinstance(source.train[1], Path)
    content = json.loads(source.train[1].read_text(encoding="utf-8"))
    assert content["annotations"] == [
        {
            "id": 1,
            "image_id": 5,
            "category_id": 7,
            "bbox": [3, 4, 10, 6],
            "area": 60,
            "iscrowd": 0,
        }
    ]
