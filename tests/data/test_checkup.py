"""The faults that people make: each copy of a sound set is refused, or read with a notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import broken_sets
from broken_sets import SIZE_WH
from deim_lab.config import preset
from deim_lab.data import checkup, coco
from deim_lab.data.box_formats import to_xywh
from deim_lab.data.faults import FaultyDataError
from deim_lab.errors import DataError

SIZES = np.asarray(SIZE_WH, dtype=float)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return broken_sets.make(tmp_path_factory.mktemp("sound") / "set")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return broken_sets.copied(sound, tmp_path / "set")


def check(folder: Path, quick: bool = True, **overrides: object) -> checkup.Checkup:
    values = {f"data.{key}": value for key, value in overrides.items()}
    return checkup.check(coco.resolve(folder), preset("smoke", values), quick=quick)


def notices(folder: Path, quick: bool = True) -> str:
    result = check(folder, quick)
    assert not result.faults, result.faults
    assert result.report is not None
    return "\n".join(result.report.notices)


def test_a_sound_set_has_no_fault(sound: Path) -> None:
    result = check(sound, quick=False)
    assert result.faults == ()
    assert result.decoded
    assert "no fault found" in str(result)
    assert json.loads(json.dumps(result.as_json()))["report"]["boxes"] == 42


def corners(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2], box[:2] + box[2:]])


def centred(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2] + box[2:] / 2, box[2:]])


def over_size(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda box: change(box) / np.tile(SIZES, 2)


WRITTEN = {
    "xyxy": corners,
    "cxcywh": centred,
    "normalised-xywh": over_size(lambda box: box),
    "normalised-cxcywh": over_size(centred),
    "normalised-xyxy": over_size(corners),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_boxes_in_another_format_are_refused_and_converted(
    folder: Path, sound: Path, written: str
) -> None:
    broken_sets.edit_boxes(folder, WRITTEN[written])
    faults = check(folder).faults
    normalised = written.startswith("normalised")
    assert {fault.kind for fault in faults} == {
        "boxes-normalised" if normalised else "boxes-format"
    }
    assert f"data.boxes={written}" in faults[0].text
    with pytest.raises(DataError, match="look normalised" if normalised else "look like"):
        coco.open_source(coco.resolve(folder))

    settings = preset("smoke", {"data.boxes": written}).data
    train, val = coco.open_source(coco.resolve(folder), settings)
    wanted, wanted_val = coco.open_source(coco.resolve(sound))
    assert np.allclose(train.all_targets()[0], wanted.all_targets()[0], atol=1e-4)
    assert np.allclose(val.annotations.boxes_xywh, wanted_val.annotations.boxes_xywh, atol=1e-9)
    assert check(folder, boxes="xywh").faults == () or normalised


def test_a_few_sloppy_boxes_are_no_other_format(folder: Path) -> None:
    """Boxes that stick out on all sides fit no other format better."""

    def stretch(content: dict[str, list[dict[str, list[int]]]]) -> None:
        for item in content["annotations"][::4]:
            x, y, width, height = item["bbox"]
            item["bbox"] = [x - 15, y - 15, width + 60, height + 60]

    broken_sets.edit(folder, stretch)
    assert "box-clipped" in notices(folder)


def test_an_unknown_box_format_names_the_others() -> None:
    with pytest.raises(DataError, match=r"'yxyx' is unknown\. Expected xywh, xyxy"):
        to_xywh(np.zeros((1, 4)), np.ones((1, 2)), "yxyx")


def test_truncated_pictures_are_a_fault_or_left_out(folder: Path) -> None:
    for number in (2, 5):
        broken_sets.cut(folder / "images" / "train" / f"train{number}.jpg")
    (fault,) = check(folder, quick=False).faults
    assert fault.kind == "picture"
    assert "2 of 14 images" in fault.text
    assert "train2.jpg, train5.jpg" in fault.text
    with pytest.raises(FaultyDataError, match=r"data\.on_bad_image=skip") as caught:
        coco.open_source(coco.resolve(folder))
    assert caught.value.faults[0].count == 2

    settings = preset("smoke", {"data.on_bad_image": "skip"}).data
    train, val = coco.open_source(coco.resolve(folder), settings)
    assert (len(train), len(val)) == (12, 6)
    assert any("image-damaged: 2 of 14" in notice for notice in train.notices)
    assert [path.name for path in train.paths[:4]] == [f"train{n}.jpg" for n in (0, 1, 3, 4)]
    assert int(train.counts.sum()) == 36


def test_a_picture_without_a_header_can_be_left_out_too(folder: Path) -> None:
    (folder / "images" / "val" / "val1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"val1\.jpg \(image id 2\) is not a readable picture"):
        coco.open_source(coco.resolve(folder))
    settings = preset("smoke", {"data.on_bad_image": "skip"}).data
    _, val = coco.open_source(coco.resolve(folder), settings)
    assert val.image_ids == [1, 3, 4, 5, 6]


def test_copies_of_val_in_train_are_found_though_encoded_anew(folder: Path) -> None:
    for number in (0, 3):
        target = folder / "images" / "train" / f"train{number + 1}.jpg"
        broken_sets.save_anew(folder / "images" / "val" / f"val{number}.jpg", target)
    result = check(folder, quick=False)
    between = [pair for pair in result.alike if pair.halves == ("train", "val")]
    assert {(pair.first, pair.second) for pair in between} == {
        ("train1.jpg", "val0.jpg"),
        ("train4.jpg", "val3.jpg"),
    }
    assert result.faults == ()  # a notice, never an error
    assert "leak-alike: 2 pairs" in "\n".join(result.report.notices if result.report else ())


def test_names_with_another_folder_are_found_by_their_tail(folder: Path) -> None:
    prefixes = ("images/train/", "C:\\export\\pictures\\", "../elsewhere/", "/data/set/")

    def renamed(content: dict[str, list[dict[str, str]]]) -> None:
        for position, image in enumerate(content["images"]):
            image["file_name"] = prefixes[position % 4] + image["file_name"]

    broken_sets.edit(folder, renamed, "train")
    assert "name-by-tail: 14 of 14" in notices(folder)
    train, _ = coco.open_source(coco.resolve(folder))
    assert [path.name for path in train.paths] == [f"train{number}.jpg" for number in range(14)]
    assert train[0].image.shape == (3, 80, 120)


def test_an_ambiguous_tail_finds_nothing(folder: Path) -> None:
    images = folder / "images" / "train"
    for part in ("a", "b"):
        (images / part).mkdir()
        (images / part / "same.jpg").write_bytes((images / "train0.jpg").read_bytes())

    def renamed(content: dict[str, list[dict[str, str]]]) -> None:
        content["images"][0]["file_name"] = "c/same.jpg"

    broken_sets.edit(folder, renamed, "train")
    (fault,) = check(folder).faults
    assert fault.kind == "images-absent"
    assert "'c/same.jpg'" in fault.text
    assert "1 of 14 images are absent" in fault.text


def test_ids_as_text_are_read(folder: Path, sound: Path) -> None:
    def text(content: dict[str, list[dict[str, object]]]) -> None:
        for image in content["images"]:
            image["id"] = str(image["id"])
        for item in content["annotations"]:
            item.update(image_id=str(item["image_id"]), category_id=f"{item['category_id']}")

    broken_sets.edit(folder, text)
    assert "number-as-text: 14 values of 'id'" in notices(folder)
    train, _ = coco.open_source(coco.resolve(folder))
    wanted, _ = coco.open_source(coco.resolve(sound))
    assert train.image_ids == wanted.image_ids
    assert train.all_targets()[1].equal(wanted.all_targets()[1])


@pytest.mark.parametrize(("value", "crowds"), [("0", 0), (False, 0), (0.0, 0), ("1", 42), (1, 42)])
def test_a_crowd_flag_as_text_is_read_as_meant(folder: Path, value: object, crowds: int) -> None:
    def flagged(content: dict[str, list[dict[str, object]]]) -> None:
        for item in content["annotations"]:
            item["iscrowd"] = value

    broken_sets.edit(folder, flagged, "train")
    if crowds:
        with pytest.raises(DataError, match="none of the 42 annotations"):
            coco.open_source(coco.resolve(folder))
    else:
        assert int(coco.open_source(coco.resolve(folder))[0].counts.sum()) == 42


@pytest.mark.parametrize("value", ["no", 2, "maybe", [0]])
def test_any_other_crowd_flag_is_refused(folder: Path, value: object) -> None:
    def flagged(content: dict[str, list[dict[str, object]]]) -> None:
        content["annotations"][0]["iscrowd"] = value

    broken_sets.edit(folder, flagged, "train")
    with pytest.raises(DataError, match=r"iscrowd .* is neither 0 nor 1"):
        coco.open_source(coco.resolve(folder))


def test_two_categories_of_one_name_are_named_with_the_merge(folder: Path) -> None:
    def doubled(content: dict[str, list[dict[str, object]]]) -> None:
        content["categories"].append({"id": 7, "name": " Cell "})

    broken_sets.edit(folder, doubled)
    assert "'cell' has the ids 1, 7: replace category_id 7 by 1" in notices(folder)


def test_several_faults_stand_in_one_list_worst_first(folder: Path) -> None:
    (folder / "images" / "train" / "train3.jpg").unlink()
    broken_sets.cut(folder / "images" / "val" / "val2.jpg")
    broken_sets.edit_boxes(folder, WRITTEN["xyxy"], "train")

    def spoiled(content: dict[str, list[dict[str, object]]]) -> None:
        content["annotations"][0]["category_id"] = 9
        content["annotations"][1]["bbox"] = [1, 2, 3]
        content["annotations"][2]["bbox"] = "none"

    broken_sets.edit(folder, spoiled, "val")
    with pytest.raises(FaultyDataError) as caught:
        coco.open_source(coco.resolve(folder))
    kinds = [fault.kind for fault in caught.value.faults]
    assert kinds == ["images-absent", "boxes-format", "category", "annotation", "picture"]
    assert str(caught.value).startswith("the data set has 5 faults, the worst first:\n1. ")
    assert [fault.kind for fault in check(folder, quick=False).faults] == kinds


class TestWithoutVal:
    """``data.val_share`` takes a validation half out of the training images."""

    @pytest.fixture
    def half(self, folder: Path) -> Path:
        broken_sets.json_of(folder, "val").unlink()
        for path in (folder / "images" / "val").iterdir():
            path.unlink()
        (folder / "images" / "val").rmdir()
        return folder

    def test_the_message_offers_it(self, half: Path) -> None:
        with pytest.raises(DataError, match=r"no validation half.*--set data\.val_share=0\.2"):
            coco.open_source(coco.resolve(half))
        (fault,) = check(half).faults
        assert "data.val_share=0.2" in fault.text

    def test_it_divides_by_image_and_seed(self, half: Path) -> None:
        def names(seed: int) -> tuple[set[str], set[str]]:
            settings = preset("smoke", {"data.val_share": 0.3, "data.val_seed": seed}).data
            train, val = coco.open_source(coco.resolve(half), settings)
            assert val.categories == train.categories
            return ({path.name for path in train.paths}, {path.name for path in val.paths})

        train, val = names(0)
        assert len(train | val) == 14
        assert not train & val
        assert 3 <= len(val) <= 6
        assert names(0) == (train, val)
        assert names(1) != (train, val)

    def test_near_duplicates_stay_together(self, half: Path) -> None:
        images = half / "images" / "train"
        for number in range(1, 7):
            broken_sets.save_anew(images / "train0.jpg", images / f"train{number}.jpg")
        for seed in range(4):
            settings = preset("smoke", {"data.val_share": 0.3, "data.val_seed": seed}).data
            _, val = coco.open_source(coco.resolve(half), settings)
            inside = {path.name for path in val.paths} & {f"train{n}.jpg" for n in range(7)}
            assert len(inside) in (0, 7)
