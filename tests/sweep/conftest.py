"""Shared by the sweep tests: a small data set, grids on it, and a look for processes left."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deim_lab.sweep.spec import RunSpec
from moods import WORK
from sweeps import TRAIN, Json, write_notebook

MARK = "DEIM_LAB_TEST_MARK"  # variable that every process of a test inherits


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures in COCO layout."""
    root = tmp_path_factory.mktemp("data")
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(root / "images" / split / "1.jpg")
        (root / "annotations" / f"instances_{split}.json").write_text(
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "1.jpg", "width": 32, "height": 32}],
                    "categories": [{"id": 1, "name": "thing"}],
                    "annotations": [
                        {
                            "id": 1,
                            "image_id": 1,
                            "category_id": 1,
                            "bbox": [4, 4, 9, 9],
                            "area": 81,
                            "iscrowd": 0,
                        }
                    ],
                }
            ),
            encoding="utf-8",
        )
    return root


@pytest.fixture
def place(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``place(seeds=…, **grid)`` writes notebook and grid file; gives the grid file. Kernels keep
    their files under the test's folder.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("deim_lab.sweep.loop.LOOK_SECONDS", 0.1)

    def make(*, cells: Sequence[str] = TRAIN, **values: Json) -> Path:
        notebook = write_notebook(tmp_path / "small.ipynb", *cells)
        grid = {
            "notebook": str(notebook),
            "preset": "smoke",
            "data": str(data),
            "base": {"train.epochs": 3},
            "arms": {"baseline": {}, "sharper": {"loss.gamma": 2.0}},
            "seeds": [0, 1, 2],
            **values,
        }
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(grid), encoding="utf-8")
        return path

    return make


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Json]]]:
    """Processes, other than this one, that a test started; none may be left in the end."""
    psutil = pytest.importorskip("psutil")
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)

    def find() -> list[Json]:
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.pid != os.getpid()
                    and process.environ().get(MARK) == mark
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                continue
        return found

    yield find
    for process in find():
        process.kill()


@pytest.fixture
def left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """Process ids of what this test started, in whatever way, and still runs; there must be none in
    the end.
    """
    mark = f"DEIM_LAB_TEST={uuid.uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))

    def find() -> list[int]:
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                try:
                    if mark.encode() in (folder / "environ").read_bytes():
                        found.append(int(folder.name))
                except OSError:
                    continue
        return found

    yield find
    until = time.monotonic() + 15
    while find() and time.monotonic() < until:
        time.sleep(0.2)
    assert not [(Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in find()]


@pytest.fixture
def specs(tmp_path: Path) -> Callable[..., list[RunSpec]]:
    """``specs("well", "raises", …)``: a run of a small notebook for each mood."""
    runs_dir = tmp_path / "runs"
    runs_dir.mkdir()
    values = "seed, runs_dir, mood, seconds, data = 0, '', 'well', 0.0, 'embedded'"
    notebook = write_notebook(tmp_path / "small.ipynb", WORK, parameters=values)

    def make(*moods: str, seconds: float = 0.0, **parameters: Any) -> list[RunSpec]:
        return [
            RunSpec(
                index=index,
                arm=mood,
                seed=index,
                notebook=str(notebook),
                overrides={},
                fingerprint="f",
                data_fingerprint="d",
                parameters={
                    "seed": index,
                    "runs_dir": str(runs_dir),
                    "mood": mood,
                    "seconds": seconds,
                    **parameters,
                },
                runs_dir=str(runs_dir),
                executed=str(runs_dir / "sweeps" / "t" / f"{index}.ipynb"),
            )
            for index, mood in enumerate(moods)
        ]

    return make
