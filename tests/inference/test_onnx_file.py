"""inference/onnx_file.py: what a file says, prediction with it, and broken files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from deim_lab.errors import ConfigError, MissingExtraError, WeightsError
from deim_lab.inference.export import OPSET, export_onnx
from deim_lab.inference.onnx_file import FORMAT, OnnxDetector
from deim_lab.inference.predict import Predictor
from deim_lab.weights.own import LoadedDetector
from exports import CATEGORIES, SIZE, assert_same_detections
from numeric import depth_of

pytestmark = pytest.mark.numeric


def test_the_file_says_what_it_is(file: Path) -> None:
    content = onnx.load(str(file))
    assert [(item.domain, item.version) for item in content.opset_import] == [("", OPSET)]
    shapes = {
        item.name: [axis.dim_param or axis.dim_value for axis in item.type.tensor_type.shape.dim]
        for item in (*content.graph.input, *content.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, 96, 160],
        "orig_target_sizes": ["batch", 2],
        "labels": ["batch", 60],
        "boxes": ["batch", 60, 4],
        "scores": ["batch", 60],
    }
    assert {item.key: item.value for item in content.metadata_props}["format"] == FORMAT
    assert not {"Sin", "Range"} & {
        node.op_type for node in content.graph.node
    }  # anchors and positions are constants
    info = OnnxDetector(file, "cpu").info
    assert (
        info.preset,
        info.categories,
        info.input_size,
        info.outputs,
        info.precision,
        info.top_k,
    ) == ("smoke", CATEGORIES, SIZE, "detections", "fp32", 300)


def test_what_is_not_installed_is_named(
    smoke: LoadedDetector, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for use in (lambda: export_onnx(smoke, tmp_path / "model.onnx"), lambda: OnnxDetector(file)):
        with pytest.raises(
            MissingExtraError,
            match=r"needs the package onnxruntime, .* pip install 'deim-lab\[export\]'",
        ):
            use()


def test_files_of_others_and_broken_ones_are_named(file: Path, tmp_path: Path) -> None:
    kind = onnx.TensorProto.FLOAT
    values = [onnx.helper.make_tensor_value_info(name, kind, [1]) for name in ("x", "y")]
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:]
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    with pytest.raises(
        WeightsError,
        match=r"foreign\.onnx is an ONNX file without a format, .* lack 'format', 'preset', "
        r"'categories', 'input_size'",
    ):
        OnnxDetector(tmp_path / "foreign.onnx")
    content = onnx.load(str(file))
    metadata = {item.key: item.value for item in content.metadata_props}
    for change, message in (
        ({"format": "other/2"}, "of the format 'other/2'"),
        ({"categories": None}, "its metadata lack 'categories'"),
        ({"input_size": "[1"}, "can't be read"),
    ):
        del content.metadata_props[:]
        onnx.helper.set_model_props(
            content, {key: value for key, value in (metadata | change).items() if value is not None}
        )
        onnx.save(content, str(tmp_path / "changed.onnx"))
        with pytest.raises(WeightsError, match=message):
            OnnxDetector(tmp_path / "changed.onnx")
    (tmp_path / "cut.onnx").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"cut\.onnx can't be read as ONNX"):
        OnnxDetector(tmp_path / "cut.onnx")
    with pytest.raises(WeightsError, match="does not exist"):
        OnnxDetector(tmp_path / "absent.onnx")
    with pytest.raises(ConfigError, match="no CUDA provider"):
        OnnxDetector(file, "cuda")


def test_prediction_with_the_file_equals_prediction_with_the_model(
    smoke: LoadedDetector, file: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    pictures = [
        random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for height, width in ((40, 70), (120, 60), (96, 160))
    ]
    raw = tmp_path / "raw.onnx"
    export_onnx(smoke, raw, raw=True)
    wanted = Predictor(smoke, threshold=0.5).predict(pictures)
    assert sum(map(len, wanted)) > 20
    for path in (file, raw):
        found = Predictor(OnnxDetector(path, "cpu"), threshold=0.5, batch_size=2).predict(pictures)
        for one, other in zip(wanted, found, strict=True):
            assert other.size_wh == one.size_wh
            assert_same_detections(other.detections, one.detections, depth_of(smoke.model))
            assert (sorted(other.names), sorted(other.category_ids)) == (
                sorted(one.names),
                sorted(one.category_ids),
            )


def test_a_file_names_classes_in_the_order_of_its_rows(
    smoke: LoadedDetector, tmp_path: Path
) -> None:
    """Ids that don't ascend: the metadata keep the order of the head's rows."""
    listed = [CATEGORIES[row] for row in (2, 0, 1)]
    exported = replace(smoke, categories=listed)
    export_onnx(exported, tmp_path / "rows.onnx")
    engine = OnnxDetector(tmp_path / "rows.onnx", "cpu")
    assert engine.categories == listed
    picture = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    expected, found = (
        next(iter(Predictor(item, threshold=0.3).predict([picture]))) for item in (exported, engine)
    )
    assert len(set(found.names)) > 1
    assert (found.names, found.category_ids) == (expected.names, expected.category_ids)
    assert list(found.names) == [
        listed[label]["name"] for label in found.detections.labels.tolist()
    ]
