"""Pascal VOC folders: every usual layout is found, every fault names its file, object and value."""

from __future__ import annotations

from pathlib import Path

import pytest

import sets
from deim_lab.data.faults import Faults
from deim_lab.data.formats import voc
from deim_lab.data.parse import parse_coco
from deim_lab.data.pictures import fit_sizes
from deim_lab.errors import DataError
from sets import picture, text

PEAR = "<bndbox><xmin>16</xmin><ymin>13</ymin><xmax>25</xmax><ymax>18</ymax></bndbox>"
IN_PIXELS = ("pear", 15, 12, 10, 6)  # x, y from 0; both ends are included
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def item(name: str = "pear", box: str = PEAR, more: str = "") -> str:
    return f"<object><name>{name}</name>{more}{box}</object>"


def xml(path: Path, *items: str, size: str = SIZE, filename: str = "") -> Path:
    inside = f"<filename>{filename}</filename>{size}{''.join(items)}"
    return text(path, f"<annotation>{inside}</annotation>")


def write(folder: Path) -> Path:
    """VOC's own layout: b (a pear) and a (nothing) for training, c (an apple) for validation."""
    for stem, *items in (("b", item()), ("a",), ("c", item("apple"))):
        picture(folder / "JPEGImages" / f"{stem}.jpg")
        xml(folder / "Annotations" / f"{stem}.xml", *items)
    text(folder / "ImageSets" / "Main" / "train.txt", "b\na\n")
    text(folder / "ImageSets" / "Main" / "val.txt", "c  1\n")
    return folder


def with_xml(folder: Path, content: str) -> None:
    """Read a data set in which a.xml has this content."""
    write(folder)
    text(folder / "Annotations" / "a.xml", content)
    sets.read(voc.find(folder))


def with_item(folder: Path, content: str) -> None:
    with_xml(folder, f"<annotation>{item()}{content}</annotation>")


def test_the_layout_of_voc(tmp_path: Path) -> None:
    halves = voc.find(write(tmp_path))
    assert list(halves) == ["train", "val"]
    train, val = sets.read(halves), sets.read(halves, "val")
    assert sets.boxes(train) == {"a.jpg": [], "b.jpg": [IN_PIXELS]}
    assert sets.boxes(val) == {"c.jpg": [("apple", 15, 12, 10, 6)]}
    # one class has one id in both halves, also where it has no box
    assert train.coco["categories"] == val.coco["categories"]
    assert sets.names(train) == ["apple", "pear"]
    assert train.notices == ()


def test_an_unpacked_devkit_and_trainval(tmp_path: Path) -> None:
    folder = write(tmp_path / "VOCdevkit" / "VOC2007")
    (folder / "ImageSets" / "Main" / "train.txt").rename(
        folder / "ImageSets" / "Main" / "trainval.txt"
    )
    (folder / "ImageSets" / "Main" / "val.txt").rename(folder / "ImageSets" / "Main" / "test.txt")
    for given in (tmp_path, tmp_path / "VOCdevkit", folder):
        assert list(voc.find(given)) == ["train", "test"]
    write(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(DataError, match=r"several VOC data sets: VOC2007, VOC2012\. Give one"):
        voc.find(tmp_path / "VOCdevkit")


@pytest.mark.parametrize(
    ("xml_dir", "images_dir"),
    [
        ("{split}", "{split}"),
        ("images/{split}", "images/{split}"),
        ("{split}/annotations", "{split}/images"),
        ("annotations/{split}", "images/{split}"),
    ],
)
def test_halves_in_folders(tmp_path: Path, xml_dir: str, images_dir: str) -> None:
    for split, name in (("train", "pear"), ("valid", "apple")):
        picture(tmp_path / images_dir.format(split=split) / "b.jpg")
        xml(tmp_path / xml_dir.format(split=split) / "b.xml", item(name))
    halves = voc.find(tmp_path)
    assert list(halves) == ["train", "val"]
    assert sets.boxes(sets.read(halves)) == {"b.jpg": [IN_PIXELS]}
    assert sets.boxes(sets.read(halves, "val")) == {"b.jpg": [("apple", 15, 12, 10, 6)]}
    assert sets.names(sets.read(halves)) == ["apple", "pear"]


def test_a_folder_without_halves_and_pictures_without_xml(tmp_path: Path) -> None:
    xml(tmp_path / "annotations" / "sub" / "b c.v2.xml", item())
    picture(tmp_path / "images" / "sub" / "b c.v2.PNG")
    picture(tmp_path / "images" / "ü.jpg")
    halves = voc.find(tmp_path)
    assert list(halves) == ["train"]
    read = sets.read(halves)
    assert sets.boxes(read) == {"sub/b c.v2.PNG": [IN_PIXELS], "ü.jpg": []}
    assert read.notices == (
        "voc-no-xml: 1 pictures have no xml file; read as pictures without boxes (files ü.jpg)",
    )


def test_difficult_objects_are_crowd_regions(tmp_path: Path) -> None:
    write(tmp_path)
    objects = (item(more=f"<difficult>{flag}</difficult>") for flag in ("1", "0", ""))
    xml(tmp_path / "Annotations" / "b.xml", *objects)
    read = sets.read(voc.find(tmp_path))
    assert [box["iscrowd"] for box in read.coco["annotations"]] == [1, 0, 0]
    assert sets.notices(read) == ["voc-difficult"]
    assert "1 difficult" in read.notices[0]
    assert "b.xml" in read.notices[0]


def test_boxes_from_zero_are_counted(tmp_path: Path) -> None:
    write(tmp_path)
    xml(tmp_path / "Annotations" / "b.xml", item(box=PEAR.replace("16", "0")), item())
    read = sets.read(voc.find(tmp_path))
    assert sets.boxes(read)["b.jpg"][0] == ("pear", -1, 12, 26, 6)
    assert sets.notices(read) == ["voc-from-zero"]


def test_parts_of_an_object_are_no_objects(tmp_path: Path) -> None:
    write(tmp_path)
    part = f"<part><name>stalk</name>{PEAR.replace('16', '17')}</part>"
    xml(tmp_path / "Annotations" / "b.xml", item(box=part + PEAR))
    assert sets.boxes(sets.read(voc.find(tmp_path)))["b.jpg"] == [IN_PIXELS]


@pytest.mark.parametrize(
    ("stated", "expected", "follows"),
    [
        ("", (30, 40), True),
        ("30×40", (30, 40), True),
        ("40×30", (40, 30), False),
        ("0×0", (30, 40), True),
    ],
)
def test_the_stated_size_decides_whether_a_picture_is_turned(
    tmp_path: Path, stated: str, expected: tuple[int, int], follows: bool
) -> None:
    write(tmp_path)
    path = picture(tmp_path / "JPEGImages" / "b.jpg", (40, 30), orientation=sets.TURNED)
    width, _, height = stated.partition("×")
    size = f"<size><width>{width}</width><height>{height}</height></size>" if stated else ""
    xml(tmp_path / "Annotations" / "b.xml", item(), size=size)
    read = sets.read(voc.find(tmp_path))
    assert sets.size(read, "b.jpg") == expected
    sizes = fit_sizes(
        parse_coco(read.coco, name="test"), [tmp_path / "JPEGImages" / "a.jpg", path], Faults()
    )
    assert tuple(sizes.served_wh[1]) == expected
    assert bool(sizes.follow_exif[1]) is follows


def test_the_order_of_classes_from_a_file(tmp_path: Path) -> None:
    write(tmp_path)
    text(
        tmp_path / "labelmap.txt",
        "# label:color:parts\nbackground:0,0,0::\nquince:::\npear\napple:1,2,3::\n",
    )
    assert sets.names(sets.read(voc.find(tmp_path))) == ["quince", "pear", "apple"]
    text(tmp_path / "classes.txt", "pear\nappel\n")
    with pytest.raises(
        DataError, match=r"c\.xml: class 'apple' is not in classes\.txt \(did you mean 'appel'"
    ):
        sets.read(voc.find(tmp_path))
    text(tmp_path / "classes.txt", "\n")
    with pytest.raises(DataError, match=r"classes\.txt has no class names"):
        sets.read(voc.find(tmp_path))


def test_a_renamed_picture_is_found_by_the_name_in_its_xml(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "JPEGImages" / "b.jpg").rename(tmp_path / "JPEGImages" / "photo.jpg")
    xml(tmp_path / "Annotations" / "b.xml", item(), filename="photo.jpg")
    assert sets.boxes(sets.read(voc.find(tmp_path)))["photo.jpg"] == [IN_PIXELS]
    # the name of the xml comes first: tools copy the name in the xml from another file
    xml(tmp_path / "Annotations" / "a.xml", filename="photo.jpg")
    assert set(sets.boxes(sets.read(voc.find(tmp_path)))) == {"a.jpg", "photo.jpg"}
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.xml and b\.xml are of one picture, photo\.jpg"):
        sets.read(voc.find(tmp_path))


def test_two_pictures_of_one_xml(tmp_path: Path) -> None:
    write(tmp_path)
    picture(tmp_path / "JPEGImages" / "b.png")
    with pytest.raises(DataError, match=r"b\.jpg and b\.png have one xml, b\.xml"):
        sets.read(voc.find(tmp_path))
    xml(tmp_path / "Annotations" / "b.xml", item(), filename="b.png")
    assert sets.boxes(sets.read(voc.find(tmp_path)))["b.png"] == [IN_PIXELS]


def test_absent_pictures_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"train\.txt: 1 of 2 pictures are not in .*JPEGImages: b"):
        sets.read(voc.find(tmp_path))
    text(tmp_path / "ImageSets" / "Main" / "train.txt", "\n")
    with pytest.raises(DataError, match=r"train\.txt: this half has no picture"):
        sets.read(voc.find(tmp_path))


def corners(*values: str) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, values))
    return f"<bndbox>{inside}</bndbox>"


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (item(box=""), r"a\.xml, object 2 \('pear'\) has no <bndbox>"),
        (item(name=" "), r"a\.xml, object 2 has no <name>"),
        (item(box=corners("1", "2", "3")), r"object 2 \('pear'\): <bndbox> has no <ymax>"),
        (item(box=corners("1", "x", "3", "4")), r"object 2 \('pear'\): ymin 'x' is not a number"),
        (item(box=corners("1", "nan", "3", "4")), r"ymin 'nan' is not a number"),
        (item(box=corners("9", "2", "3", "4")), r"the box 9, 2, 3, 4 has xmax < xmin"),
        (item(more="<difficult>2</difficult>"), r"difficult '2' is not 0 or 1"),
        ("<size><width>-3</width></size>", r"a\.xml: width '-3' of <size>"),
    ],
)
def test_faults_of_an_object_name_file_object_and_value(
    tmp_path: Path, faulty: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        with_item(tmp_path, faulty)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"a\.xml, line 1: .*Expected complete XML"),
        ("", r"a\.xml, line 1: no element found"),
        ("<annotations/>", r"a\.xml: the root is <annotations>\. Expected <annotation>"),
        ("<?xml version='1.0' encoding='nonsense'?><annotation/>", r"a\.xml.*unknown encoding"),
        ("<!DOCTYPE annotation><annotation/>", r"a\.xml, line 1: the xml has a DTD"),
        (
            "\n<!DOCTYPE a [<!ENTITY b 'lol'><!ENTITY c '&b;&b;'>]><annotation>&c;</annotation>",
            r"a\.xml, line 2: the xml has a DTD",
        ),
        (
            "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]><annotation>&b;</annotation>",
            r"a\.xml, line 1: the xml has a DTD",
        ),
        ("<annotation>&b;</annotation>", r"a\.xml, line 1: undefined entity"),
    ],
)
def test_faults_of_a_file(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_xml(tmp_path, content)


def test_a_dtd_in_another_encoding_is_refused_too(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "Annotations" / "a.xml"
    path.write_bytes("<!DOCTYPE a [<!ENTITY b 'x'>]><annotation/>".encode("utf-16"))
    with pytest.raises(DataError, match="has a DTD"):
        sets.read(voc.find(tmp_path))
    path.write_bytes(f"<annotation>{item('ü')}</annotation>".encode("utf-16"))
    assert "ü" in sets.names(sets.read(voc.find(tmp_path)))


def test_other_folders_are_not_voc(tmp_path: Path) -> None:
    assert voc.find(tmp_path) == {}
    assert voc.find(tmp_path / "absent") == {}
    text(tmp_path / "annotations" / "instances_train.json", "{}")
    picture(tmp_path / "images" / "train" / "a.jpg")
    assert voc.find(tmp_path) == {}
