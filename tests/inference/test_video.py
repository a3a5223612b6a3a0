"""Videos and cameras: frames in, rows and an MP4 with boxes out; by the command line, too."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deim_lab import cli
from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.data import images
from deim_lab.detector.detector import build_detector
from deim_lab.errors import DataError, MissingExtraError
from deim_lab.inference import latency, video
from deim_lab.inference.export import export_onnx
from deim_lab.inference.predict import Predictor, TorchEngine
from deim_lab.inference.video import VideoReader, VideoWriter, detect_frames, is_video
from deim_lab.structures import Prediction
from deim_lab.weights.own import LoadedDetector, save_weights

CATEGORIES = [{"id": 7, "name": "bright"}, {"id": 9, "name": "other"}]
CONFIG = override(preset("smoke"), {"data.input_size": [64, 96]})
FRAMES, FPS, SIZE_WH = 7, 12.5, (120, 80)


@pytest.fixture(autouse=True)
def _quiet_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])


def write_video(path: Path, frames: int = FRAMES) -> Path:
    """A bright square on grey (RGB 250, 40, 40: red) that moves 10 px a frame to the right."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE_WH)
    for index in range(frames):
        picture = np.full((SIZE_WH[1], SIZE_WH[0], 3), 60, np.uint8)
        picture[30:50, 10 * index : 10 * index + 20] = (40, 40, 250)  # BGR
        writer.write(picture)
    writer.release()
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4")


class Bright(nn.Module):
    """Boxes the red square; remembers the sizes of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Prediction:
        self.batches.append(len(images))
        boxes, logits = torch.zeros(len(images), 1, 4), torch.full((len(images), 1, 2), -20.0)
        for index, image in enumerate(images):
            ys, xs = ((image[0] - image[2]) > 0.4).nonzero().unbind(1)
            if len(xs):
                low, high = torch.stack([xs.min(), ys.min()]), torch.stack([xs.max(), ys.max()]) + 1
                scale = torch.tensor([image.shape[2], image.shape[1]])
                boxes[index, 0] = torch.cat([(low + high) / 2 / scale, (high - low) / scale])
                logits[index, 0, 0] = 3.0
        return Prediction(logits, boxes)


def predictor(batch_size: int = 3) -> Predictor:
    model: Any = Bright()
    return Predictor(
        LoadedDetector(model, CONFIG, CATEGORIES), threshold=0.5, batch_size=batch_size
    )


def batches_of(own: Predictor) -> list[int]:
    assert isinstance(own.engine, TorchEngine)
    model: Any = own.engine.model
    return model.batches


def test_every_frame_has_rows_in_its_own_pixels_and_time(clip: Path, tmp_path: Path) -> None:
    own = predictor()
    with VideoReader(clip) as reader, VideoWriter(tmp_path / "out.mp4", reader.fps) as writer:
        assert (reader.fps, reader.count, reader.is_camera) == (FPS, FRAMES, False)
        found = list(detect_frames(own, reader, first_id=11, writer=writer))
        assert not (tmp_path / "out.mp4").exists()  # it gets its name when it is whole
    assert batches_of(own) == [3, 3, 1]
    assert [item.frame for item in found] == list(range(FRAMES))
    for index, item in enumerate(found):
        [row] = item.rows()
        assert (row["image_id"], row["category_id"], row["file_name"], row["frame"]) == (
            11 + index,
            7,
            str(clip),
            index,
        )
        assert row["seconds"] == pytest.approx(index / FPS, abs=1e-3)
        assert row["bbox"] == pytest.approx(
            [10 * index, 30, 20, 20], abs=4
        )  # the codec blurs edges: RGB order and frame order are what counts
    assert sorted(item.name for item in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]
    with VideoReader(tmp_path / "out.mp4") as drawn, VideoReader(clip) as plain:
        pairs = list(zip(drawn, plain, strict=True))
    assert len(pairs) == FRAMES
    for one, other in pairs:
        assert one.pixels.shape == other.pixels.shape == (3, 80, 120)
        changed = (one.pixels.float() - other.pixels.float()).abs().amax(0)
        assert changed[28:52].max() > 60  # an outline
        assert changed[60:].mean() < 10


def test_a_limit_and_one_frame_at_a_time(clip: Path) -> None:
    own = predictor(batch_size=1)
    with VideoReader(clip) as reader:
        assert len(list(detect_frames(own, reader, limit=2))) == 2
    assert batches_of(own) == [1, 1]


def test_what_is_no_video_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 50)
    with pytest.raises(DataError, match=r"broken\.mp4 can't be opened: it is damaged"):
        VideoReader(tmp_path / "broken.mp4")
    with pytest.raises(DataError, match=r"absent\.mp4 does not exist"):
        VideoReader(tmp_path / "absent.mp4")
    with pytest.raises(DataError, match="webcam 93 can't be opened: no camera"):
        VideoReader(93)
    assert is_video(Path("a.MKV"))
    assert not is_video(Path("a.png"))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        MissingExtraError,
        match=r"videos needs the package cv2, .* pip install 'deim-lab\[video\]'",
    ):
        VideoReader(0)


def test_an_interrupted_video_leaves_no_part(clip: Path, tmp_path: Path) -> None:
    def cut() -> None:
        with VideoReader(clip) as reader, VideoWriter(tmp_path / "out.mp4", reader.fps) as writer:
            next(detect_frames(predictor(), reader, writer=writer))
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        cut()
    assert [item.name for item in tmp_path.iterdir()] == ["clip.mp4"]


# --- the command line
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_detector(CONFIG, 2).eval()
    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder / "model.pt", model, config=CONFIG, categories=CATEGORIES)
    export_onnx(LoadedDetector(model, CONFIG, CATEGORIES), folder / "model.onnx")
    return folder / "model.pt"


def read_results(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    with (folder / "detections.csv").open(newline="", encoding="utf-8") as file:
        return json.loads((folder / "detections.json").read_text(encoding="utf-8")), list(
            csv.DictReader(file)
        )


def test_pictures_and_a_video_in_one_command_by_weights_and_by_onnx(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "square.png"
    cv2.imwrite(str(picture), np.full((50, 70, 3), 90, np.uint8))
    results = []
    for file in (weights, weights.with_suffix(".onnx")):
        out = tmp_path / file.suffix[1:]
        assert (
            cli.main(
                [
                    "predict",
                    str(file),
                    str(clip),
                    str(picture),
                    "--frames",
                    "4",
                    "--batch",
                    "3",
                    "--threshold",
                    "0",
                    "--out",
                    str(out),
                    "--device",
                    "cpu",
                ]
            )
            == 0
        )
        assert "in 1 pictures and 4 frames" in capsys.readouterr().out
        rows, table = read_results(out)
        assert {item.name for item in out.iterdir()} == {
            "detections.json",
            "detections.csv",
            "clip.mp4",
            "square.png",
        }
        assert {row["image_id"]: row.get("frame") for row in rows} == {
            1: None,
            2: 0,
            3: 1,
            4: 2,
            5: 3,
        }
        assert len(table) == len(rows)
        for row, line in zip(rows, table, strict=True):
            assert [float(line[name]) for name in ("x", "y", "width", "height", "score")] == [
                *row["bbox"],
                row["score"],
            ]
            assert line["category"] == {7: "bright", 9: "other"}[row["category_id"]]
            assert (line["frame"], line["file_name"]) == (
                "" if row.get("frame") is None else str(row["frame"]),
                row["file_name"],
            )
        with VideoReader(out / "clip.mp4") as drawn:
            assert sum(1 for _ in drawn) == 4
        results.append(rows)
    for image_id in range(1, 6):
        one, other = (
            sorted(row["score"] for row in rows if row["image_id"] == image_id) for rows in results
        )
        assert one == pytest.approx(other, abs=1e-4)


class Camera:
    """OpenCV with a camera that delivers five frames and is then interrupted by Ctrl-C."""

    def __getattr__(self, name: str) -> Any:
        return getattr(cv2, name)

    class VideoCapture:
        def __init__(self, source: int) -> None:
            self.left = 5 if source == 0 else 0

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return self.left > 0

        def get(self, _: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, np.ndarray]:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return True, np.full((48, 64, 3), 40 * self.left, np.uint8)

        def release(self) -> None:
            pass


def test_a_webcam_ends_by_frames_or_by_ctrl_c_and_keeps_what_was_found(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_opencv", Camera)
    for more, frames in ((["--frames", "2"], 2), ([], 5)):
        out = tmp_path / str(frames)
        assert (
            cli.main(
                [
                    "predict",
                    str(weights),
                    "--webcam",
                    "0",
                    "--threshold",
                    "0",
                    "--out",
                    str(out),
                    "--device",
                    "cpu",
                    *more,
                ]
            )
            == 0
        )
        rows, _ = read_results(out)
        assert {row["frame"] for row in rows} == set(range(frames))
        assert rows[0]["file_name"] == "webcam 0"
        assert cv2.VideoCapture(str(out / "webcam_0.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == frames


def test_a_picture_is_decoded_once_and_drawn_on(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [tmp_path / f"{name}.png" for name in "abc"]
    for path in pictures:
        cv2.imwrite(str(path), np.full((50, 70, 3), 90, np.uint8))
    decode = images.decode
    decoded: list[Path] = []

    def counted(path: Path) -> torch.Tensor:
        decoded.append(path)
        return decode(path)

    monkeypatch.setattr(images, "decode", counted)
    out = tmp_path / "out"
    words = [*map(str, pictures), "--batch", "2", "--threshold", "0", "--device", "cpu"]
    assert cli.main(["predict", str(weights), *words, "--out", str(out)]) == 0
    assert decoded == pictures
    for path in pictures:
        drawn = cv2.imread(str(out / path.name))
        assert drawn is not None
        assert np.any(drawn != 90)


def test_a_video_that_fails_or_is_stopped_costs_none_of_the_others(
    weights: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "square.png"
    cv2.imwrite(str(picture), np.full((50, 70, 3), 90, np.uint8))
    detect = video.detect_frames
    for error, code in ((DataError("not one frame can be read"), 0), (KeyboardInterrupt(), 130)):

        def fail(*given: Any, error: BaseException = error, **named: Any) -> Any:
            yield next(iter(detect(*given, **named)))
            raise error

        monkeypatch.setattr(video, "detect_frames", fail)
        out = tmp_path / str(code)
        words = [
            "predict",
            str(weights),
            str(picture),
            str(clip),
            "--threshold",
            "0",
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
        with contextlib.suppress(KeyboardInterrupt):
            assert cli.main(words) == code
        assert {row["image_id"] for row in read_results(out)[0]} == {1, 2}
        assert (out / "errors.json").exists() is (code == 0)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict {onnx} {clip} --preset smoke", "--preset has no effect on"),
        ("predict {onnx} {clip} --set eval.top_k=5", "--set has no effect on"),
        ("predict {tmp}/foreign.onnx {clip}", "can't be read as ONNX"),
        ("predict {pt} {tmp}/absent.mp4", "absent.mp4 does not exist"),
        ("predict {pt} {tmp}/a.png --frames 3", "--frames 3 has no effect on pictures"),
        ("predict {pt} {clip} --set train.epochs=3", "--set train.epochs has no effect on predict"),
        ("predict {pt} {clip} --set loss.gamma=2", "--set loss.gamma has no effect on predict"),
        ("export {pt} --out {tmp}/model.trt", "ends in .onnx"),
        ("export {pt} --opset 9 --out {tmp}/m.onnx", "opset 9 is outside"),
        ("export {tmp}/absent.pt", "absent.pt"),
        ("latency --preset smokey", "did you mean 'smoke'"),
        (
            "latency --preset smoke --precision fp8 --device cpu",
            "precision 'fp8' is not available here",
        ),
        ("latency --preset smoke --form deploed --device cpu", "did you mean 'deploy'"),
    ],
)
def test_bad_input_is_one_line(
    command: str,
    message: str,
    weights: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "foreign.onnx").write_bytes(b"nothing")
    words = command.format(
        onnx=weights.with_suffix(".onnx"), pt=weights, clip=clip, tmp=tmp_path
    ).split()
    assert (
        cli.main([*words, *(["--out", str(tmp_path / "o")] if words[0] == "predict" else [])]) == 2
    )
    errors = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith(f"deim-lab {words[0]}: error: ")
    ]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "r"],
        ["latency"],
        ["export"],
        ["predict", "r", "--webcam", "x"],
        ["export", "r", "--size", "64"],
    ],
)
def test_wrong_options_are_refused_by_the_parser(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "error" in capsys.readouterr().err


def test_export_says_what_it_wrote(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "square.png"
    cv2.imwrite(
        str(picture), np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    )
    out = tmp_path / "deep" / "m.onnx"
    assert (
        cli.main(
            [
                "export",
                str(weights),
                "--out",
                str(out),
                "--size",
                "64",
                "128",
                "--raw",
                "--check-images",
                str(picture),
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("MiB, opset 17, images [batch, 3, 64, 128]")
    assert "px of PyTorch's" in lines[1]
    assert lines[-1] == str(out)
    assert out.is_file()


def test_latency_as_a_table_and_as_json(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "l.json"
    assert (
        cli.main(
            [
                "latency",
                "--preset",
                "smoke",
                "--weights",
                str(weights),
                "--size",
                "64",
                "64",
                "--batch",
                "1",
                "2",
                "--precision",
                "fp32",
                "--repeats",
                "5",
                "--out",
                str(out),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    told = json.loads(out.read_text(encoding="utf-8"))
    assert [item["model"] for item in told["models"]] == ["smoke", "model.pt"]
    assert told["models"][0]["parameters_deploy"] < told["models"][0]["parameters_train"]
    assert told["models"][0]["gflops"] > 0
    assert {
        (item["model"], item["form"], item["batch"], item["postprocess"]) for item in told["times"]
    } == {
        (model, form, batch, post)
        for model in ("smoke", "model.pt")
        for form in ("train", "deploy")
        for batch in (1, 2)
        for post in (True, False)
    }
    assert all(
        item["median_ms"] > 0 and item["repeats"] == 5 and item["size"] == [64, 64]
        for item in told["times"]
    )
    assert told["machine"]["torch"] == torch.__version__
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(out)
    assert sum(line.split()[:2] == ["deploy", "fp32"] for line in lines) == 4


def test_what_can_not_be_compiled_is_said_and_the_rest_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\nmore")

    def in_form(model: Any, form: str) -> Any:
        found = whole(model, "deploy" if form == "compiled" else form)
        return (
            type("Failing", (torch.nn.Module,), {"forward": no_compiler})()
            if form == "compiled"
            else found
        )

    whole = latency.in_form
    monkeypatch.setattr(latency, "in_form", in_form)
    out = tmp_path / "l.json"
    assert (
        cli.main(
            [
                "latency",
                "--preset",
                "smoke",
                "--compile",
                "--size",
                "64",
                "64",
                "--batch",
                "1",
                "--precision",
                "fp32",
                "--repeats",
                "5",
                "--out",
                str(out),
                "--device",
                "cpu",
            ]
        )
        == 1
    )
    assert {item["form"] for item in json.loads(out.read_text(encoding="utf-8"))["times"]} == {
        "train",
        "deploy",
    }
    assert (
        "smoke cannot be compiled here (fp32, batch 1): RuntimeError: no C++ compiler"
        in capsys.readouterr().err.splitlines()[-1]
    )
