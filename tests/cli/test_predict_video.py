"""``deim-lab predict`` on pictures, videos and a webcam; bad input of the verbs that use models."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from clips import save_detector, write_video
from deim_lab import cli
from deim_lab.data import images
from deim_lab.errors import DataError
from deim_lab.inference import video
from deim_lab.inference.export import export_onnx
from deim_lab.inference.video import VideoReader
from deim_lab.weights.own import load_detector


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and the same detector as ONNX next to them."""
    path = save_detector(tmp_path_factory.mktemp("weights"))
    export_onnx(load_detector(path), path.with_suffix(".onnx"))
    return path


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
