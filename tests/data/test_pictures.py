"""Annotations against pictures: boxes, sizes, modes and EXIF turns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deim_lab.data.annotations import Categories
from deim_lab.data.coco import CocoDataset
from deim_lab.errors import DataError
from small_coco import changed, content_of, load, write


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
