"""``deim-lab convert``: reads a folder, writes another, reports on both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sets
from deim_lab import cli
from deim_lab.data import convert


def test_the_embedded_set_to_yolo_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", "embedded", str(tmp_path / "yolo"), "--format", "yolo"]) == 0
    written = capsys.readouterr()
    halves = convert.read("embedded")
    for half, line in zip(halves, written.out.splitlines(), strict=False):
        boxes = sum(len(picture.boxes) for picture in half.pictures)
        assert line == (
            f"{half.name}: {len(half.pictures)} pictures, {boxes} boxes, "
            f"{len(half.categories)} classes"
        )
    assert written.out.splitlines()[-1] == str(tmp_path / "yolo")
    command = ["convert", str(tmp_path / "yolo"), str(tmp_path / "coco"), "--format", "coco"]
    assert cli.main([*command, "--pictures", "copy"]) == 0
    for before, after in zip(halves, convert.read(tmp_path / "coco"), strict=True):
        assert [len(item.boxes) for item in after.pictures] == [
            len(item.boxes) for item in before.pictures
        ]
        assert after.categories.names == before.categories.names


def test_notices_and_errors_go_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        sets.picture(tmp_path / "from" / "images" / f"{name}.jpg")
    sets.text(tmp_path / "from" / "labels" / "b.txt", "0 .1 .1 .2 .1 .2 .3\n")
    command = ["convert", str(tmp_path / "from"), str(tmp_path / "to"), "--format", "voc"]
    assert cli.main(command) == 0
    written = capsys.readouterr()
    assert "train: yolo-polygons: 1 polygons" in written.err
    assert "train: yolo-no-label-file: 1 pictures" in written.err
    assert "yolo" not in written.out
    assert cli.main(command) == 2
    assert f"{tmp_path / 'to'} is not empty" in capsys.readouterr().err


def test_a_conversion_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from deim_lab import cli; "
        "assert cli.main(['convert', 'embedded', sys.argv[1], '--format', 'voc']) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "to")]
    assert subprocess.run(command, check=False).returncode == 0
