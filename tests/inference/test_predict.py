"""inference/predict.py: official post-processing, picture files of every kind, drawn boxes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from deim_lab.config import Config, override
from deim_lab.config.presets import preset
from deim_lab.data import loader
from deim_lab.data.coco import CocoDataset
from deim_lab.detections import Detections, postprocess, to_coco
from deim_lab.detector.detector import build_detector
from deim_lab.errors import DataError, NonFiniteError
from deim_lab.inference.predict import Predictor, TorchEngine, draw, expand
from deim_lab.structures import Prediction
from deim_lab.weights.own import LoadedDetector
from numeric import depth_of, float32_tolerance
from places import REFERENCE

pytestmark = pytest.mark.numeric

CATEGORIES: list[dict[str, Any]] = [
    {"id": 3, "name": "cat"},
    {"id": 17, "name": "dog"},
    {"id": 90, "name": "cow"},
]


@pytest.mark.parametrize(
    ("file", "names"),
    [
        (
            "unit_ops.npz",
            (
                "post.logits",
                "post.boxes_cxcywh",
                "post.orig_size_wh",
                "post.out_scores",
                "post.out_labels",
                "post.out_boxes",
            ),
        ),
        (
            "forward/deim_dfine_n_320.npz",
            (
                "pred_logits",
                "pred_boxes",
                "post_orig_size_wh",
                "post_scores",
                "post_labels",
                "post_boxes_xyxy",
            ),
        ),
    ],
)
def test_parity_with_the_official_postprocessor(file: str, names: tuple[str, ...]) -> None:
    archive = np.load(REFERENCE / file)
    logits, boxes, sizes, scores, labels, boxes_xyxy = (
        torch.from_numpy(archive[name]) for name in names
    )
    found = postprocess(Prediction(logits, boxes), sizes, top_k=scores.shape[1])
    assert len(found) == len(logits) == 2
    for index, item in enumerate(found):
        torch.testing.assert_close(item.scores, scores[index], rtol=0, atol=float32_tolerance(1))
        gap = scores[index][:-1] - scores[index][1:] > float32_tolerance(
            1
        )  # of scores that tie to rounding the order is nobody's
        clear = torch.ones(len(item), dtype=torch.bool)
        clear[1:] &= gap
        clear[:-1] &= gap
        assert clear.float().mean() > 0.8
        assert torch.equal(item.labels[clear], labels[index][clear].long())
        torch.testing.assert_close(
            item.boxes_xyxy[clear],
            boxes_xyxy[index][clear],
            rtol=0,
            atol=float32_tolerance(2) * float(sizes.max()),
        )


def test_one_query_may_appear_with_several_classes_and_top_k_is_a_limit() -> None:
    logits = torch.tensor([[[4.0, 3.0], [-5.0, -6.0]]])
    found = postprocess(
        Prediction(logits, torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]]])),
        torch.tensor([[200, 100]]),
        top_k=9,
    )[0]
    assert len(found) == 4
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert (
        found.boxes_xyxy[0].tolist()
        == found.boxes_xyxy[1].tolist()
        == pytest.approx([80, 30, 120, 70])
    )
    assert found.scores.tolist() == pytest.approx(
        torch.tensor([4.0, 3.0, -5.0, -6.0]).sigmoid().tolist()
    )
    assert len(found.above(0.5)) == 2
    assert (
        len(
            postprocess(
                Prediction(logits, torch.rand(1, 2, 4)), torch.tensor([[200, 100]]), top_k=1
            )[0]
        )
        == 1
    )


def test_coco_rows_have_the_data_sets_own_ids() -> None:
    found = Detections(
        torch.tensor([0.9, 0.123456789]),
        torch.tensor([2, 0]),
        torch.tensor([[1.0, 2.0, 11.0, 32.0], [0.0, 0.0, 0.12349, 4.0]]),
    )
    rows = to_coco(
        [found, Detections(torch.zeros(0), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))],
        [42, 43],
        CATEGORIES,
    )
    assert rows == [
        {
            "image_id": 42,
            "category_id": 90,
            "bbox": [1.0, 2.0, 10.0, 30.0],
            "score": pytest.approx(0.9),
        },
        {"image_id": 42, "category_id": 3, "bbox": [0.0, 0.0, 0.123, 4.0], "score": 0.1234568},
    ]
    json.dumps(rows)


class Centre(nn.Module):
    """Finds one box in the middle, of class 1, and a faint one; keeps what it was shown."""

    def forward(self, images: Tensor) -> Prediction:
        self.seen = images
        logits, boxes = torch.full((len(images), 4, 3), -20.0), torch.rand(len(images), 4, 4)
        logits[:, 2, 1], logits[:, 0, 0] = 4.0, -2.0
        boxes[:, 2] = torch.tensor([0.5, 0.5, 0.5, 0.25])
        return Prediction(logits, boxes)


CONFIG = override(preset("smoke"), {"data.input_size": [64, 96], "data.workers": 0})


def predictor(config: Config = CONFIG, **options: Any) -> Predictor:
    model: Any = Centre()
    return Predictor(LoadedDetector(model, config, CATEGORIES), **options)


def model_of(own: Predictor) -> Any:
    assert isinstance(own.engine, TorchEngine)
    return own.engine.model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture of every kind, and a broken one."""
    path = tmp_path / "pictures"
    path.mkdir()
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    colour.save(path / "a_colour.jpg")
    (path / "b_broken.jpg").write_bytes((path / "a_colour.jpg").read_bytes()[:200])
    colour.convert("L").save(path / "c_grey.png")
    colour.convert("RGBA").save(path / "d_alpha.png")
    Image.fromarray(random.integers(0, 65536, (40, 60), dtype=np.uint16)).save(
        path / "e_sixteen.png"
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(path / "f_turned.JPG", format="JPEG", exif=exif)
    (path / "notes.txt").write_text("no picture", encoding="utf-8")
    return path


def test_a_folder_with_a_broken_file_gives_the_others_and_one_named_error(folder: Path) -> None:
    result = predictor(threshold=0.4, batch_size=2).predict(folder)
    assert [item.path.name for item in result if item.path] == [
        "a_colour.jpg",
        "c_grey.png",
        "d_alpha.png",
        "e_sixteen.png",
        "f_turned.JPG",
    ]
    assert [item.image_id for item in result] == [1, 3, 4, 5, 6]
    assert list(result.errors) == [str(folder / "b_broken.jpg")]
    assert "b_broken.jpg" in result.errors[str(folder / "b_broken.jpg")]
    assert [item.size_wh for item in result] == [(60, 40)] * 4 + [(40, 60)]
    for item in result:
        assert (len(item), item.category_ids, item.names) == (1, (17,), ("dog",))
        width, height = item.size_wh
        assert item.detections.boxes_xyxy[0].tolist() == pytest.approx(
            [0.25 * width, 0.375 * height, 0.75 * width, 0.625 * height]
        )
    rows = result.to_coco()
    assert [row["image_id"] for row in rows] == [1, 3, 4, 5, 6]
    assert rows[-1] == {
        "image_id": 6,
        "category_id": 17,
        "bbox": [10.0, 22.5, 20.0, 15.0],
        "score": pytest.approx(0.982, abs=1e-3),
        "file_name": str(folder / "f_turned.JPG"),
    }


def test_files_globs_folders_and_arrays(folder: Path) -> None:
    one = folder / "c_grey.png"
    array = np.zeros((20, 30, 3), np.uint8)
    assert len(predictor().predict(one)) == len(predictor().predict(str(one))) == 1
    assert len(predictor().predict(str(folder / "*.png"))) == 3
    assert len(predictor().predict([one, folder, str(folder / "?_alpha.png")])) == 1 + 5 + 1
    for pixels in (array, torch.from_numpy(array).permute(2, 0, 1), [array]):
        found = predictor().predict(pixels)
        assert found.images[0].size_wh == (30, 20)
        assert found.images[0].path is None
    assert found.to_coco()[0]["file_name"] is None
    absent = predictor().predict([folder / "absent.png", one])
    assert len(absent) == 1
    assert "absent.png does not exist" in absent.errors[str(folder / "absent.png")]
    odd = folder / "x[1].png"  # a name that looks like a glob, and exists
    odd.write_bytes(one.read_bytes())
    assert expand(str(odd)) == [odd]


def test_bad_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "holds no picture"),
        (str(tmp_path / "*.png"), "no file matches"),
        ([], "no picture was given"),
        (np.zeros((4, 4, 3), np.float32), "float32 of shape"),
        (np.zeros((4, 4), np.uint8), r"shape \[4, 4\]"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"shape \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
    ):
        with pytest.raises(DataError, match=message):
            predictor().predict(source)
    with pytest.raises(ValueError, match=r"threshold 1\.5"):
        predictor(threshold=1.5)


def test_the_network_is_shown_what_evaluation_shows_it(folder: Path, tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a_colour.jpg", "width": 60, "height": 40}],
        "categories": CATEGORIES,
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(content), encoding="utf-8")
    config = override(
        CONFIG, {"data.input_size": 32, "model.num_queries": 20}
    )  # smaller than the picture: antialiasing tells
    batch = next(iter(loader.eval_batches(CocoDataset.load(folder, tmp_path / "gt.json"), config)))
    own = predictor(config)
    own.predict(folder / "a_colour.jpg")
    assert model_of(own).seen.shape == (1, 3, 32, 32)
    assert torch.equal(model_of(own).seen, batch.images)


def test_a_real_detector_predicts_the_same_alone_and_in_a_batch(folder: Path) -> None:
    torch.manual_seed(0)
    loaded = LoadedDetector(build_detector("smoke", 3).eval(), preset("smoke"), CATEGORIES)
    together = Predictor(loaded, batch_size=8).predict(folder)
    for item in together:
        assert item.path is not None
        alone = Predictor(loaded).predict(item.path).images[0]
        assert len(item) == 30 * 3
        torch.testing.assert_close(
            item.detections.scores,
            alone.detections.scores,
            rtol=0,
            atol=float32_tolerance(depth_of(loaded.model)),
        )
        assert item.detections.boxes_xyxy.isfinite().all()


def test_what_is_not_finite_is_named(folder: Path) -> None:
    own = predictor()
    model_of(own).forward = lambda images: Prediction(
        torch.full((len(images), 4, 3), math.nan), torch.rand(len(images), 4, 4)
    )
    with pytest.raises(NonFiniteError, match="logits are inf or NaN for images"):
        own.predict(folder / "c_grey.png")


def test_boxes_are_drawn_where_they_are_and_the_input_is_left(folder: Path) -> None:
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    found = Detections(
        torch.tensor([0.9, 0.5]),
        torch.tensor([1, 0]),
        torch.tensor([[50.0, 60.0, 250.0, 180.0], [-20.0, -10.0, 400.0, 300.0]]),
    )  # one beyond the picture
    drawn = np.asarray(draw(image, found, [item["name"] for item in CATEGORIES]))
    assert drawn.shape == (200, 300, 3)
    assert drawn[120, 50].any()
    assert drawn[120, 250].any()
    assert drawn[180, 150].any()
    assert not drawn[120, 150].any()  # boxes are outlines
    assert drawn[50:59, 52:80].any()  # the label stands above its box
    assert not image.any()
    nothing = Detections(torch.zeros(0), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))
    assert not np.asarray(draw(image, nothing, [])).any()
    assert draw(
        Image.new("L", (8, 8)), found, ["名前", "très long, plus long que l'image"]
    ).size == (8, 8)
