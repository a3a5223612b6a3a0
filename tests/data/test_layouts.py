"""The files of a data set are found in every layout, or named as missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from deim_lab.data.coco import open_source, resolve
from deim_lab.errors import DataError


class TestResolve:
    def test_own_layout(self, folder: Path) -> None:
        source = resolve(str(folder), cache_dir=folder / "cache")
        assert source.train == (
            folder / "images" / "train",
            folder / "annotations" / "instances_train.json",
        )
        assert source.name == folder.name
        train, val = open_source(source, cache=True)
        assert (train.name, len(train), len(val)) == (folder.name, 2, 2)
        assert train.categories is val.categories
        assert train.annotations_path == source.train[1]

    @pytest.mark.parametrize("pictures", ["{split}2017", "images/{split}2017"])
    def test_layout_of_coco_2017(self, folder: Path, pictures: str) -> None:
        for split in ("train", "val"):
            (folder / "images" / split).rename(folder / pictures.format(split=split))
            (folder / "annotations" / f"instances_{split}.json").rename(
                folder / "annotations" / f"instances_{split}2017.json"
            )
        source = resolve(folder, cache_dir=folder)
        assert source.val == (
            folder / pictures.format(split="val"),
            folder / "annotations" / "instances_val2017.json",
        )
        assert len(open_source(source)[1]) == 2

    def test_explicit_paths(self, folder: Path) -> None:
        half = {
            "images": str(folder / "images" / "train"),
            "annotations": str(folder / "annotations" / "instances_train.json"),
        }
        source = resolve({"train": half, "val": half, "name": "mine"}, cache_dir=folder)
        assert source.name == "mine"
        assert source.train == source.val

    def test_nothing_given_is_the_embedded_set(self, tmp_path: Path) -> None:
        for data in (None, "embedded"):
            source = resolve(data, cache_dir=tmp_path)
            assert source.name == "embedded"
            assert source == resolve(data), "one set, wherever it is opened"
        assert list(tmp_path.iterdir()) == [], "nothing is drawn or copied"

    def test_says_what_is_missing(self, folder: Path) -> None:
        with pytest.raises(DataError, match=r"data folder .* does not exist .*did you mean"):
            resolve(f"{folder}x", cache_dir=folder)
        with pytest.raises(
            DataError, match=r"data folder 'embeded' does not exist .*did you mean 'embedded'"
        ):
            resolve("embeded", cache_dir=folder)
        (folder / "images" / "val").rename(folder / "images" / "valid")
        with pytest.raises(
            DataError,
            match=r"has no images/val \(did you mean 'images/valid'.*\. Looked for "
            r"images/\{train,val\}",
        ):
            resolve(folder, cache_dir=folder)

    def test_explicit_paths_are_checked(self, folder: Path) -> None:
        half = {
            "images": folder / "images" / "train",
            "annotations": folder / "annotations" / "instances_train.json",
        }
        with pytest.raises(DataError, match=r"unknown key 'vall'.*did you mean 'val'"):
            resolve({"train": half, "vall": half}, cache_dir=folder)
        with pytest.raises(DataError, match=r"'val' is None\. Expected"):
            resolve({"train": half, "val": None}, cache_dir=folder)
        assert resolve({"train": half}, cache_dir=folder).val is None
        with pytest.raises(DataError, match=r"'val' has images\. Expected"):
            resolve({"train": half, "val": {"images": folder}}, cache_dir=folder)
        with pytest.raises(
            DataError, match=r"annotation file .*nothing\.json' of 'val' does not exist"
        ):
            resolve(
                {"train": half, "val": {**half, "annotations": folder / "nothing.json"}},
                cache_dir=folder,
            )
