"""inference/export.py: an exported file computes what the model does, or is not left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.detections import best
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.errors import ConfigError, ExportError
from deim_lab.inference import export
from deim_lab.inference.export import BATCHES, compare, export_onnx
from deim_lab.inference.onnx_file import OnnxDetector
from deim_lab.inference.predict import TorchEngine
from deim_lab.weights.own import LoadedDetector
from exports import CATEGORIES, SIZE, assert_same_detections, loaded_of
from numeric import depth_of

pytestmark = pytest.mark.numeric

SLOW = (
    "deim_dfine_n",
    "dfine_s",
    "deim_dfine_m",
    "dfine_l",
    "deim_dfine_x",
    "rtdetrv2_r34",
    "deim_rtdetrv2_r50m",
    "rtdetrv2_r50",
    "rtdetrv2_r101",
    "deimv2_hgnetv2_femto",
    "deimv2_hgnetv2_pico",
    "deimv2_hgnetv2_n",
)


@pytest.mark.parametrize(
    "name",
    [
        "smoke",
        "rtdetrv2_r18",
        "deimv2_hgnetv2_atto",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_every_family_computes_the_same_in_onnxruntime(name: str, tmp_path: Path) -> None:
    loaded = loaded_of(name)
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    found = export_onnx(loaded, tmp_path / "deep" / "model.onnx")
    assert (found.batches, found.score_cut) == (BATCHES, 0.3)
    assert found.compared > 20
    assert found.box_error_px <= 0.05
    assert [item.name for item in (tmp_path / "deep").iterdir()] == ["model.onnx"]
    assert all(
        torch.equal(value, before[key]) for key, value in loaded.model.state_dict().items()
    )  # the model is left as it was

    # Once more without the comparison's own code, on other pictures and at a batch that it doesn't
    # try.
    images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(5))
    sizes_wh = torch.tensor([[640, 480], [100, 300], [160, 96]])
    wanted = TorchEngine(loaded, "cpu").detect(images, sizes_wh, [1, 2, 3])
    answers = OnnxDetector(tmp_path / "deep" / "model.onnx", "cpu").detect(
        images, sizes_wh, [1, 2, 3]
    )
    for one, other in zip(wanted, answers, strict=True):
        assert len(other) == len(one) == 60
        assert_same_detections(other, one, depth_of(loaded.model))


@pytest.mark.parametrize(
    ("options", "opset", "shapes"),
    [
        ({"raw": True}, 17, [[2, 20, 3], [2, 20, 4]]),
        ({"opset": 18, "size": (128, 64)}, 18, [[2, 60], [2, 60, 4], [2, 60]]),
        ({"opset": 20}, 20, [[2, 60], [2, 60, 4], [2, 60]]),
    ],
)
def test_raw_outputs_other_sizes_and_opsets(
    options: dict[str, Any],
    opset: int,
    shapes: list[list[int]],
    smoke: LoadedDetector,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(smoke, path, **options)
    assert onnx.load(str(path)).opset_import[0].version == opset
    exported = OnnxDetector(path, "cpu")
    assert exported.input_size == options.get("size", SIZE)
    outputs = exported.run(
        torch.rand(2, 3, *exported.input_size), torch.tensor([[10, 10], [20, 20]])
    )
    assert [list(item.shape) for item in outputs] == shapes


def test_half_precision_halves_the_trunk_and_keeps_the_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = override(preset("smoke"), {"data.input_size": list(SIZE)})
    untrained = LoadedDetector(build_detector(config, 3).eval(), config, CATEGORIES)
    found = export_onnx(untrained, tmp_path / "half.onnx", half=True)
    assert 0 < found.score_error < 0.01
    content = onnx.load(str(tmp_path / "half.onnx"))
    kinds = {item.name: item.data_type for item in content.graph.initializer}
    half = [name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT16]
    assert any(name.startswith("backbone.") for name in half)
    assert not any(name.startswith("decoder.") for name in half)
    assert content.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert OnnxDetector(tmp_path / "half.onnx", "cpu").info.precision == "fp16"
    assert next(untrained.model.parameters()).dtype == torch.float32


def test_an_untrained_model_is_compared_by_its_best(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = override(preset("smoke"), {"data.input_size": list(SIZE)})
    found = export_onnx(
        LoadedDetector(build_detector(config, 3).eval(), config, CATEGORIES),
        tmp_path / "model.onnx",
    )
    assert found.score_cut is None
    assert found.compared == 10 * sum(BATCHES)
    assert "none scores above 0.3" in str(found)


def test_a_choice_of_queries_that_is_a_tie_can_not_be_compared(tmp_path: Path) -> None:
    """Before training DEIMv2's anchors at the border share one score, and any of them is as good as
    another.
    """
    torch.manual_seed(0)
    config = override(preset("deimv2_hgnetv2_atto"), {"data.input_size": [320, 448]})
    with pytest.raises(ExportError, match="selected and unselected queries have equal scores"):
        export_onnx(
            LoadedDetector(
                build_detector(config, 4).eval(), config, [*CATEGORIES, {"id": 4, "name": "x"}]
            ),
            tmp_path / "model.onnx",
        )
    assert not list(tmp_path.iterdir())


class Nudged(nn.Module):
    """A graph that isn't the model's: boxes moved by ``by``."""

    def __init__(self, model: Detector, by: float) -> None:
        super().__init__()
        self.backbone, self.encoder, self.decoder, self.by = (
            model.backbone,
            model.encoder,
            model.decoder,
            by,
        )

    def forward(self, images: Tensor, sizes_wh: Tensor) -> tuple[Tensor, ...]:
        prediction = self.decoder(self.encoder(self.backbone(images)))
        scores, labels, boxes_xyxy = best(prediction, sizes_wh, top_k=300)
        return labels, boxes_xyxy + self.by, scores


@pytest.mark.parametrize(("by", "fails"), [(0.02, False), (0.2, True)])
def test_a_file_that_differs_is_not_left_and_an_older_one_stays(
    by: float, fails: bool, smoke: LoadedDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older")
    monkeypatch.setattr(export, "_Graph", lambda model, info: Nudged(model, by))
    if fails:
        with pytest.raises(
            ExportError,
            match=r"model.onnx was not written: at batch 1, image 0, a box is 0.2 px off "
            r".*allowed: 0.05 px",
        ):
            export_onnx(smoke, path)
        assert path.read_bytes() == b"older"
    else:
        assert export_onnx(smoke, path).box_error_px == pytest.approx(by, abs=2e-3)
    assert list(tmp_path.iterdir()) == [path]


def test_a_batch_frozen_into_the_graph_is_found(
    smoke: LoadedDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.onnx.export
    monkeypatch.setattr(
        torch.onnx, "export", lambda *given, dynamic_axes, **more: original(*given, **more)
    )
    with pytest.raises(ExportError, match="was not written"):
        export_onnx(smoke, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_rows_are_matched_by_box_and_what_is_missing_or_too_many_is_found() -> None:
    scores, labels = torch.tensor([0.9, 0.8, 0.8, 0.1]), torch.tensor([0, 1, 1, 0])
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60], [0, 0, 1, 1]])
    chosen = torch.tensor([True, True, True, False])
    one = (scores, labels, boxes)
    swapped = torch.tensor([0, 2, 1, 3])
    assert export._differences(one, (scores[swapped], labels[swapped], boxes[swapped]), chosen) == (
        0,
        0,
    )
    assert export._differences(one, (scores, labels, boxes + 0.25), chosen) == (0.25, 0)
    assert export._differences(one, (scores, torch.tensor([0, 1, 0, 0]), boxes), chosen)[
        0
    ] == float("inf")
    assert export._differences(one, (torch.tensor([0.9, 0.8, 0.8, 0.7]), labels, boxes), chosen)[
        1
    ] == pytest.approx(0.6)
    broken = boxes.clone()
    broken[3, 0] = float("nan")
    assert np.isnan(export._differences(one, (scores, labels, broken), chosen)[0])
    assert export._chosen(torch.tensor([0.9, 0.5, 0.4, 0.4]), 0.3).tolist() == [
        True,
        True,
        False,
        False,
    ]  # the last two tie with what was cut


def test_a_model_that_overflows_is_refused(smoke: LoadedDetector, tmp_path: Path) -> None:
    broken = loaded_of("smoke")
    with torch.no_grad():
        broken.model.get_parameter("decoder.enc_output.proj.weight").fill_(float("nan"))
    with pytest.raises(ExportError, match="inf or NaN"):
        export_onnx(broken, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"opset": 16}, ConfigError, r"opset 16 is outside \[17, 20\]"),
        ({"size": (100, 64)}, ConfigError, "not a multiple of 32"),
        ({"name": "model.pt"}, ExportError, r"ends in \.onnx"),
    ],
)
def test_bad_wishes_are_named(
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    smoke: LoadedDetector,
    tmp_path: Path,
) -> None:
    options = dict(options)
    with pytest.raises(error, match=message):
        export_onnx(smoke, tmp_path / options.pop("name", "model.onnx"), **options)
    assert not list(tmp_path.iterdir())


def test_comparison_needs_no_new_file(smoke: LoadedDetector, file: Path) -> None:
    assert (
        compare(smoke.model, OnnxDetector(file, "cpu"), torch.rand(4, 3, *SIZE)).box_error_px
        <= 0.05
    )
