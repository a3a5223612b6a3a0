"""Public bug reports of this field's tools, rebuilt on small inputs: odd data and odd machines."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from deim_lab import cli, figures
from deim_lab.config.presets import preset
from deim_lab.data import images
from deim_lab.detections import Detections
from deim_lab.errors import ConfigError, DataError
from deim_lab.host import shipped
from deim_lab.study.tables import to_latex
from reports import ONE_EPOCH, TRAIN, Json, made, opened


def megabytes_more(script: str) -> float:
    """Run a script in a process of its own; the megabytes that it prints."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    )
    return float(ended.stdout)


def test_02_lying_and_standing_strips_in_a_mosaic() -> None:
    """Two line-scan strips of 24,000 pixels each made a Mosaic of gigabytes."""
    more = megabytes_more("""
        import resource, torch
        from deim_lab.augment.mosaic import Mosaic
        from deim_lab.augment.pipeline import generator_of
        from deim_lab.structures import Scene
        def scene(height, width):
            image = torch.full((height, width, 3), 90, dtype=torch.uint8).permute(2, 0, 1)
            return Scene(image, torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]), (1,))
        mosaic = Mosaic(tile_px=48)
        mosaic([scene(64, 96)], 0, generator_of(0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(4):
            mosaic([scene(20, 1200), scene(1200, 20)], 0, generator_of(seed))
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """)
    assert more < 200


def dollars(names: tuple[str, str], stem: Path) -> list[str]:
    """Draw and save detections of classes with these names; texts that are set as formulas."""
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    boxes, labels = torch.tensor([[5.0, 5, 40, 40], [20.0, 20, 60, 60]]), torch.tensor([0, 1])
    found = [Detections(torch.tensor([0.9, 0.8]), labels, boxes)]
    fig = figures.detections.predictions([image], found, [(boxes, labels)], names, 0.3)
    figures.save(fig, stem)
    texts = [text for text in fig.findobj(Text) if isinstance(text, Text)]
    return [
        text.get_text()
        for text in texts
        if text.get_parse_math() and text.get_text().replace("\\$", "").count("$") > 1
    ]


@pytest.mark.parametrize("names", [("bill_$5_or_$10_", "coin"), ("US$ note", "$1 and $2")])
def test_04_dollars_in_class_names(names: tuple[str, str], tmp_path: Path) -> None:
    """Class names with two dollar signs were set as formulas, or failed after training."""
    assert not dollars(names, tmp_path / "fig")


@pytest.mark.slow  # starts papermill and a kernel
def test_05_small_numbers_from_papermill(tmp_path: Path) -> None:
    """YAML 1.1 hands over `overrides: {optim.lr: 1e-3}` as the text "1e-3"."""
    notebook = json.loads(shipped.files("notebooks")["03_train"].read_text(encoding="utf-8"))
    tagged = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    source = (
        "from deim_lab.config import presets\n"
        "print('GOT', presets.preset(preset, overrides).optim.lr)"
    )
    cell = {**tagged, "id": "probe", "metadata": {}, "source": source}
    notebook["cells"] = [tagged, cell]
    (tmp_path / "short.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", "short.ipynb", "out.ipynb", "-p", "preset"),
            *("smoke", "-y", "overrides: {optim.lr: 1e-3}", "--log-output"),
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert "GOT 0.001" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("tags", "turned"),
    [
        ([(0x0112, 2, 4, b"abc\0")], False),
        ([(0x0112, 5, 1, struct.pack("<II", 1, 0))], False),
        (
            [(0x0112, 3, 1, struct.pack("<H", 6)), (0x011A, 10, 1, struct.pack("<ii", -5, 0))],
            True,
        ),
    ],
)
def test_06_odd_exif(tags: list[tuple[int, int, int, bytes]], turned: bool, tmp_path: Path) -> None:
    """Sound JPEGs with one odd EXIF tag, which viewers show, were called damaged."""
    entries, free, values = b"", 8 + 2 + 12 * len(tags) + 4, b""
    for tag, kind, count, value in tags:
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place, values = struct.pack("<I", free + len(values)), values + value
        entries += struct.pack("<HHI", tag, kind, count) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    exif = b"Exif\0\0" + head + entries + bytes(4) + values

    def edit(content: Json, half: str, folder: Path) -> None:
        old = folder / "images" / half / content["images"][0]["file_name"]
        new = old.with_suffix(".jpg")
        picture = Image.open(old)
        (picture.rotate(90, expand=True) if turned else picture).save(new, quality=95)
        raw = new.read_bytes()
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        new.write_bytes(raw[:2] + segment + raw[2:])
        content["images"][0]["file_name"] = new.name

    assert opened(made(tmp_path / "set", edit=edit))[0].image.shape == (3, 64, 96)


def test_09_two_hundred_megapixels(tmp_path: Path) -> None:
    """A sound aerial picture beyond Pillow's limit was called unreadable, to be replaced."""

    def edit(content: Json, half: str, folder: Path) -> None:
        if half == "train":
            first = content["images"][0] | {"width": 20000, "height": 10000}
            content["images"][0] = first
            Image.new("1", (20000, 10000)).save(folder / "images" / half / first["file_name"])

    with pytest.raises(DataError, match="has 200 million pixels") as raised:
        opened(made(tmp_path / "set", edit=edit))
    assert "not a readable picture" not in str(raised.value)
    assert "DOS attack" not in str(raised.value)
    assert "Cut the picture into tiles" in str(raised.value)


def test_10_twelve_bits_in_sixteen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """12 bits in 16-bit files became almost black pictures, and the doctor was silent."""

    def edit(content: Json, half: str, folder: Path) -> None:
        for item in content["images"]:
            file = folder / "images" / half / item["file_name"]
            grey = np.asarray(Image.open(file).convert("L")).astype("uint16") * 16
            item["file_name"] = f"{file.stem}.tif"
            Image.fromarray(grey).save(file.with_suffix(".tif"))

    folder = made(tmp_path / "set", edit=edit)
    assert images.decode(folder / "images/train/train0.tif").max() < 64
    assert cli.main(["doctor", "--data", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "16-bit-dark" in printed.out
    assert "Multiply their pixel values by 16" in printed.out


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.epochs", np.arange(3, 5)[0], 3),
        ("augment.mosaic_prob", np.float32(0.5), 0.5),
        ("loss.gamma", pd.DataFrame({"g": [2]})["g"].iloc[0], 2.0),
    ],
)
def test_11_numbers_of_numpy_as_overrides(key: str, value: Any, expected: float) -> None:
    """Values from a loop over numpy or pandas were refused as no numbers."""
    section, name = key.split(".")
    assert getattr(getattr(preset("smoke", {key: value}), section), name) == expected


def test_12_tilde_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--runs=~/results`, which no shell expands, made a folder named "~"."""
    for name in ("home", "cwd"):
        (tmp_path / name).mkdir()
    folder = made(tmp_path / "set")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    code = cli.main([*TRAIN, *ONE_EPOCH, "--data", str(folder), "--runs=~/results"])
    assert code == 0
    assert not list((tmp_path / "cwd").iterdir())
    assert list((tmp_path / "home" / "results").glob("2*_smoke_*"))


def test_13_a_terminal_without_utf8(tmp_path: Path) -> None:
    """In a container or cron without UTF-8 the doctor failed instead of reporting."""
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "deim_lab.cli", "doctor", "--data", str(made(tmp_path / "set"))],
        capture_output=True,
        env={**os.environ, **plain, "PYTHONIOENCODING": "ascii"},
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii()
    assert b"Traceback" not in ended.stderr


def test_14_greek_in_latex_tables() -> None:
    """Arms named after other knobs than γ left signs that pdflatex does not know."""
    frame = pd.DataFrame({"arm": ["α = 0.25", "β₁ 0.9", "τ → 5", "λ_fgl"], "AP": [0.5] * 4})
    assert to_latex(frame).isascii()
    with pytest.raises(ConfigError, match="U\\+7EC6"):
        to_latex(pd.DataFrame({"arm": ["细胞"]}))


def test_15_a_closed_pipe() -> None:
    """`deim-lab presets | head` printed a traceback when its reader was gone."""
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "deim_lab.cli", "presets"],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert ended.stderr == b""


def test_16_zoom_out_of_a_large_photo() -> None:
    """Zoom-out of a photo of 24 megapixels took ten times the photo."""
    more = megabytes_more("""
        import resource, torch
        from deim_lab.augment import single
        from deim_lab.augment.pipeline import generator_of
        from deim_lab.structures import Scene
        image = torch.full((4000, 6000, 3), 7, dtype=torch.uint8).permute(2, 0, 1)
        boxes, labels = torch.tensor([[10.0, 10, 500, 500]]), torch.tensor([0])
        scene = Scene(image, boxes, labels, (1,))
        single.resize(Scene(image[:, :64, :64], boxes, labels), (32, 32))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(6):
            single.resize(single.ZoomOut(prob=1.0)(scene, generator_of(0, seed)), (640, 640))
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """)
    assert more < 4 * 72
