"""Export a detector as an ONNX file, and compare the file with PyTorch before saving it.

The detector is exported in deploy form and run by onnxruntime. The batch is free, height and width
are fixed. ``orig_target_sizes [B, 2]`` (int64; width, height in pixels) scales the boxes. The
outputs are labels, boxes (xyxy in pixels) and scores, best first. A raw export ends earlier, at
logits and boxes.

The export uses PyTorch's tracing exporter, because it writes the requested opset in about a second.
The newer exporter takes ten seconds, writes opset 18 and can't lower it for grid sampling. Tracing
could freeze a size or a batch into the graph; the comparison at two batch sizes finds such errors.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from deim_lab import config as configs
from deim_lab.data import images
from deim_lab.detections import best
from deim_lab.detector.detector import Detector
from deim_lab.detector.layers import TableCache
from deim_lab.errors import ConfigError, ExportError
from deim_lab.host import files
from deim_lab.host.files import user_path
from deim_lab.host.optional import require
from deim_lab.inference.onnx_file import (
    DETECTIONS,
    IMAGES,
    RAW,
    SIZES,
    SUFFIX,
    OnnxDetector,
    OnnxInfo,
)
from deim_lab.structures import Prediction
from deim_lab.weights.own import LoadedDetector

# Grid sampling needs opset 16, layer norm as one operation 17. The tracing exporter ends at 20.
OPSET, LOWEST_OPSET, HIGHEST_OPSET = 17, 17, 20
BATCHES = (1, 4)  # batch sizes at which the file is compared with PyTorch
SCORE_CUT = 0.3  # detections above it are compared; without any, the best TOP of each image
TOP = 10
# Logits of anchors, or scores of detections, with a smaller difference may change places between
# two runtimes.
TIE = 2e-5
# Largest allowed difference of a box (pixels) and of a score. Measurements for half precision are
# in docs/deploy.md.
TOLERANCES = {"fp32": (0.05, 2e-3), "fp16": (2.0, 0.05)}

_PURPOSE = "Exporting to ONNX"

T = TypeVar("T")
Best = tuple[Tensor, Tensor, Tensor]  # scores, labels, boxes_xyxy, as ``predict.best`` gives them

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """The differences between an exported file and PyTorch.

    Attributes:
        batches: batch size of each comparison.
        compared: number of compared detections, over all batches.
        score_cut: detections with scores above it were compared. None: no score is above it, so the
            best ``TOP`` of each image were compared.
        box_error_px, score_error: the largest differences of a box (pixels) and of a score.
    """

    batches: tuple[int, ...]
    compared: int
    score_cut: float | None
    box_error_px: float
    score_error: float

    def __str__(self) -> str:
        which = (
            f"with scores above {self.score_cut:g}"
            if self.score_cut is not None
            else f"(the best {TOP} of each image: none scores above {SCORE_CUT:g})"
        )
        return (
            f"{self.compared} detections {which} at batches "
            f"{' and '.join(map(str, self.batches))}: boxes within "
            f"{self.box_error_px:.2g} px of PyTorch's, scores within {self.score_error:.2g}"
        )


def export_onnx(
    loaded: LoadedDetector,
    path: str | Path,
    *,
    raw: bool = False,
    size: tuple[int, int] | None = None,
    opset: int = OPSET,
    half: bool = False,
    pictures: Sequence[str | Path] = (),
) -> Comparison:
    """Write ``loaded`` as ONNX and compare the file with the model; keep only an equal file.

    Args:
        raw: outputs are logits ``[B, Q, C]`` and boxes_cxcywh ``[B, Q, 4]`` in [0, 1]; there is no
            input ``orig_target_sizes``.
        size: height and width; None: those of the config.
        half: backbone and encoder in float16 (inputs and outputs stay float32). The decoder stays
            float32: half-precision positions would be off by half a pixel or more.
        pictures: picture files for the comparison. Without them, patterns are generated, on which
            a trained detector may find little.

    Raises:
        ExportError: the file's results differ from the model's, or the exporter can't write it.
            Names the difference.
        ConfigError: a size that the model can't use, an opset out of range, or onnx or onnxruntime
            is not installed.
        DataError: a picture that can't be read.
    """
    path = user_path(path)
    _check(path, opset)
    info = _info(loaded, raw=raw, size=size, half=half)
    model = (copy.deepcopy(loaded.model) if loaded.model.deployed else loaded.model.deploy()).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.writing_whole(path, suffix=SUFFIX) as temporary:
        _write(model, temporary, info, opset)
        result = compare(
            model,
            OnnxDetector(temporary, "cpu"),
            _probes(info.input_size, pictures),
            name=str(path),
        )
    _log.info("%s: %s", path, result)
    return result


def compare(
    model: Detector, exported: OnnxDetector, probes: Tensor, *, name: str = ""
) -> Comparison:
    """Compare the detections of model and file on ``probes [4, 3, H, W]``, at batch 1 and 4.

    Rows are matched by label, box and score, not by rank, because equal scores have no defined
    order. Scores are also compared as sorted lists, so that an extra detection is found. An image
    may differ if its query scores are so close that the choice of queries is not defined. Raises
    ``ExportError`` for a difference beyond ``TOLERANCES``, naming batch, image and difference.
    """
    name, info = name or str(exported.path), exported.info
    shapes = torch.tensor([[1.0, 1.0], [0.75, 1.25], [1.25, 0.5], [0.5, 0.75]])
    sizes_wh = (shapes * torch.tensor(info.input_size[::-1])).round().long()
    passes = [_both(model, exported, probes[-batch:], sizes_wh[-batch:], name) for batch in BATCHES]
    cut = (
        SCORE_CUT
        if any(bool((of_model[0] > SCORE_CUT).any()) for of_model, _, _ in passes)
        else None
    )
    count, worst_box, worst_score = 0, 0.0, 0.0
    for batch, (of_model, of_file, gaps) in zip(BATCHES, passes, strict=True):
        for index in range(batch):
            expected, actual = _of_image(of_model, index), _of_image(of_file, index)
            chosen = _chosen(expected[0], cut)
            box_error, score_error = _differences(expected, actual, chosen)
            problem = _problem(box_error, score_error, info.precision)
            if problem and gaps[index] < TIE:
                continue
            if problem:
                raise ExportError(
                    f"{name} was not written: at batch {batch}, image {index}, {problem}"
                )
            count, worst_box, worst_score = (
                count + int(chosen.sum()),
                max(worst_box, box_error),
                max(worst_score, score_error),
            )
    if not count:
        raise ExportError(
            f"{name} was not written, because it can't be compared with PyTorch. On every image, "
            f"selected and unselected queries have equal scores, as before any training. Train the "
            f"model first, or give pictures with objects"
        )
    return Comparison(BATCHES, count, cut, worst_box, worst_score)


def _check(path: Path, opset: int) -> None:
    """Raise an error if a file of this name and opset can't be written here."""
    for module in ("onnx", "onnxruntime"):
        require(module, extra="export", purpose=_PURPOSE)
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise ConfigError(f"opset {opset} is outside [{LOWEST_OPSET}, {HIGHEST_OPSET}]")
    if path.suffix != SUFFIX:
        raise ExportError(f"{path}: expected a file name that ends in {SUFFIX}")


def _info(
    loaded: LoadedDetector, *, raw: bool, size: tuple[int, int] | None, half: bool
) -> OnnxInfo:
    """The metadata for the exported file."""
    config = loaded.config
    if size is not None:
        config = configs.override(config, {"data.input_size": list(size)})
    return OnnxInfo(
        config.preset,
        loaded.categories,
        config.data.input_size,
        "raw" if raw else "detections",
        "fp16" if half else "fp32",
        config.eval.top_k,
    )


def _both(
    model: Detector, exported: OnnxDetector, probes: Tensor, sizes_wh: Tensor, name: str
) -> tuple[Best, Best, list[float]]:
    """Detections of PyTorch and of the file, and the ``_selection_gaps`` of the model."""
    top_k, batch = exported.info.top_k, len(probes)
    selection: list[Tensor] = []
    watch = model.decoder.enc_score_head.register_forward_hook(
        lambda _module, _inputs, logits: selection.append(logits)
    )
    with torch.no_grad():
        of_model = best(model(probes), sizes_wh, top_k=top_k)
    watch.remove()
    try:
        outputs = exported.run(probes, sizes_wh)
    except Exception as error:  # onnxruntime's exceptions have no common type
        raise ExportError(
            f"{name} was not written: it doesn't run at batch {batch}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    raw = exported.info.outputs == "raw"
    of_file = (
        best(Prediction(*outputs), sizes_wh, top_k=top_k)
        if raw
        else (outputs[2], outputs[0], outputs[1])
    )
    if [item.shape for item in of_file] != [item.shape for item in of_model]:
        raise ExportError(
            f"{name} was not written: outputs of batch {batch} have the shapes "
            f"{[list(item.shape) for item in of_file]}, "
            f"expected {[list(item.shape) for item in of_model]}"
        )
    return of_model, of_file, _selection_gaps(selection[0], model.decoder.spec.num_queries)


def _selection_gaps(logits: Tensor, num_queries: int) -> list[float]:
    """Gap between the last selected and the first unselected anchor of each image.

    ``logits`` are those of the anchors, ``[B, A, C]``. The gap is infinite if all are selected.
    """
    ranked = logits.amax(-1).sort(dim=1, descending=True).values
    if ranked.shape[1] == num_queries:
        return [float("inf")] * len(ranked)
    gaps: list[float] = (ranked[:, num_queries - 1] - ranked[:, num_queries]).tolist()
    return gaps


def _chosen(scores: Tensor, cut: float | None) -> Tensor:
    """Which of the sorted ``scores [K]`` are compared, ``[K]`` bool.

    Scores close to the last one are left out: rounding decides which of them are in the list.
    """
    good = scores > cut if cut is not None else torch.arange(len(scores)) < TOP
    return good & (scores > scores[-1] + TIE)


def _differences(expected: Best, actual: Best, chosen: Tensor) -> tuple[float, float]:
    """Largest difference in pixels and in score of the ``chosen`` detections of one image.

    The difference in pixels is inf if a detection has no counterpart. Both differences are NaN if
    an output is not finite.

    Args:
        expected, actual: scores ``[K]``, labels ``[K]``, boxes_xyxy ``[K, 4]``.
        chosen: ``[K]`` bool, over ``expected``.
    """
    if not all(bool(item.isfinite().all()) for item in actual):
        return float("nan"), float("nan")
    scores, labels, boxes_xyxy = (item[chosen].double() for item in expected)
    score_error = float((expected[0].sort().values - actual[0].sort().values).abs().max())
    if not len(scores):
        return 0.0, score_error
    distance = (boxes_xyxy[:, None] - actual[2].double()[None]).abs().amax(-1)
    gap = (scores[:, None] - actual[0].double()[None]).abs()
    foreign = labels[:, None] != actual[1][None]
    # The matching also uses the score, because two queries may give nearly the same box.
    rows, columns = linear_sum_assignment((distance + 100 * gap).masked_fill(foreign, 1e9).numpy())
    if bool(foreign[rows, columns].any()):
        return float("inf"), score_error
    return float(distance[rows, columns].max()), max(score_error, float(gap[rows, columns].max()))


def _of_image(detections: Best, index: int) -> Best:
    scores, labels, boxes_xyxy = detections
    return scores[index], labels[index], boxes_xyxy[index]


def _problem(box_error: float, score_error: float, precision: str) -> str:
    """Describe differences beyond the tolerance; "" within the tolerance."""
    box_limit, score_limit = TOLERANCES[precision]
    if math.isnan(box_error):
        return "the file's outputs are inf or NaN"
    if math.isinf(box_error):
        return "the file lacks a detection that PyTorch has"
    if box_error > box_limit:
        return f"a box is {box_error:.3g} px off PyTorch's (allowed: {box_limit:g} px)"
    return (
        f"a score is {score_error:.3g} off PyTorch's (allowed: {score_limit:g})"
        if score_error > score_limit
        else ""
    )


class _Graph(nn.Module):
    """The module that is traced: a detector with post-processing or half precision, if set."""

    def __init__(self, model: Detector, info: OnnxInfo) -> None:
        super().__init__()
        self.info = info
        self.backbone, self.encoder, self.decoder = model.backbone, model.encoder, model.decoder
        if info.precision == "fp16":
            twin = copy.deepcopy(model)  # the file is later compared with the unchanged model
            self.backbone, self.encoder = twin.backbone.half(), twin.encoder.half()
        for module in self.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, TableCache):
                    setattr(module, name, _Constants(value))

    def forward(self, images: Tensor, sizes_wh: Tensor | None = None) -> tuple[Tensor, ...]:
        half = self.info.precision == "fp16"
        maps = self.encoder(self.backbone(images.half() if half else images))
        prediction = self.decoder([item.float() for item in maps] if half else maps)
        if sizes_wh is None:
            return prediction.logits, prediction.boxes_cxcywh
        scores, labels, boxes_xyxy = best(prediction, sizes_wh, top_k=self.info.top_k)
        return labels, boxes_xyxy, scores


class _Constants(TableCache):
    """Tables that enter the graph as constants.

    During tracing, sizes are tensors that never compare equal. Their numbers serve as keys instead.
    """

    def get_or_make(self, key: Any, make: Callable[[], T]) -> T:
        return super().get_or_make(_numbers(key), make)


def _numbers(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_numbers(item) for item in key)
    return int(key) if isinstance(key, (Tensor, int)) else key


def _write(model: Detector, path: Path, info: OnnxInfo, opset: int) -> None:
    """Trace the model, add the metadata, and check the file with ONNX's checker."""
    onnx = require("onnx", extra="export", purpose=_PURPOSE)
    raw = info.outputs == "raw"
    inputs, outputs = ([IMAGES], RAW) if raw else ([IMAGES, SIZES], DETECTIONS)
    height, width = info.input_size
    examples: tuple[Tensor, ...] = (
        torch.rand(2, 3, height, width),
        torch.tensor([[width, height]] * 2),
    )
    graph = _Graph(model, info).eval()
    with torch.no_grad():  # this pass also makes the tables
        shapes = [list(item.shape) for item in graph(*examples[: len(inputs)])]
    try:
        with _quiet():
            torch.onnx.export(
                graph,
                examples[: len(inputs)],
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=inputs,
                output_names=list(outputs),
                dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            )
        content = onnx.load(str(path))
        onnx.helper.set_model_props(content, info.to_metadata())
        content.producer_name = "deim_lab"
        for value, shape in zip(content.graph.output, shapes, strict=True):
            for axis, length in list(enumerate(shape))[1:]:  # tracing doesn't write these numbers
                value.type.tensor_type.shape.dim[axis].dim_value = length
        onnx.save(content, str(path))
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # errors of the exporter, of the checker or of protobuf
        raise ExportError(
            f"the model can't be written as ONNX with opset {opset}: "
            f"{' '.join(str(error).split())[:400]}"
        ) from error


def _probes(size: tuple[int, int], pictures: Sequence[str | Path]) -> Tensor:
    """Images ``[4, 3, H, W]`` in [0, 1] for the comparison.

    The pictures are repeated as needed. Without pictures, the images are patterns with coarse and
    fine structure and rectangles.
    """
    if pictures:
        chosen = [images.decode(pictures[index % len(pictures)]) for index in range(max(BATCHES))]
        return (
            torch.stack([TF.resize(item, list(size), antialias=True) for item in chosen]).float()
            / 255
        )
    random = torch.Generator().manual_seed(0)
    layers = [
        F.interpolate(
            torch.rand(max(BATCHES), 3, cells, cells, generator=random),
            size,
            mode="bilinear",
            align_corners=False,
        )
        for cells in (3, 9, 27)
    ]
    result = 0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]
    height, width = size
    for image in result:
        for _ in range(5):
            top, left = (
                int(torch.randint(0, side // 2, (1,), generator=random)) for side in (height, width)
            )
            bottom, right = (
                low + int(torch.randint(8, side // 2, (1,), generator=random))
                for low, side in ((top, height), (left, width))
            )
            image[:, top:bottom, left:right] = torch.rand(3, 1, 1, generator=random)
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of tracing about intended constants and about a newer exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
