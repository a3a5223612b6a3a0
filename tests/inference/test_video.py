"""inference/video.py: frames in, rows and an MP4 with boxes out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clips import CATEGORIES, CONFIG, FPS, FRAMES
from deim_lab.errors import DataError, MissingExtraError
from deim_lab.inference.predict import Predictor, TorchEngine
from deim_lab.inference.video import VideoReader, VideoWriter, detect_frames, is_video
from deim_lab.structures import Prediction
from deim_lab.weights.own import LoadedDetector


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
