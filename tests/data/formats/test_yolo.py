"""YOLO folders: every usual layout is found, every fault names its file, line and value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sets
from deim_lab.data import formats
from deim_lab.data.formats import content, yolo
from deim_lab.data.images import SUFFIXES
from deim_lab.errors import DataError
from sets import picture, text

BOX = "1 0.5 0.5 0.25 0.2\n"  # in a picture of 40×30: 15, 12, 10, 6
IN_PIXELS = ("pear", 15, 12, 10, 6)
NAMES = "names: [apple, pear]\n"


def write(folder: Path, layout: str = "images/{split}", *, splits: tuple[str, ...] = ()) -> Path:
    """A picture with a box and one without per half. ``layout`` is the folder of pictures."""
    for split in splits or ("train", "val"):
        images = folder / layout.format(split=split)
        labels = folder / layout.format(split=split).replace("images", "labels")
        picture(images / "b.jpg")
        text(labels / "b.txt", BOX)
        picture(images / "a.jpg")
        text(labels / "a.txt", "")
    return folder


def with_line(folder: Path, line: str, yaml: str = NAMES) -> content.Content:
    """Content of a data set whose second line of a.txt is ``line``."""
    write(folder)
    text(folder / "data.yaml", yaml + "train: images/train\nval: images/val\n")
    text(folder / "labels" / "train" / "a.txt", BOX + line)
    return sets.read(yolo.find(folder))


@pytest.mark.parametrize("layout", ["images/{split}", "{split}/images", "{split}"])
def test_layouts_are_found_with_and_without_a_yaml(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout)
    halves = yolo.find(tmp_path)
    assert list(halves) == ["train", "val"]
    read = sets.read(halves)
    assert sets.boxes(read) == {"a.jpg": [], "b.jpg": [("1", 15, 12, 10, 6)]}
    assert [item["id"] for item in read.coco["images"]] == [1, 2]
    assert sets.names(read) == ["0", "1"]
    train = layout.format(split="train")
    text(tmp_path / "data.yaml", f"{NAMES}train: {train}\nval: {layout.format(split='val')}\n")
    for split in ("train", "val"):
        named = sets.read(yolo.find(tmp_path), split)
        assert sets.boxes(named) == {"a.jpg": [], "b.jpg": [IN_PIXELS]}
        assert sets.names(named) == ["apple", "pear"]
        assert named.notices == ()


def test_paths_of_roboflow_lie_outside_the_folder_and_are_found_by_their_end(
    tmp_path: Path,
) -> None:
    # a data set next to this one must not be taken instead
    write(tmp_path, "{split}/images", splits=("train", "valid"))
    folder = write(tmp_path / "set", "{split}/images", splits=("train", "valid"))
    text(
        folder / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
        "names: ['apple', 'pear']\n",
    )
    halves = yolo.find(folder)
    assert list(halves) == ["train", "val"]  # the export has no test half
    assert halves["val"][0] == folder / "valid" / "images"
    assert sets.boxes(sets.read(halves, "val"))["b.jpg"] == [IN_PIXELS]


@pytest.mark.parametrize(
    ("path", "train"),
    [
        ("/somewhere/else", "images/train"),
        ("", "/somewhere/else/images/train"),
        ("", r"C:\sets\fruit\images\train"),
        (".", "./images/train"),
        ("images", "train"),
    ],
)
def test_paths_of_other_machines_are_found_by_their_end(
    tmp_path: Path, path: str, train: str
) -> None:
    write(tmp_path)
    text(tmp_path / "fruit.yml", f"{NAMES}path: {path}\ntrain: {train}\n")
    halves = yolo.find(tmp_path)
    assert list(halves) == ["train"]
    assert halves["train"][0] == tmp_path / "images" / "train"


def test_a_data_set_outside_the_folder_of_its_yaml(tmp_path: Path) -> None:
    write(tmp_path / "set")
    text(
        tmp_path / "yaml" / "fruit.yaml", f"{NAMES}path: {tmp_path / 'set'}\ntrain: images/train\n"
    )
    halves = yolo.find(tmp_path / "yaml")
    assert sets.boxes(sets.read(halves))["b.jpg"] == [IN_PIXELS]


def test_several_folders_and_lists_of_pictures(tmp_path: Path) -> None:
    write(tmp_path, "one/images", splits=("train",))
    write(tmp_path, "two/images", splits=("train",))
    text(tmp_path / "data.yaml", f"{NAMES}train: [one/images, two/images]\nval: val.txt\n")
    text(tmp_path / "val.txt", "/content/set/two/images/b.jpg\n\none/images/a.jpg\n")
    halves = yolo.find(tmp_path)
    assert list(sets.boxes(sets.read(halves))) == [
        "one/images/a.jpg",
        "one/images/b.jpg",
        "two/images/a.jpg",
        "two/images/b.jpg",
    ]
    assert sets.boxes(sets.read(halves, "val")) == {
        "one/images/a.jpg": [],
        "two/images/b.jpg": [IN_PIXELS],
    }


def test_lists_without_a_yaml_as_cvat_exports_them(tmp_path: Path) -> None:
    write(tmp_path, "obj_train_data", splits=("train",))
    text(tmp_path / "obj.names", "apple\npear\n")
    text(tmp_path / "train.txt", "data/obj_train_data/b.jpg\n")
    halves = yolo.find(tmp_path)
    assert sets.boxes(sets.read(halves)) == {"obj_train_data/b.jpg": [IN_PIXELS]}


def test_a_list_names_absent_and_ambiguous_pictures(tmp_path: Path) -> None:
    write(tmp_path, "one/images", splits=("train",))
    write(tmp_path, "two/images", splits=("train",))
    text(tmp_path / "data.yaml", f"{NAMES}train: train.txt\n")
    text(tmp_path / "train.txt", "one/images/b.jpg\none/images/c.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt: 1 of 2 .*line 2 \('one/images/c\.jpg'\)"):
        sets.read(yolo.find(tmp_path))
    text(tmp_path / "train.txt", "b.jpg\n")
    with pytest.raises(DataError, match=r"line 1: 'b\.jpg' may be one/.*, two/"):
        sets.read(yolo.find(tmp_path))
    # the picture of another half is none of this half
    write(tmp_path, "val/images", splits=("val",))
    text(tmp_path / "train.txt", "train/images/b.jpg\none/images/b.jpg\n")
    picture(tmp_path / "val" / "images" / "only.jpg")
    text(tmp_path / "train.txt", "train/images/only.jpg\n")
    with pytest.raises(DataError, match=r"1 of 1 listed pictures"):
        sets.read(yolo.find(tmp_path))


@pytest.mark.parametrize("name", ["classes.txt", "labels/classes.txt", "obj.names"])
def test_class_names_of_a_text_file_and_a_folder_without_halves(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "images" / "b.jpg")
    text(tmp_path / "labels" / "b.txt", BOX)
    text(tmp_path / name, "apple\npear\nquince\n")
    read = sets.read(yolo.find(tmp_path))
    assert list(yolo.find(tmp_path)) == ["train"]
    assert sets.names(read) == ["apple", "pear", "quince"]
    assert sets.boxes(read) == {"b.jpg": [IN_PIXELS]}
    assert read.notices == ()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: {0: apple, 1: pear}", ["apple", "pear"]),
        ("names:\n  1: pear\n  0: apple", ["apple", "pear"]),
        ("names: [no, 1]", ["no", "1"]),  # YAML's own types would make False and 1 of them
        ("nc: 3\nnames:\ntrain: images/train", ["0", "1", "2"]),
    ],
)
def test_class_names_of_the_yaml(tmp_path: Path, names: str, expected: list[str]) -> None:
    write(tmp_path)
    text(tmp_path / "data.yaml", f"{names}\n")
    assert sets.names(sets.read(yolo.find(tmp_path))) == expected


def test_polygons_become_their_bounding_boxes_and_are_counted(tmp_path: Path) -> None:
    read = with_line(tmp_path, "0 0.25 0.2 0.75 0.4 0.5 0.8\n0 .1 .1 .2 .1 .2 .3 .1 .3\n")
    assert sets.boxes(read)["a.jpg"] == [
        IN_PIXELS,
        ("apple", 10, 6, 20, 18),
        ("apple", 4, 3, 4, 6),
    ]
    assert read.notices == (
        "yolo-polygons: 2 polygons were read as their bounding boxes (files a.txt)",
    )


def test_keypoints_are_skipped_where_the_yaml_says_so(tmp_path: Path) -> None:
    line = "1 0.5 0.5 0.25 0.2 0.1 0.1 0.9 0.9"
    assert sets.boxes(with_line(tmp_path, line))["a.jpg"][1] != IN_PIXELS  # a polygon otherwise
    read = with_line(tmp_path, line, NAMES + "kpt_shape: [2, 2]\n")
    assert sets.boxes(read)["a.jpg"] == [IN_PIXELS, IN_PIXELS]
    with pytest.raises(DataError, match=r"line 2 has 7 numbers\..* 4 numbers of keypoints"):
        with_line(tmp_path, "1 .1 .1 .2 .1 .2 .3", NAMES + "kpt_shape: [2, 2]\n")


def test_the_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    write(tmp_path)
    picture(tmp_path / "images" / "train" / "b.jpg", (40, 30), orientation=sets.TURNED)
    read = sets.read(yolo.find(tmp_path))
    assert sets.size(read, "b.jpg") == (30, 40)
    assert sets.boxes(read)["b.jpg"] == [("1", 11.25, 16, 7.5, 8)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 .5 .5 .1 .1", r"a\.txt, line 2: class 2 is none of the 2 classes \(0 apple, 1 pear\)"),
        ("-1 .5 .5 .1 .1", r"a\.txt, line 2: class -1 is not a whole number from 0"),
        ("0.5 .5 .5 .1 .1", r"line 2: class 0\.5 is not a whole number"),
        ("0 .5 abc .1 .1", r"a\.txt, line 2: 'abc' is not a number"),
        ("0 .5 nan .1 .1", r"line 2: 'nan' is not a number"),
        ("0 .5 1e999 .1 .1", r"line 2: '1e999' is not a number"),
        ("0 .5 1_0 .1 .1", r"line 2: '1_0' is not a number"),
        ("0,.5,.5,.1,.1", r"line 2: '0,\.5,\.5,\.1,\.1' is not a number.*separated by spaces"),
        ("0 120 80 30 20", r"a\.txt, line 2: 120 is outside \[0, 1\].*not pixels"),
        ("0 .5 .5 1.02 .1", r"line 2: 1\.02 is outside"),
        ("0 -.2 .5 .1 .1", r"line 2: -\.2 is outside"),
        ("0 .1 .1 .2 .1 .2 7", r"line 2: 7 is outside"),
        ("0 .5 .5 .1 .1 .9", r"line 2 has 6 numbers\. Predictions have a confidence"),
        ("0 .5 .5 .1", r"line 2 has 4 numbers\. Expected 5"),
        ("0 .5 .5 .1 .1 .1 .1 .1", r"line 2 has 8 numbers\. Expected 5"),
    ],
)
def test_faults_of_a_line_name_file_line_and_value(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_line(tmp_path, line)


def test_rounding_of_other_tools_is_no_fault(tmp_path: Path) -> None:
    read = with_line(tmp_path, "1.0 0.5 0.5 1.000001 1e0\n\n  \n")
    assert sets.boxes(read)["a.jpg"][1] == ("pear", -0.00002, 0, 40.00004, 30)


def test_absent_label_files_are_counted_and_all_absent_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    read = sets.read(yolo.find(tmp_path))
    assert sets.boxes(read)["a.jpg"] == []
    assert sets.notices(read) == ["yolo-no-label-file"]
    assert "1 pictures" in read.notices[0]
    assert "a.jpg" in read.notices[0]
    text(tmp_path / "data.yaml", NAMES + "train: images/train\n")
    (tmp_path / "labels" / "train" / "b.txt").rename(tmp_path / "labels" / "train" / "B.txt")
    with pytest.raises(DataError, match=r"none of 2 pictures has a label file.*a\.txt"):
        sets.read(yolo.find(tmp_path))


def test_labels_without_a_picture_and_shared_labels_are_counted(tmp_path: Path) -> None:
    write(tmp_path)
    text(tmp_path / "labels" / "train" / "gone.txt", BOX)
    picture(tmp_path / "images" / "train" / "b.png")
    read = sets.read(yolo.find(tmp_path))
    assert sets.notices(read) == ["yolo-shared-label-file", "yolo-no-picture"]
    assert "gone.txt" in read.notices[1]
    assert "b.txt" not in read.notices[1]


def test_odd_file_names_and_sub_folders(tmp_path: Path) -> None:
    odd = ["sub/b c.jpg", "sub/images/x.v2.JPG", "ünï/b c.jpg"]
    labels = ["labels/train/sub/b c.txt", "images/train/sub/labels/x.v2.txt"]
    labels.append("labels/train/ünï/b c.txt")
    for name, label in zip(odd, labels, strict=True):
        picture(tmp_path / "images" / "train" / name)
        text(tmp_path / label, BOX)
    picture(tmp_path / "images" / "train" / "._hidden.jpg")
    read = sets.read(yolo.find(tmp_path))
    assert sets.boxes(read) == {name: [("1", 15, 12, 10, 6)] for name in odd}


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [a]\ntrain: nowhere\n", r"data\.yaml: train 'nowhere' does not exist.*Looked for"),
        ("names: [a, b]\nnc: 3\n", r"nc is 3, but names has 2 classes"),
        ("names: [a]\nnc: x\n", r"nc is 'x'"),
        ("names: {x: a}\n", r"names has the key 'x'"),
        ("names: a\n", r"names is 'a'"),
        ("names: [[a]]\n", r"the name of class 0 is a list"),
        ("names: [a\n", r"data\.yaml, line 2: .*Expected YAML"),
        ("- a\n", r"data\.yaml: expected keys"),
        ("names: [a]\nkpt_shape: [x]\n", r"kpt_shape"),
        ("names: [a]\ntrain: {a: b}\n", r"train is not a folder"),
    ],
)
def test_faults_of_the_yaml(tmp_path: Path, yaml: str, message: str) -> None:
    write(tmp_path)
    text(tmp_path / "data.yaml", yaml)
    with pytest.raises(DataError, match=message):
        yolo.find(tmp_path)


def test_a_yaml_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    text(tmp_path / "data.yaml", "\n".join(lines) + "\nnames: [*a11]\n")
    with pytest.raises(DataError, match="the name of class 0 is a list"):
        yolo.find(tmp_path)


def test_two_yaml_files_with_names_are_ambiguous(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("one.yaml", "two.yaml"):
        text(tmp_path / name, NAMES)
    text(tmp_path / "other.yaml", "key: [\n")  # no concern of the reader
    with pytest.raises(DataError, match=r"2 yaml files .*one\.yaml, two\.yaml.*data\.yaml"):
        yolo.find(tmp_path)


def test_files_that_are_no_text_or_no_picture(tmp_path: Path) -> None:
    write(tmp_path)
    label = tmp_path / "labels" / "train" / "b.txt"
    label.write_bytes(b"\xff\xfe0\x00")
    with pytest.raises(DataError, match=r"b\.txt is not UTF-8 text"):
        sets.read(yolo.find(tmp_path))
    text(label, BOX)
    text(tmp_path / "images" / "train" / "b.jpg", "no picture")
    with pytest.raises(DataError, match=r"b\.jpg is not a readable picture"):
        sets.read(yolo.find(tmp_path))


def test_other_folders_are_not_yolo(tmp_path: Path) -> None:
    assert yolo.find(tmp_path) == {}
    assert yolo.find(tmp_path / "absent") == {}
    picture(tmp_path / "images" / "train" / "a.jpg")
    text(tmp_path / "annotations" / "instances_train.json", "{}")
    text(tmp_path / "settings.yaml", "names: [a]\n")
    text(tmp_path / "images" / "readme.txt", "")
    assert yolo.find(tmp_path) == {}
    assert formats.find(tmp_path) == {}
    assert [line.partition(":")[0] for line in formats.LOOKED_FOR] == ["YOLO", "Pascal VOC", "CSV"]


def test_a_folder_of_links_to_itself_ends(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "images" / "train" / "again").symlink_to(tmp_path / "images" / "train")
    assert len(sets.read(yolo.find(tmp_path)).coco["images"]) == 2


def test_suffixes_are_those_of_the_decoder() -> None:
    assert content.SUFFIXES == SUFFIXES
    assert re.fullmatch(r"YOLO: .*", yolo.LOOKED_FOR)
