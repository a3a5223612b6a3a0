"""Samples of a COCO data set are equal, whatever the ids and the order of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from deim_lab.errors import DataError
from small_coco import changed, content_of, load


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
