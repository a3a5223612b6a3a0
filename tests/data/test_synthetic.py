"""Drawn folders: seeded, whole or absent; the shipped set has one identity."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deim_lab.data import drawing, synthetic
from deim_lab.data.coco import CocoDataset, joint_fingerprint, open_source, resolve
from deim_lab.data.layouts import EMBEDDED_FOLDER
from deim_lab.errors import DataError
from deim_lab.host import files
from places import ROOT

# Of the shipped set. A change of either is another data set: older runs are not compared with it.
BYTES = "8632200eb48da633d03a73e1c20b9fa0b18c4d555d12db879d9a322c0389de77"
FINGERPRINT = "db63ab0cf751f87deb6eef67728679a26fc1dde87db0621615bfadd258748d17"
SMALL: dict[str, Any] = {"train_images": 6, "val_images": 3, "size_px": (64, 96)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(tmp_path_factory.mktemp("data") / "set", **SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestFolder:
    def test_reads_as_a_data_set_without_a_notice(self, folder: Path) -> None:
        train, val = open_source(resolve(folder, cache_dir=folder))
        assert (len(train), len(val)) == (6, 3)
        assert train.categories.names == drawing.CLASSES
        assert train.notices == val.notices == []
        assert train[0].image.shape == (3, 64, 96)

    def test_same_seed_same_bytes(self, folder: Path, tmp_path: Path) -> None:
        assert contents(synthetic.make(tmp_path / "again", **SMALL)) == contents(folder)
        assert (
            contents(synthetic.make(tmp_path / "other", **SMALL, seed=1))
            .items()
            .isdisjoint(
                {
                    name: data for name, data in contents(folder).items() if name.endswith(".jpg")
                }.items()
            )
        )

    def test_more_images_begin_with_the_same(self, folder: Path, tmp_path: Path) -> None:
        more = synthetic.make(tmp_path / "more", **{**SMALL, "train_images": 8})
        first, second = (
            CocoDataset.load(
                path / "images" / "train", path / "annotations" / "instances_train.json"
            )
            for path in (folder, more)
        )
        assert [first[index].labels.tolist() for index in range(6)] == [
            second[index].labels.tolist() for index in range(6)
        ]

    def test_halves_differ(self, folder: Path) -> None:
        assert (folder / "images" / "train" / "000001.jpg").read_bytes() != (
            folder / "images" / "val" / "000001.jpg"
        ).read_bytes()

    def test_a_whole_folder_is_kept(self, tmp_path: Path) -> None:
        made = synthetic.make(tmp_path / "set", train_images=2, val_images=1, size_px=(64, 64))
        before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
        synthetic.make(tmp_path / "set", train_images=2, val_images=1, size_px=(64, 64))
        assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before

    @pytest.mark.parametrize(
        "damage", ["picture gone", "picture empty", "json cut", "another description"]
    )
    def test_what_is_not_whole_is_drawn_anew(self, tmp_path: Path, damage: str) -> None:
        options: dict[str, Any] = {"train_images": 2, "val_images": 1, "size_px": (64, 64)}
        made = synthetic.make(tmp_path / "set", **options)
        whole = contents(made)
        picture, annotations = (
            made / "images" / "val" / "000001.jpg",
            made / "annotations" / "instances_val.json",
        )
        if damage == "picture gone":
            picture.unlink()
        elif damage == "picture empty":
            picture.write_bytes(b"")
        elif damage == "json cut":
            annotations.write_bytes(annotations.read_bytes()[:40])
        else:
            synthetic.make(made, **{**options, "seed": 4})
            assert contents(made) != whole
        assert contents(synthetic.make(made, **options)) == whole
        assert [path.name for path in tmp_path.iterdir()] == ["set"]  # no draft is left behind

    def test_a_failure_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(drawing, "scene", fail)
        with pytest.raises(OSError, match="disk full"):
            synthetic.make(tmp_path / "set", **SMALL)
        assert list(tmp_path.iterdir()) == []

    def test_the_earlier_of_two_processes_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process finishes while this one draws: its folder stays."""
        options: dict[str, Any] = {"train_images": 1, "val_images": 1, "size_px": (64, 64)}
        write_json, other = files.write_json, tmp_path / "other"
        synthetic.make(other, **options)
        (other / "first").touch()

        def meanwhile(path: Path, content: dict[str, object], *, compact: bool) -> None:
            write_json(path, content, compact=compact)
            if path.name == "spec.json":
                other.rename(tmp_path / "set")

        monkeypatch.setattr(files, "write_json", meanwhile)
        synthetic.make(tmp_path / "set", **options)
        assert (tmp_path / "set" / "first").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["set"]

    def test_foreign_folder_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("precious", encoding="utf-8")
        with pytest.raises(DataError, match="exists and is not a drawn data set"):
            synthetic.make(tmp_path, **SMALL)
        assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "precious"

    @pytest.mark.parametrize(
        ("name", "value"),
        [("train_images", 0), ("val_images", -1), ("size_px", (160, 16)), ("seed", -1)],
    )
    def test_values_out_of_range(self, tmp_path: Path, name: str, value: object) -> None:
        with pytest.raises(DataError, match=name):
            synthetic.make(tmp_path / "set", **{**SMALL, name: value})

    def test_annotations_say_what_was_drawn(self, folder: Path) -> None:
        listed = json.loads(
            (folder / "annotations" / "instances_train.json").read_text(encoding="utf-8")
        )
        for position, image in enumerate(listed["images"]):
            _, things = drawing.scene(np.random.default_rng([0, 0, position]), (64, 96))
            rows = [item for item in listed["annotations"] if item["image_id"] == image["id"]]
            assert [row["category_id"] - 1 for row in rows] == [thing.label for thing in things]
            for row, thing in zip(rows, things, strict=True):
                left, top, right, bottom = thing.box_xyxy
                assert row["bbox"] == pytest.approx(
                    [left, top, right - left, bottom - top], abs=0.01
                )
                assert 0 < row["area"] <= row["bbox"][2] * row["bbox"][3] + 1


class TestEmbedded:
    """The set that is shipped: one identity on every machine."""

    def test_its_bytes_are_the_same_everywhere(self) -> None:
        digest = hashlib.sha256()
        for name, data in contents(EMBEDDED_FOLDER).items():
            digest.update(f"{name}\t{len(data)}\n".encode() + data)
        assert digest.hexdigest() == BYTES
        train, val = open_source(resolve("embedded"))
        assert (len(train), len(val)) == (300, 100)
        assert train.notices == val.notices == []
        assert joint_fingerprint(train, val) == FINGERPRINT

    def test_it_shows_what_is_drawn_today(self) -> None:
        """The pixels to what JPEG loses, the boxes to the hundredth."""
        train, _ = open_source(resolve("embedded"))
        for position in (0, 150, 299):
            picture, things = drawing.scene(np.random.default_rng([0, 0, position]), (160, 160))
            drawn = np.asarray(picture).astype(int)
            shipped = train[position].image.permute(1, 2, 0).numpy()
            assert np.abs(shipped - drawn).mean() < 4
            boxes_xyxy, labels = train.targets(position)
            assert labels.tolist() == [thing.label for thing in things]
            expected = np.array([thing.box_xyxy for thing in things]).reshape(-1, 4)
            assert np.abs(boxes_xyxy.numpy() - expected).max(initial=0) < 0.02

    def test_the_wheel_takes_every_file(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        patterns = project["tool"]["setuptools"]["package-data"]["deim_lab"]
        package = EMBEDDED_FOLDER.parents[1]
        taken = {path for pattern in patterns for path in package.glob(pattern)}
        assert {path for path in EMBEDDED_FOLDER.rglob("*") if path.is_file()} <= taken
