"""CSV tables: columns by their usual names or by a map, pictures by name or by their tails."""

from __future__ import annotations

from pathlib import Path

import pytest

import sets
from deim_lab.data.formats import Table, table
from deim_lab.data.formats.columns import match
from deim_lab.data.formats.content import Content
from deim_lab.errors import DataError
from sets import picture, text

ROBOFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax"
IN_PIXELS = ("pear", 15, 12, 10, 6)


def write(folder: Path, *lines: str, name: str = "labels.csv") -> Path:
    """Two pictures, a and b, and a table of these lines."""
    for stem in ("a", "b"):
        picture(folder / "pictures" / f"{stem}.jpg")
    text(folder / name, "\n".join(lines) + "\n")
    return folder


def read(folder: Path, *lines: str, split: str = "train") -> Content:
    return sets.read(table.find(write(folder, *lines)), split)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (ROBOFLOW, "b.jpg,40,30,pear,15,12,25,18"),
        ("Image Path,Label,X_Min,Y-Min,x max,YMAX", "b.jpg,pear,15,12,25,18"),
        ("class,path,x1,y1,x2,y2", "pear,pictures/b.jpg,15,12,25,18"),
        ("image_id,category,x,y,width,height", "b,pear,15,12,10,6"),
        ("img,label,x,y,w,h,width,height", "b.jpg,pear,15,12,10,6,40,30"),
        ("file,label,bbox_x,bbox_y,bbox_width,bbox_height", "b.jpg,pear,15,12,10,6"),
        ("file,label,left,top,width,height", "b.jpg,pear,15,12,10,6"),
        ("image_id,class_name,width,height,bbox", 'b,pear,40,30,"[15, 12.0, 10, 6]"'),
        ("filename;class;xmin;ymin;xmax;ymax", "b.jpg;pear;15,0;12;25;18"),
        ("filename\tclass\txmin\tymin\txmax\tymax", "b.jpg\tpear\t15\t12\t25\t18"),
        ('"filename","class, or so",xmin,ymin,xmax,ymax,label', "b.jpg,x,15,12,25,18,pear"),
        (f"\ufeff{ROBOFLOW}", r"C:\set\pictures\b.jpg,40,30,pear,15,12,25,18"),
    ],
)
def test_the_usual_columns(tmp_path: Path, header: str, row: str) -> None:
    content = read(tmp_path, header, row)
    assert sets.boxes(content) == {"pictures/b.jpg": [IN_PIXELS]}
    assert sets.size(content, "pictures/b.jpg") == (40, 30)
    assert content.notices == (
        "csv-unlisted: 1 pictures of the folder have no row; left out (a row without a box keeps "
        "one) (files pictures/a.jpg)",
    )


def test_rows_of_a_picture_empty_boxes_and_the_order_of_classes(tmp_path: Path) -> None:
    rows = (
        "b.jpg,,,10,15,12,25,18",
        "a.jpg,,,,,,,",
        "b.jpg,,,9,1,2,3.5,4",
        "",
        "b.jpg,,,x,1,2,3,4",
    )
    content = read(tmp_path, ROBOFLOW, *rows)
    assert sets.names(content) == ["9", "10", "x"]
    assert [item["id"] for item in content.coco["categories"]] == [1, 2, 3]
    assert sets.boxes(content) == {
        "pictures/a.jpg": [],
        "pictures/b.jpg": [("10", 15, 12, 10, 6), ("9", 1, 2, 2.5, 2), ("x", 1, 2, 2, 2)],
    }
    assert content.notices == ()


def test_a_split_column_makes_halves_with_the_same_classes(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        f"{ROBOFLOW},split",
        "b.jpg,40,30,pear,15,12,25,18,Train",
        "a.jpg,40,30,apple,15,12,25,18,validation",
    )
    halves = table.find(folder)
    assert list(halves) == ["train", "val"]
    train, val = sets.read(halves), sets.read(halves, "val")
    assert sets.boxes(train) == {"pictures/b.jpg": [IN_PIXELS]}
    assert sets.boxes(val) == {"pictures/a.jpg": [("apple", 15, 12, 10, 6)]}
    assert train.coco["categories"] == val.coco["categories"]
    assert train.notices == val.notices == ()  # no picture is unlisted
    write(tmp_path, f"{ROBOFLOW},split", "b.jpg,40,30,pear,15,12,25,18,holdout")
    with pytest.raises(DataError, match=r"line 2: split 'holdout' is none of train, val and test"):
        table.find(folder)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train.csv", "val.csv"),
        ("train_labels.csv", "fruit-validation.csv"),
        ("train/_annotations.csv", "valid/_annotations.csv"),
    ],
)
def test_a_table_per_half(tmp_path: Path, train: str, val: str) -> None:
    for name in ("train", "valid"):
        picture(tmp_path / name / "b.jpg")
    text(tmp_path / "results.csv", "epoch,AP\n1,0.5\n")
    text(tmp_path / train, f"{ROBOFLOW}\ntrain/b.jpg,40,30,pear,15,12,25,18\n")
    text(tmp_path / val, f"{ROBOFLOW}\nvalid/b.jpg,40,30,apple,15,12,25,18\n")
    halves = table.find(tmp_path)
    assert list(halves) == ["train", "val"]
    content = sets.read(halves)
    assert list(sets.boxes(content).values()) == [[IN_PIXELS]]
    assert sets.names(content) == ["apple", "pear"]
    assert content.notices == ()
    assert list(sets.boxes(sets.read(halves, "val")).values()) == [[("apple", 15, 12, 10, 6)]]


def test_explicit_columns(tmp_path: Path) -> None:
    header = "scan,species,a,b,c,d,xmin,ymin,xmax,ymax"
    write(tmp_path, header, "b.jpg,pear,15,12,10,6,1,1,2,2")
    columns = {"file": "scan", "class": "species", "x": "a", "y": "b"}
    columns |= {"box_width": "c", "box_height": "d"}
    content = Table(tmp_path / "labels.csv", columns).read()
    assert sets.boxes(content) == {"pictures/b.jpg": [IN_PIXELS]}
    with pytest.raises(DataError, match=r"labels\.csv: there is no column 'specie'.*'species'"):
        Table(tmp_path / "labels.csv", columns | {"class": "specie"}).read()
    with pytest.raises(DataError, match=r"has the meaning 'klass'.*'class'.*Expected file, class"):
        Table(tmp_path / "labels.csv", {"klass": "species"}).read()


def test_an_error_names_the_columns_and_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, "filename,classe,xmin,ymin,xmaxx,ymax", "b.jpg,pear,15,12,25,18")
    message = str(caught.value)
    assert "the table has no column of classes (did you mean 'classe'?)" in message
    assert "'xmaxx'" in message
    assert "filename, classe, xmin, ymin, xmaxx, ymax" in message
    assert "Table(path, columns={" in message


def test_width_and_height_belong_to_the_picture_where_the_box_has_other_columns() -> None:
    assert match(ROBOFLOW.split(","), None, "").size == ("width", "height")
    alone = match(["file", "label", "x", "y", "width", "height"], None, "")
    assert (alone.box, alone.size) == (("x", "y", "width", "height"), ())
    both = match(["x", "y", "width", "height", "image_width", "image_height"], None, "")
    assert (both.box[2], both.size) == ("width", ("image_width", "image_height"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b.jpg,40,30,pear,15,x,25,18", r"labels\.csv, line 3: ymin 'x' is not a number"),
        ("b.jpg,40,30,pear,15,,25,18", r"line 3: ymin '' is not a number"),
        ("b.jpg,40,30,pear,15,nan,25,18", r"line 3: ymin 'nan' is not a number"),
        ("b.jpg,40,30,pear,15,1_2,25,18", r"line 3: ymin '1_2' is not a number"),
        ('b.jpg,40,30,pear,15,"1,200",25,18', r"line 3: ymin '1,200' is not a number"),
        ("b.jpg,40,30,pear,25,12,15,18", r"line 3: the box 25, 12, 15, 18 ends before it starts"),
        ("b.jpg,40,30,,15,12,25,18", r"line 3: class is empty"),
        (",40,30,pear,15,12,25,18", r"line 3: filename is empty"),
        ("b.jpg,40,30,pear,15,12,25", r"line 3 has 7 cells, but the header has 8"),
        ("b.jpg,40.5,30,pear,15,12,25,18", r"line 3: the size 40\.5×30 is not in whole pixels"),
        ("b.jpg,41,30,pear,15,12,25,18", r"line 3: the size of b\.jpg is 41×30, but 40×30"),
        ("c.jpg,40,30,pear,15,12,25,18", r"line 3: there is no picture 'c\.jpg'"),
        ("val/b.jpg,40,30,pear,1,2,3,4", r"line 3: 'val/b\.jpg' may be more/b\.jpg, pictures/b"),
    ],
)
def test_faults_of_a_row_name_file_line_and_value(tmp_path: Path, row: str, message: str) -> None:
    picture(tmp_path / "more" / "b.jpg")
    first = "pictures/b.jpg" if "size of" not in message else "b.jpg"
    if first == "b.jpg":
        (tmp_path / "more" / "b.jpg").unlink()
    with pytest.raises(DataError, match=message):
        read(tmp_path, ROBOFLOW, f"{first},40,30,pear,15,12,25,18", row)


@pytest.mark.parametrize("cell", ["15 12 10", "[15, 12, 10, x]", "none"])
def test_faults_of_a_box_in_one_cell(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"line 2: bbox '.*' is not"):
        read(tmp_path, "image,label,bbox", f'b.jpg,pear,"{cell}"')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (f"{ROBOFLOW}\n", "this half has no row"),
        (f"{ROBOFLOW},Width,width\n", "two columns are named 'width'"),
        ("b.jpg,40,30\n", "The columns of its first row are b.jpg, 40, 30"),
        (f'{ROBOFLOW}\n"{"x" * 200_000}",\n', "field larger than field limit"),
    ],
)
def test_faults_of_a_file(tmp_path: Path, content: str, message: str) -> None:
    text(tmp_path / "labels.csv", content)
    with pytest.raises(DataError, match=message):
        Table(tmp_path / "labels.csv").read()


def test_two_tables_are_ambiguous_and_other_tables_are_no_data_sets(tmp_path: Path) -> None:
    text(tmp_path / "log.csv", "epoch,loss\n1,2\n")
    assert table.find(tmp_path) == {}
    assert table.find(tmp_path / "absent") == {}
    for name in ("one.csv", "two.csv"):
        text(tmp_path / name, f"{ROBOFLOW}\n")
    with pytest.raises(DataError, match=r"2 tables of boxes: one\.csv, two\.csv"):
        table.find(tmp_path)


def test_names_with_accents_in_either_form(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "u\u0308.jpg")
    content = read(tmp_path, ROBOFLOW, "\u00fc.jpg,40,30,pear,15,12,25,18")
    assert sets.boxes(content) == {"pictures/u\u0308.jpg": [IN_PIXELS]}


def test_the_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    write(tmp_path)
    picture(tmp_path / "pictures" / "b.jpg", (40, 30), orientation=sets.TURNED)
    text(tmp_path / "labels.csv", "file,class,xmin,ymin,xmax,ymax\nb.jpg,pear,1,2,3,4\n")
    assert sets.size(sets.read(table.find(tmp_path)), "pictures/b.jpg") == (30, 40)
