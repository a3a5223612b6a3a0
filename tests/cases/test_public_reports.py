"""Public bug reports of this field's tools, rebuilt on small inputs: one test per report.

The expectations are those of the reports' users. Each report stands for a kind of fault; the tests
of the rooms check other values of the same kind.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deim_lab import cli, figures
from deim_lab.config.presets import preset
from deim_lab.data import coco, images
from deim_lab.detections import Detections
from deim_lab.errors import ConfigError, DataError
from deim_lab.evaluation import coco_metrics
from deim_lab.host import shipped
from deim_lab.study.tables import to_latex

Json = Any
Edit = Callable[[Json, str, Path], None]

TRAIN = ("train", "--preset", "smoke", "--device", "cpu")
ONE_EPOCH = ("--set", "data.workers=0", "--set", "train.epochs=1")
COLOURS = ((230, 40, 40), (40, 230, 40), (40, 40, 230))


def made(
    folder: Path,
    counts: tuple[int, int] = (8, 4),
    categories: tuple[tuple[int, str], ...] = ((1, "cell"), (2, "dot")),
    edit: Edit | None = None,
) -> Path:
    """A small sound set in COCO layout, then ``edit(json, half, folder)``."""
    draw = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for half, count in zip(("train", "val"), counts, strict=True):
        pictures = folder / "images" / half
        pictures.mkdir(parents=True)
        named = [{"id": number, "name": name} for number, name in categories]
        content: Json = {"images": [], "annotations": [], "categories": named}
        for index in range(count):
            pixels = draw.integers(0, 90, (64, 96, 3)).astype("uint8")
            for _ in range(2):
                width, height = int(draw.integers(12, 32)), int(draw.integers(12, 32))
                x, y = int(draw.integers(0, 96 - width)), int(draw.integers(0, 64 - height))
                kind = int(draw.integers(len(categories)))
                pixels[y : y + height, x : x + width] = COLOURS[kind]
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": index + 1,
                        "category_id": categories[kind][0],
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
            name = f"{half}{index}.png"
            Image.fromarray(pixels).save(pictures / name)
            content["images"].append(
                {"id": index + 1, "file_name": name, "width": 96, "height": 64}
            )
        if edit is not None:
            edit(content, half, folder)
        text = json.dumps(content, ensure_ascii=False)
        (folder / "annotations" / f"instances_{half}.json").write_text(text, encoding="utf-8")
    return folder


def opened(folder: Path) -> coco.CocoDataset:
    return coco.open_source(coco.resolve(folder))[0]


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


def execute(name: str, folder: Path, *parameters: str) -> None:
    """Execute a ready notebook with papermill; fails with the end of what it printed."""
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", str(shipped.files("notebooks")[name])),
            *("out.ipynb", "-p", "preset", "smoke", "-p", "runs_dir", str(folder / "runs")),
            *parameters,
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.slow  # executes notebook 01
@pytest.mark.parametrize("pictures", [1, 3])
def test_17_notebook_01_with_few_pictures(pictures: int, tmp_path: Path) -> None:
    """Notebook 01 took four pictures from a training half of three."""
    folder = made(tmp_path / "set", counts=(pictures, 4))
    execute("01_dense_o2o", tmp_path, "-p", "data", str(folder), "-p", "samples", "8")


@pytest.mark.slow  # executes notebook 04, which trains
def test_18_notebook_04_with_a_val_half_without_boxes(tmp_path: Path) -> None:
    """Notebook 04 trained and then failed in a figure, because no picture had a box."""

    def edit(content: Json, half: str, folder: Path) -> None:
        if half == "val":
            content["annotations"] = []

    folder = made(tmp_path / "set", edit=edit)
    try:
        execute("04_matching", tmp_path, "-p", "data", str(folder))
    except AssertionError as error:
        if "DataError" not in str(error) and "ConfigError" not in str(error):
            raise


def drawn_scores(seed: int, pictures: int = 20, many: int = 0) -> tuple[Json, list[Json]]:
    """Random ground truth of two classes, and detections near it with tied scores."""
    draw = np.random.default_rng(seed)
    truth: Json = {
        "images": [
            {"id": i + 1, "width": 640, "height": 480, "file_name": str(i)} for i in range(pictures)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [],
    }
    found: list[Json] = []
    for image in truth["images"]:
        for _ in range(many or int(draw.integers(0, 8))):
            width, height = np.exp(draw.uniform(1.5, 5, 2))
            x, y = draw.uniform(0, 600), draw.uniform(0, 440)
            place = {"image_id": image["id"], "category_id": int(draw.integers(1, 3))}
            size = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, **place, **size})
            for _ in range(int(draw.integers(0, 3))):
                move = draw.normal(0, 0.12, 4) * [width, height, width, height]
                box = [x + move[0], y + move[1], max(1, width + move[2]), max(1, height + move[3])]
                score = float(np.round(draw.random(), 1))
                found.append({**place, "bbox": box, "score": score})
    return truth, found


def no_area(truth: Json, found: list[Json]) -> None:
    for row in truth["annotations"][:9]:
        row["bbox"][2] = row["area"] = 0.0
    for row in found[:9]:
        row["bbox"][3] = 0.0


def edges(truth: Json, found: list[Json]) -> None:
    for index, row in enumerate(truth["annotations"]):
        side = (32, 96)[index % 2]
        row["bbox"][2:] = [side, side]
        row["area"] = float(side * side)


def half_overlap(truth: Json, found: list[Json]) -> None:
    found.clear()
    draw = np.random.default_rng(4)
    for row in truth["annotations"]:
        x, y, width, height = (float(int(value)) for value in row["bbox"])
        height = max(2.0, height // 2 * 2)
        row["bbox"], row["area"] = [x, y, width, height], width * height
        place = {key: row[key] for key in ("image_id", "category_id")}
        found.append({**place, "bbox": [x, y, width, height / 2], "score": float(draw.random())})


def wide_ids(truth: Json, found: list[Json]) -> None:
    for image in truth["images"]:
        image["id"] += 2**40
    for row in [*truth["annotations"], *found]:
        row["image_id"] += 2**40


def below_zero(truth: Json, found: list[Json]) -> None:
    for row in found:
        row["score"] *= -50


def crowds(truth: Json, found: list[Json]) -> None:
    for row in truth["annotations"][::3]:
        row["iscrowd"] = 1


def unchanged(truth: Json, found: list[Json]) -> None:
    pass


@pytest.mark.parametrize(
    ("seed", "edit", "options"),
    [
        (0, unchanged, {}),
        (1, unchanged, {"pictures": 3, "many": 160}),
        (2, no_area, {}),
        (3, edges, {}),
        (4, half_overlap, {}),
        (5, wide_ids, {}),
        (6, below_zero, {}),
        (7, crowds, {"pictures": 4, "many": 40}),
    ],
)
def test_19_numbers_equal_those_of_pycocotools(
    seed: int, edit: Callable[[Json, list[Json]], None], options: dict[str, int], tmp_path: Path
) -> None:
    """Evaluators differ at ties, edges of sizes, IoU 0.5, wide ids, scores below 0 and crowds."""
    truth, found = drawn_scores(seed, **options)
    edit(truth, found)
    truth_path, found_path = tmp_path / "truth.json", tmp_path / "found.json"
    truth_path.write_text(json.dumps(truth), encoding="utf-8")
    found_path.write_text(json.dumps(found), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(truth_path))
        expected = COCOeval(reference, reference.loadRes(str(found_path)), "bbox")
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    for backend in ("auto", "pycocotools"):
        scores = coco_metrics(truth_path, found_path, backend=backend)
        assert [scores[name] for name in names] == pytest.approx(expected.stats, abs=1e-9)


@pytest.mark.slow  # a sweep trains a run in a kernel
def test_20_a_sweep_without_a_home(tmp_path: Path) -> None:
    """A sweep needed a writable HOME, or failed at a folder or an arm with unusual signs."""
    grid = {
        "preset": "smoke",
        "data": str(made(tmp_path / "set")),
        "base": {"train.epochs": 1, "data.workers": 0},
        "arms": {"β $1 & $2_": {"loss.gamma": 2.0}},
        "seeds": [0],
    }
    (tmp_path / "g.yaml").write_text(json.dumps(grid), encoding="utf-8")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "deim_lab.cli", "sweep", str(tmp_path / "g.yaml")),
            *("--runs", str(tmp_path / "runs dir é"), "--workers", "1"),
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "HOME": "/proc/nobody", "PYTHONIOENCODING": "utf-8"},
        timeout=300,
        check=False,
    )
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 0, printed[-2000:]
    assert "1 done, 0 failed" in printed


def trained(folder: Path, runs_dir: Path) -> Path:
    """Train one epoch on a set; the run folder."""
    arguments = [*TRAIN, *ONE_EPOCH, "--data", str(folder), "--runs", str(runs_dir)]
    assert cli.main(arguments) == 0
    return next(runs_dir.glob("2*"))


def names_of(paths: Iterable[str | Path]) -> set[str]:
    return {Path(path).name for path in paths}


def test_21_predict_on_a_folder_with_rubbish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Mac's "._a.jpg" stopped predict, and a.b.jpg next to a.b.png was overwritten."""
    run, pictures = trained(made(tmp_path / "set"), tmp_path / "runs"), tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 150, 3)).astype("uint8")
    for name in ("a.b.png", "a.b.jpg"):
        Image.fromarray(noise).save(pictures / name)
    Image.new("RGB", (1, 1)).save(pictures / "one.png")
    (pictures / "._a.b.jpg").write_bytes(b"\0\5\x16\7" + bytes(4000))
    out = tmp_path / "out"
    arguments = ["predict", str(run), str(pictures), "--out", str(out), "--threshold", "0"]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    rows = json.loads((out / "detections.json").read_text(encoding="utf-8"))
    expected = {"a.b.png", "a.b.jpg", "one.png"}
    assert names_of(row["file_name"] for row in rows) == expected
    assert names_of(path for path in out.iterdir() if path.suffix in (".png", ".jpg")) == expected
    assert "._a.b.jpg" in "".join(capsys.readouterr())


def test_23_one_picture_one_class(tmp_path: Path) -> None:
    """One picture of one class with id 7 gave no batch, or predictions of class 0 or 1."""
    folder = made(tmp_path / "set", counts=(1, 1), categories=((7, "x"),))
    run = trained(folder, tmp_path / "runs")
    rows = json.loads((run / "predictions" / "last.json").read_text(encoding="utf-8"))
    assert rows
    assert {row["category_id"] for row in rows} == {7}
