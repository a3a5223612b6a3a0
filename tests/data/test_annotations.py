"""Annotation files: every bad input is a message with file, id and value; classes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deim_lab.data.annotations import Categories
from deim_lab.data.coco import open_source, resolve
from deim_lab.data.parse import read
from deim_lab.errors import DataError
from small_coco import Json, changed, content_of, load, write


class TestBadJson:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                '{"images": [',
                r"instances_train\.json is no readable JSON: line 1, column 13: .*If the file is "
                r"cut short",
            ),
            ("", r"is no readable JSON: line 1, column 1: "),
            ("[1, 2]", r"expected a json object .* got a list"),
            (changed("images", ...), r"key 'images' is missing"),
            (changed("annotations", {}), r"key 'annotations' is a dict, not a list"),
            (changed("images", []), r"the list of images is empty"),
            (changed("categories", []), r"the list of categories is empty"),
            (changed("images", 1, "id", 7), r"image id 7 occurs twice \('a\.png' and 'b\.png'\)"),
            (
                changed("images", 0, "id", "seven"),
                r"image at position 0: id 'seven' \(str\) is not an integer",
            ),
            (
                changed("images", 0, "file_name", ...),
                r"image at position 0: key 'file_name' is missing. The keys are id, width, height",
            ),
            (
                changed("images", 0, "width", 40.5),
                r"image at position 0: width 40\.5 is not a whole number",
            ),
            (changed("images", 0, 3), r"image at position 0 is 3. Expected an object"),
            (changed("images", 0, "id", 2**63), r"id 9223372036854775808 needs more than 64 bits"),
            (changed("images", 0, "width", 2**63), r"width 9223372036854775808 needs more than 64"),
            (changed("annotations", 2, "bbox", [1, 2, 3, 10**400]), r"bbox .* in finite pixels"),
            (changed("annotations", 2, "id", 100), r"annotation 100 occurs twice"),
            (
                changed("annotations", 2, "image_id", 8),
                r"annotation 102 is of image 8, which is not in the list of images",
            ),
            (changed("annotations", 2, "bbox", ...), r"annotation 102: key 'bbox' is missing"),
            (
                changed("annotations", 2, "category_id", 4),
                r"category id 4 \('no name'\) of annotation 102 in image 7 \(a\.png\) is not one",
            ),
            (
                changed("categories", 0, "id", 1),
                r"category id 1 occurs twice \('class 2' and 'class 0'\)",
            ),
            (
                changed("categories", 0, "name", ...),
                r"category at position 0: key 'name' is missing",
            ),
        ],
    )
    def test_says_file_place_and_value(
        self, folder: Path, content: Json | str, message: str
    ) -> None:
        with pytest.raises(DataError, match=message) as caught:
            load(folder, copy.deepcopy(content))
        assert "instances_train.json" in str(caught.value)

    def test_absent_json_names_the_nearest(self, folder: Path) -> None:
        with pytest.raises(
            DataError,
            match=r"instances_tran\.json: no such annotation file \(did you mean "
            r"'instances_train\.json'",
        ):
            read(folder / "annotations" / "instances_tran.json")

    def test_not_text(self, folder: Path) -> None:
        path = folder / "annotations" / "instances_train.json"
        path.write_bytes(b"\xff\xd8\xff\xe0 a jpeg")
        with pytest.raises(DataError, match="not UTF-8 text"):
            read(path)

    def test_byte_order_mark_and_missing_area_are_fine(self, folder: Path) -> None:
        assert len(load(folder, "\ufeff" + json.dumps(content_of()))) == 2


class TestCategories:
    @pytest.mark.parametrize("seed", range(5))
    def test_round_trip(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        ids = generator.choice(1000, size=generator.integers(1, 30), replace=False).tolist()
        listed = [
            {"id": category_id, "name": f"n{category_id}", "supercategory": "x"}
            for category_id in ids
        ]
        categories = Categories.from_coco(listed)
        assert list(categories.ids) == sorted(ids)
        assert Categories.from_list(json.loads(json.dumps(categories.as_list()))) == categories
        rows = Categories.from_list(listed)
        assert list(rows.ids) == ids, "the order of a weights file is that of its head's rows"
        assert Categories.from_list(json.loads(json.dumps(rows.as_list()))) == rows
        assert [rows.index(category_id) for category_id in ids] == list(range(len(ids)))
        assert [categories.index(category_id) for category_id in categories.ids] == list(
            range(len(ids))
        )
        assert all(
            categories.names[categories.index(category_id)] == f"n{category_id}"
            for category_id in ids
        )
        assert categories.count == len(categories) == len(ids)

    def test_unknown_id(self) -> None:
        with pytest.raises(
            DataError, match=r"category id 5 is unknown. The classes have the ids \[1, 2\]"
        ):
            Categories((1, 2), ("a", "b")).index(5)

    def test_labels_follow_the_order_of_the_given_categories(self, folder: Path) -> None:
        content = content_of((7, 3, 5))
        names = {item["id"]: item["name"] for item in content["categories"]}
        ascending = load(folder, content)
        assert ascending.categories.ids == (3, 5, 7)
        for ids in ((5, 7, 3), (7, 5, 3), (3, 5, 7)):
            rows = Categories.from_list(
                [{"id": category_id, "name": names[category_id]} for category_id in ids]
            )
            assert rows.ids == ids
            dataset = load(folder, content, categories=rows)
            _, labels, images = dataset.all_targets()
            _, expected, same_images = ascending.all_targets()
            assert torch.equal(images, same_images)
            assert [rows.ids[label] for label in labels] == [
                ascending.categories.ids[label] for label in expected
            ]

    def test_category_of_val_unknown_to_train(self, folder: Path) -> None:
        content = content_of((1, 2, 44))
        content["categories"][0]["name"] = "zebra"
        write(folder, content, "val")
        message = (
            r"instances_val\.json: category id 44 \('zebra'\) of annotation 102 in image 7 "
            r"\(a\.png\) is not one .*\[1, 2, 3\]"
        )
        with pytest.raises(DataError, match=message):
            open_source(resolve(folder, cache_dir=folder))

    def test_category_listed_in_val_but_unused_is_fine(self, folder: Path) -> None:
        content = content_of()
        content["categories"].append({"id": 44, "name": "zebra"})
        write(folder, content, "val")
        _, val = open_source(resolve(folder, cache_dir=folder))
        assert val.categories.ids == (1, 2, 3)

    def test_same_name_under_another_id_is_pointed_at(self, folder: Path) -> None:
        write(folder, content_of((1, 2, 44)), "val")
        with pytest.raises(DataError, match="the training file has this name under id 3"):
            open_source(resolve(folder, cache_dir=folder))

    def test_same_id_with_another_name(self, folder: Path) -> None:
        content = content_of()
        content["categories"][0]["name"] = "zebra"
        write(folder, content, "val")
        with pytest.raises(
            DataError, match="category id 3 is 'zebra' here and 'class 2' in the training file"
        ):
            open_source(resolve(folder, cache_dir=folder))
