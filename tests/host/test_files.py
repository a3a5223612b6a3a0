"""Files of this machine: written whole, JSON with errors that name the place, free names."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deim_lab.errors import ConfigError, DataError, WeightsError
from deim_lab.host import files


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


class TestWhole:
    def test_the_file_has_its_name_only_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pt"
        with files.writing_whole(path) as temporary:
            temporary.write_text("new", encoding="utf-8")
            assert temporary.parent == tmp_path
            assert not path.exists()
        assert path.read_text(encoding="utf-8") == "new"
        assert names(tmp_path) == ["a.pt"]

    def test_an_error_in_the_middle_leaves_the_old_file_whole(self, tmp_path: Path) -> None:
        path = files.write_whole(tmp_path / "a.txt", "old")

        def fail() -> None:
            with files.writing_whole(path) as temporary:
                temporary.write_text("ne", encoding="utf-8")
                raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            fail()
        assert path.read_text(encoding="utf-8") == "old"
        assert names(tmp_path) == ["a.txt"]

    def test_a_killed_writer_leaves_the_old_file_whole(self, tmp_path: Path) -> None:
        path = files.write_json(tmp_path / "a.json", {"value": "old"})
        code = (
            "import os, pathlib, sys\n"
            "from deim_lab.host import files\n"
            "with files.writing_whole(pathlib.Path(sys.argv[1])) as temporary:\n"
            "    temporary.write_text('{', encoding='utf-8')\n"
            "    os._exit(9)\n"
        )
        ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert ended.returncode == 9
        assert files.read_json(path) == {"value": "old"}
        assert [item.name for item in tmp_path.glob("*.json")] == ["a.json"]  # no reader finds half

    def test_the_content_is_on_the_disk_before_the_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []

        def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                calls.append(name)
                return function(*args)

            return call

        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
        files.write_whole(tmp_path / "a.txt", "new")
        assert calls == ["fsync", "replace"]

    def test_the_temporary_name_keeps_a_suffix_that_a_writer_needs(self, tmp_path: Path) -> None:
        with files.writing_whole(tmp_path / "a.mp4", suffix=".mp4") as temporary:
            assert temporary.suffix == ".mp4"
            temporary.touch()
        assert names(tmp_path) == ["a.mp4"]


class TestJson:
    def test_values_that_are_not_json_are_written_as_json(self, tmp_path: Path) -> None:
        value = {"array": np.arange(3), "nan": math.nan, "path": Path("a"), "set": {1}}
        path = files.write_json(tmp_path / "a.json", value)
        assert files.read_object(path) == {
            "array": [0, 1, 2],
            "nan": None,
            "path": "a",
            "set": [1],
        }

    def test_objects_have_a_key_a_line_and_lists_stand_on_one(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        assert files.write_json(path, {"a": 1, "b": [2]}).read_text(encoding="utf-8") == (
            json.dumps({"a": 1, "b": [2]}, indent=1) + "\n"
        )
        assert files.write_json(path, [1, 2]).read_text(encoding="utf-8") == "[1, 2]\n"
        text = files.write_json(path, {"a": [1, 2]}, compact=True).read_text(encoding="utf-8")
        assert text == '{"a":[1,2]}\n'

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b'{"a": 1,\n "b": }', r"a\.json is no readable JSON: line 2, column 7: "),
            (b"", r"a\.json is no readable JSON: line 1, column 1: .*0 bytes in all"),
            (b'{"a": "\xff"}', r"a\.json is no readable JSON: byte 7 is not UTF-8 text"),
            (b"[" * 100_000, r"a\.json is no readable JSON: values are nested too deeply"),
            (b"9" * 5000, r"a\.json is no readable JSON: Exceeds the limit"),
        ],
    )
    def test_an_error_names_the_file_and_the_place(
        self, tmp_path: Path, content: bytes, says: str
    ) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(content)
        with pytest.raises(DataError, match=says):
            files.read_json(path)

    def test_a_byte_order_mark_is_fine(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
        assert files.read_json(path) == {"a": 1}

    def test_an_absent_file_names_the_nearest(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / "index.json", {})
        says = r"indx\.json does not exist \(did you mean 'index\.json'\?\)"
        with pytest.raises(DataError, match=says):
            files.read_json(tmp_path / "indx.json")

    def test_a_folder_and_another_value_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="can't be read"):
            files.read_json(tmp_path)
        path = files.write_json(tmp_path / "a.json", [1])
        with pytest.raises(DataError, match=r"a\.json holds a list\. Expected a JSON object"):
            files.read_object(path)

    def test_the_caller_chooses_the_type_of_the_error(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="does not exist"):
            files.read_json(tmp_path / "a.json", error=WeightsError)
        with pytest.raises(ConfigError, match="no readable JSON"):
            files.parse_json(b"{", "the answer", error=ConfigError)


class TestNames:
    def test_a_free_path_counts_on(self, tmp_path: Path) -> None:
        path = tmp_path / "a.b.json"
        assert files.free_path(path) == path
        path.touch()
        assert files.free_path(path).name == "a.b-2.json"
        (tmp_path / "a.b-2.json").touch()
        assert files.free_path(path).name == "a.b-3.json"

    def test_the_caller_says_what_is_taken(self, tmp_path: Path) -> None:
        taken = {tmp_path / "a.png"}
        assert files.free_path(tmp_path / "a.png", taken=taken.__contains__).name == "a-2.png"

    def test_a_free_folder_keeps_a_name_with_dots(self, tmp_path: Path) -> None:
        path = tmp_path / "runs" / "gamma-2.0"
        made = [files.make_free_folder(path).name for _ in range(3)]
        assert made == ["gamma-2.0", "gamma-2.0-2", "gamma-2.0-3"]
        assert all((path.parent / name).is_dir() for name in made)

    def test_the_nearest_name_next_to_a_path(self, tmp_path: Path) -> None:
        (tmp_path / "train.ipynb").touch()
        (tmp_path / "trains.txt").touch()
        near = files.nearest_beside(tmp_path / "trian.ipynb", "*.ipynb")
        assert near == " (did you mean 'train.ipynb'?)"
        assert files.nearest_beside(tmp_path / "else" / "x") == ""
