"""``deim-lab predict``: a folder with a broken file, names of outputs, order of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from command_line import SETTINGS, assert_same_by_class, the_run
from deim_lab import cli


@pytest.mark.parametrize("by_name", [False, True])
def test_classes_in_another_order_than_their_ids_are_predicted_by_name(
    by_name: bool, data: Path, runs_dir: Path, permuted: Path, tmp_path: Path
) -> None:
    recipe = [part for item in SETTINGS if "train." not in item for part in ("--set", item)]
    names = [
        "--preset",
        "smoke",
        "--categories",
        str(data / "annotations" / "instances_train.json"),
    ]
    for name, weights, more in (
        ("one", the_run(runs_dir), []),
        ("other", permuted, [*recipe, *names] if by_name else []),
    ):
        assert (
            cli.main(
                [
                    "predict",
                    str(weights),
                    str(data / "images" / "val"),
                    *more,
                    "--threshold",
                    "0",
                    "--device",
                    "cpu",
                    "--out",
                    str(tmp_path / name),
                ]
            )
            == 0
        )
    one, other = (
        json.loads((tmp_path / name / "detections.json").read_text(encoding="utf-8"))
        for name in ("one", "other")
    )
    assert_same_by_class(one, other)
    one, other = (pd.read_csv(tmp_path / name / "detections.csv") for name in ("one", "other"))
    classes = [
        table.groupby("category_id")["category"].unique().map(list).to_dict()
        for table in (one, other)
    ]
    assert classes[0] == classes[1]


def test_prediction_of_a_folder_with_a_broken_file(
    data: Path, runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, source in enumerate(sorted((data / "images" / "val").iterdir())[:3]):
        (pictures / f"{number}{source.suffix}").write_bytes(source.read_bytes())
    Image.fromarray(np.full((40, 50), 30000, np.uint16)).save(pictures / "deep.tif")
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "out"
    assert (
        cli.main(
            [
                "predict",
                str(the_run(runs_dir)),
                str(pictures),
                "--out",
                str(out),
                "--threshold",
                "0",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    told = capsys.readouterr()
    assert "4 pictures, 1 could not be read" in told.out
    assert "broken.jpg" in told.err
    assert "Traceback" not in told.err
    rows = json.loads((out / "detections.json").read_text(encoding="utf-8"))
    assert set(rows[0]) == {"image_id", "category_id", "bbox", "score", "file_name"}
    assert {row["image_id"] for row in rows} == {1, 2, 3, 5}  # 4 is the broken one
    assert {Path(row["file_name"]).name for row in rows} == {
        item.name for item in pictures.iterdir()
    } - {"broken.jpg"}
    assert list(json.loads((out / "errors.json").read_text(encoding="utf-8"))) == [
        str(pictures / "broken.jpg")
    ]
    drawn = sorted(item.name for item in out.iterdir() if item.suffix not in (".json", ".csv"))
    assert len(drawn) == 4
    assert "deep.png" in drawn
    assert Image.open(out / "deep.png").size == (50, 40)


def test_prediction_never_writes_onto_a_source_and_says_when_nothing_is_found(
    runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        Image.new("RGB", (32, 32), (9, 9, 9)).save(folder / "same.png")
    before = (tmp_path / "same.png").read_bytes()
    assert (
        cli.main(
            [
                "predict",
                str(the_run(runs_dir)),
                str(tmp_path / "same.png"),
                str(tmp_path / "a" / "same.png"),
                "--out",
                str(tmp_path),
                "--threshold",
                "1",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert (tmp_path / "same.png").read_bytes() == before
    assert {item.name for item in tmp_path.glob("*.png")} == {
        "same.png",
        "same-2.png",
        "same-3.png",
    }
    assert json.loads((tmp_path / "detections.json").read_text(encoding="utf-8")) == []
    assert "Lower --threshold" in capsys.readouterr().err
