"""COCO data sets: equal samples whatever the ids, every bad input a message with file, id and
value, every picture mode read rightly.
"""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deim_lab.data.annotations import Categories
from deim_lab.data.coco import CocoDataset, open_source, resolve
from deim_lab.data.parse import read
from deim_lab.errors import DataError

Json = dict[str, Any]


def write(folder: Path, content: Json | str, split: str = "train") -> Path:
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def content_of(category_ids: tuple[int, ...] = (1, 2, 3)) -> Json:
    """Two images (the second a negative), three boxes, categories listed out of order."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.png", "width": 20, "height": 20},
        ],
        "annotations": [
            {"id": 100 + k, "image_id": 7, "category_id": category_id, "bbox": [2 + k, 3, 10.5, 8]}
            for k, category_id in enumerate(category_ids)
        ],
        "categories": [
            {"id": category_id, "name": f"class {k}"}
            for k, category_id in reversed(list(enumerate(category_ids)))
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for name, size in (("a.png", (30, 40, 3)), ("b.png", (20, 20, 3))):
            Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(
                tmp_path / "images" / split / name
            )
        write(tmp_path, content_of(), split)
    return tmp_path


def load(folder: Path, content: Json | str | None = None, **options: Any) -> CocoDataset:
    path = write(folder, content if content is not None else content_of())
    return CocoDataset.load(folder / "images" / "train", path, **options)


def changed(*path_and_value: Any) -> Json:
    """The good content with one value replaced: ``changed("images", 0, "id", 9)``; ``...`` deletes
    the key.
    """
    content: Any = content_of()
    *path, last, value = path_and_value
    at = content
    for step in path:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return content


class TestSamples:
    @pytest.mark.parametrize("category_ids", [(0, 1, 2), (1, 2, 3), (3, 17, 90)])
    def test_ids_make_no_difference(self, folder: Path, category_ids: tuple[int, ...]) -> None:
        dataset, reference = load(folder, content_of(category_ids)), load(folder)
        assert len(dataset) == 2
        for index in range(2):
            sample, expected = dataset[index], reference[index]
            assert torch.equal(sample.image, expected.image)
            assert torch.equal(sample.boxes_xyxy, expected.boxes_xyxy)
            assert torch.equal(sample.labels, expected.labels)
        assert dataset[0].labels.tolist() == [0, 1, 2]
        assert [dataset.categories.ids[label] for label in dataset[0].labels] == list(category_ids)

    def test_a_sample(self, folder: Path) -> None:
        sample = load(folder)[0]
        assert sample.image.shape == (3, 30, 40)
        assert sample.image.dtype == torch.uint8
        assert sample.boxes_xyxy.dtype == torch.float32
        assert sample.boxes_xyxy.tolist() == [[2, 3, 12.5, 11], [3, 3, 13.5, 11], [4, 3, 14.5, 11]]
        assert sample.labels.dtype == torch.int64
        assert (sample.image_id, sample.size_wh) == (7, (40, 30))

    def test_negatives_stay(self, folder: Path) -> None:
        dataset = load(folder)
        assert dataset.counts.tolist() == [3, 0]
        assert dataset[1].boxes_xyxy.shape == (0, 4)
        assert dataset[1].labels.shape == (0,)
        assert dataset.image_ids == [7, 9]

    def test_boxes_stay_with_their_image_in_any_order(self, folder: Path) -> None:
        content = content_of()
        content["annotations"][1]["image_id"] = 9
        dataset = load(folder, content)
        assert dataset.counts.tolist() == [2, 1]
        assert dataset[0].labels.tolist() == [0, 2]
        assert dataset[1].labels.tolist() == [1]
        _, _, image_index = dataset.all_targets()
        assert image_index.tolist() == [0, 0, 1]

    def test_order_of_the_file_is_kept_within_an_image(self, folder: Path) -> None:
        content = content_of()
        content["annotations"] = [
            {"id": k, "image_id": 9 - 2 * (k % 2), "category_id": 1, "bbox": [0, 0, 1 + k / 10, 5]}
            for k in range(100)
        ]
        dataset = load(folder, content)
        assert dataset.targets(0)[0][:, 2].tolist() == pytest.approx(
            [1 + k / 10 for k in range(1, 100, 2)]
        )
        assert dataset.targets(1)[0][:, 2].tolist() == pytest.approx(
            [1 + k / 10 for k in range(0, 100, 2)]
        )

    def test_crowds_are_no_targets(self, folder: Path) -> None:
        dataset = load(folder, changed("annotations", 0, "iscrowd", 1))
        assert dataset[0].labels.tolist() == [1, 2]
        assert dataset.crowd_counts.tolist() == [1, 0]

    def test_targets_are_copies(self, folder: Path) -> None:
        dataset = load(folder)
        dataset[0].boxes_xyxy.zero_()
        assert dataset[0].boxes_xyxy.sum() > 0

    def test_cache_reads_a_file_once(self, folder: Path) -> None:
        cached, plain = load(folder, cache=True), load(folder)
        before = cached[0].image
        (folder / "images" / "train" / "a.png").write_bytes(b"gone")
        assert torch.equal(cached[0].image, before)
        with pytest.raises(DataError, match=r"image id 7.*a\.png"):
            plain[0]

    def test_positions_end(self, folder: Path) -> None:
        with pytest.raises(IndexError):
            load(folder)[2]

    def test_fingerprint_follows_annotations_and_files(self, folder: Path) -> None:
        first = load(folder).fingerprint
        assert load(folder).fingerprint == first
        assert load(folder, changed("annotations", 0, "bbox", [0, 0, 5, 5])).fingerprint != first
        Image.new("RGB", (20, 20)).save(folder / "images" / "train" / "b.png")
        assert load(folder).fingerprint != first


class TestBoxes:
    def test_repairs_are_counted_named_and_logged(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        content = content_of()
        boxes = {
            200: [50, 0, 5, 5],
            201: [-9, -9, 9, 9],
            202: [1, 1, 0, 5],
            203: [9, 9, -3, 4],
            204: [30, 20, 20, 20],
            205: [39.5, 0, 1, 1],
        }
        content["annotations"] += [
            {"id": key, "image_id": 7, "category_id": 1, "bbox": box} for key, box in boxes.items()
        ]
        with caplog.at_level(logging.WARNING):
            dataset = load(folder, content)
        assert dataset.counts.tolist() == [5, 0]
        assert dataset[0].boxes_xyxy[3:].tolist() == [[30, 20, 40, 30], [39.5, 0, 40, 1]]
        assert [notice.split(" annotations")[0] for notice in dataset.notices] == [
            "box-no-area: 2",
            "box-outside: 2",
            "box-clipped: 1",
        ]
        assert "(ids 202, 203)" in dataset.notices[0]
        assert "(ids 200, 201)" in dataset.notices[1]
        assert all(notice in caplog.text for notice in dataset.notices)

    @pytest.mark.parametrize(
        "box",
        [
            [1, 2, 3],
            "1 2 3 4",
            [1, 2, 3, None],
            [1, 2, float("nan"), 4],
            [1, 2, float("inf"), 4],
            [1, 2, 3, True],
        ],
    )
    def test_what_is_no_box(self, folder: Path, box: Any) -> None:
        with pytest.raises(
            DataError,
            match=r"instances_train\.json: annotation 101 of image 7: bbox .* is not \[x, y, "
            r"width, height\]",
        ):
            load(folder, changed("annotations", 1, "bbox", box))

    def test_training_file_without_a_usable_box(self, folder: Path) -> None:
        content = content_of()
        content["annotations"] = []
        with pytest.raises(
            DataError,
            match=r"instances_train\.json: none of the 0 annotations of 2 images is a usable box",
        ):
            load(folder, content)
        assert load(
            folder, content, categories=Categories((1, 2, 3), ("class 0", "class 1", "class 2"))
        ).counts.tolist() == [0, 0]


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


class TestPictures:
    def test_absent(self, folder: Path) -> None:
        with pytest.raises(
            DataError,
            match=r"lists image 9 \('b\.jpg'\).*/train \(did you mean 'b\.png'.*1 of 2 images "
            r"are absent",
        ):
            load(folder, changed("images", 1, "file_name", "b.jpg"))

    def test_absent_folder(self, folder: Path) -> None:
        with pytest.raises(
            DataError, match=r"trian: no such folder of images .*did you mean 'train'"
        ):
            CocoDataset.load(folder / "images" / "trian", write(folder, content_of()))

    def test_no_picture_is_known_before_training(self, folder: Path) -> None:
        (folder / "images" / "train" / "b.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"b\.png \(image id 9\) is not a readable picture"):
            load(folder)

    def test_truncated(self, folder: Path) -> None:
        path = folder / "images" / "train" / "a.png"
        path.write_bytes(path.read_bytes()[:1500])
        dataset = load(folder)
        with pytest.raises(
            DataError, match=r"image id 7: image .*a\.png can't be decoded.*truncated"
        ):
            dataset[0]

    def test_other_size_than_stated(self, folder: Path) -> None:
        with pytest.raises(
            DataError,
            match=r"image 7 \(a\.png\) is stated as 80×60, but its file is 40×30, so its boxes "
            r"can't fit",
        ):
            load(
                folder,
                {
                    **content_of(),
                    "images": [
                        {**content_of()["images"][0], "width": 80, "height": 60},
                        content_of()["images"][1],
                    ],
                },
            )
        assert (
            "size-differs: 1 images" in load(folder, changed("images", 1, "width", 999)).notices[0]
        )  # no boxes: nothing to be wrong
        assert (
            "size-differs: 1 images" in load(folder, changed("images", 0, "width", 41)).notices[0]
        )

    @pytest.mark.parametrize("value", [..., None, 0])
    def test_size_not_stated(self, folder: Path, value: Any) -> None:
        dataset = load(folder, changed("images", 0, "width", value))
        assert dataset.sizes_wh.tolist() == [[40, 30], [20, 20]]
        assert dataset.notices == [
            "size-missing: 1 images have no width and height in the json; the sizes of the files "
            "are used (ids 7)"
        ]

    def test_changed_during_the_run(self, folder: Path) -> None:
        dataset = load(folder)
        Image.new("RGB", (10, 10)).save(folder / "images" / "train" / "a.png")
        with pytest.raises(DataError, match=r"a\.png \(image id 7\) is 10×10, but was 40×30"):
            dataset[0]

    def test_modes(self, folder: Path) -> None:
        grey = np.arange(40 * 30, dtype=np.uint8).reshape(30, 40)
        colour = Image.fromarray(np.stack([grey, grey[::-1], 255 - grey], axis=-1))
        expected = {
            "L": (Image.fromarray(grey), np.stack([grey] * 3, -1)),
            "I;16": (Image.fromarray(grey.astype(np.uint16) * 257), np.stack([grey] * 3, -1)),
            "RGBA": (
                Image.merge("RGBA", (*colour.split(), Image.new("L", colour.size, 255))),
                np.asarray(colour),
            ),
            "clear": (
                Image.merge("RGBA", (*colour.split(), Image.new("L", colour.size, 0))),
                np.zeros((30, 40, 3), np.uint8),
            ),
            "LA": (
                Image.merge("LA", (Image.fromarray(grey), Image.new("L", colour.size, 255))),
                np.stack([grey] * 3, -1),
            ),
            "P": (
                Image.fromarray(grey // 128 * 255).convert("P"),
                np.stack([grey // 128 * 255] * 3, -1),
            ),
        }
        for name, (picture, pixels) in expected.items():
            picture.save(folder / "images" / "train" / "a.png")
            assert np.array_equal(load(folder)[0].image.permute(1, 2, 0).numpy(), pixels), name

    def test_cmyk(self, folder: Path) -> None:
        Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(
            folder / "images" / "train" / "a.jpg", quality=100
        )
        red, green, blue = (
            load(folder, changed("images", 0, "file_name", "a.jpg"))[0]
            .image.float()
            .mean((1, 2))
            .tolist()
        )
        assert red > 250
        assert max(green, blue) < 5


class TestExif:
    """A 40×30 file that its EXIF orientation turns to 30×40, a bright stored left edge."""

    def dataset(
        self,
        folder: Path,
        orientation: int,
        size_wh: tuple[int | None, int | None],
        suffix: str = "jpg",
    ) -> CocoDataset:
        pixels = np.zeros((30, 40, 3), dtype=np.uint8)
        pixels[:, :8] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(folder / "images" / "train" / f"a.{suffix}", exif=exif)
        content = content_of()
        content["images"][0].update(file_name=f"a.{suffix}", width=size_wh[0], height=size_wh[1])
        return load(folder, content)

    @staticmethod
    def bright_edge(dataset: CocoDataset) -> str:
        image = dataset[0].image[0].float()
        edges = {
            "left": image[:, :4],
            "right": image[:, -4:],
            "top": image[:4],
            "bottom": image[-4:],
        }
        return max(edges, key=lambda name: float(edges[name].mean()))

    @pytest.mark.parametrize("suffix", ["jpg", "png"])
    @pytest.mark.parametrize(
        ("orientation", "stated_wh", "served_wh", "edge"),
        [
            (6, (30, 40), (30, 40), "top"),  # boxes of the turned picture
            (6, (40, 30), (40, 30), "left"),  # COCO's own way: boxes of the stored pixels
            (6, (None, None), (30, 40), "top"),
            (8, (30, 40), (30, 40), "bottom"),
            (3, (40, 30), (40, 30), "right"),  # a half turn fits both: as annotation tools do
            (1, (40, 30), (40, 30), "left"),
        ],
    )
    def test_follows_what_the_boxes_fit(
        self,
        folder: Path,
        orientation: int,
        stated_wh: tuple[int | None, int | None],
        served_wh: tuple[int, int],
        edge: str,
        suffix: str,
    ) -> None:
        dataset = self.dataset(folder, orientation, stated_wh, suffix)
        assert dataset[0].size_wh == served_wh
        assert tuple(dataset.sizes_wh[0].tolist()) == served_wh
        assert self.bright_edge(dataset) == edge
        turned = any(notice.startswith("exif-turned: 1 images") for notice in dataset.notices)
        assert turned == (edge != "left")

    def test_png_with_exif_after_the_pixels(self, folder: Path) -> None:
        self.dataset(folder, 6, (None, None), "png")
        path = folder / "images" / "train" / "a.png"
        data = path.read_bytes()
        start = data.index(b"eXIf") - 4
        chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
        end = data.index(b"IEND") - 4
        path.write_bytes(data[:start] + data[start + len(chunk) : end] + chunk + data[end:])
        content = content_of()
        content["images"][0].update(width=30, height=40)
        assert load(folder, content)[0].size_wh == (30, 40)
        assert self.bright_edge(load(folder, content)) == "top"
        assert self.bright_edge(load(folder)) == "left"

    def test_neither_way_fits(self, folder: Path) -> None:
        with pytest.raises(DataError, match="stated as 60×80, but its file is 30×40"):
            self.dataset(folder, 6, (60, 80))


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
