"""A detector as an ONNX file: written in deploy form, then run by onnxruntime and compared with
PyTorch before it gets its name.

The batch is free, height and width are fixed. ``orig_target_sizes [B, 2]`` (int64; width, height in
pixels) scales the boxes, so that labels, boxes (xyxy in pixels) and scores come out of the graph,
best first; a raw export ends before that, at logits and boxes.

PyTorch's exporter by tracing is used: it writes the opset that is asked for (the newer one writes
18 and can't go down for grid sampling), in a second where the newer one takes ten. What tracing
could get wrong, a size or a batch frozen into the graph, is what the comparison at two batch sizes
finds.
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

OPSET, LOWEST_OPSET, HIGHEST_OPSET = (
    17,
    17,
    20,
)  # grid sampling needs 16, layer norm as one operation 17; tracing ends at 20
BATCHES = (1, 4)  # at which the file is compared with PyTorch
SCORE_CUT = (
    0.3  # detections above it are compared; where there are none, the best TOP of each image
)
TOP = 10
# logits of anchors, or scores of detections, this close may change places between two runtimes
TIE = 2e-5
# Largest difference of a box (pixels) and a score. Half precision: docs/deploy.md says what was
# measured.
TOLERANCES = {"fp32": (0.05, 2e-3), "fp16": (2.0, 0.05)}

_PURPOSE = "Exporting to ONNX"

T = TypeVar("T")
Best = tuple[Tensor, Tensor, Tensor]  # scores, labels, boxes_xyxy, as ``predict.best`` gives them

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """How an exported file differed from PyTorch.

    Attributes:
        batches: images at a time, of each comparison.
        compared: detections compared, over all batches.
        score_cut: they scored above it; ``None``: nothing did, so the best ``TOP`` of each image
            were compared.
        box_error_px, score_error: the largest differences.
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
    """Write ``loaded`` as ONNX, compare the file with it, and only then give it its name: a file
    that differs is not left.

    Args:
        raw: logits ``[B, Q, C]`` and boxes_cxcywh ``[B, Q, 4]`` in [0, 1] as outputs, no
            ``orig_target_sizes``.
        size: height and width; None: those of the config.
        half: backbone and encoder in float16 (inputs and outputs stay float32). The decoder stays
            float32: half-precision positions would be off by up to half a pixel and more.
        pictures: files to compare on; without them patterns are made, on which a trained detector
            may find little.

    Raises:
        ExportError: the file computes something else than the model, or the exporter can't write
            it; names the difference.
        ConfigError: a size that the model can't take, an opset out of range, or onnx or onnxruntime
            not installed.
        DataError: a picture that can't be read.
    """
    path = Path(path)
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
    """Run both on ``probes [4, 3, H, W]``, one alone and all together, and match their detections.

    Rows are matched by label, box and score, not by rank: of scores that tie to rounding the order
    is nobody's. Scores are compared as sorted lists as well, so that a detection too many is found.
    An image on which the very choice of queries is such a tie may differ.

    Raises:
        ExportError: a difference beyond ``TOLERANCES``; says of which batch, image and detection.
    """
    name, info = name or str(exported.path), exported.info
    shapes = torch.tensor([[1.0, 1.0], [0.75, 1.25], [1.25, 0.5], [0.5, 0.75]])
    sizes_wh = (shapes * torch.tensor(info.input_size[::-1])).round().long()
    passes = [_both(model, exported, probes[-batch:], sizes_wh[-batch:], name) for batch in BATCHES]
    cut = SCORE_CUT if any(bool((wanted[0] > SCORE_CUT).any()) for wanted, _, _ in passes) else None
    count, worst_box, worst_score = 0, 0.0, 0.0
    for batch, (wanted, found, gaps) in zip(BATCHES, passes, strict=True):
        for index in range(batch):
            one, other = _of_image(wanted, index), _of_image(found, index)
            chosen = _chosen(one[0], cut)
            box_error, score_error = _differences(one, other, chosen)
            trouble = _trouble(box_error, score_error, info.precision)
            if trouble and gaps[index] < TIE:
                continue
            if trouble:
                raise ExportError(
                    f"{name} was not written: at batch {batch}, image {index}, {trouble}"
                )
            count, worst_box, worst_score = (
                count + int(chosen.sum()),
                max(worst_box, box_error),
                max(worst_score, score_error),
            )
    if not count:
        raise ExportError(
            f"{name} was not written, since it couldn't be compared with PyTorch: on every image "
            f"the model's choice of queries is a "
            "tie, as before any training; give pictures that it finds something in, or train it "
            "first"
        )
    return Comparison(BATCHES, count, cut, worst_box, worst_score)


def _check(path: Path, opset: int) -> None:
    """Raise where a file of this name and opset can't be written here."""
    for module in ("onnx", "onnxruntime"):
        require(module, extra="export", purpose=_PURPOSE)
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise ConfigError(f"opset {opset} is outside [{LOWEST_OPSET}, {HIGHEST_OPSET}]")
    if path.suffix != SUFFIX:
        raise ExportError(f"{path}: expected a name that ends in {SUFFIX}")


def _info(
    loaded: LoadedDetector, *, raw: bool, size: tuple[int, int] | None, half: bool
) -> OnnxInfo:
    """What the metadata of the exported file will say."""
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
    """What PyTorch and the file find, and how clear the model's choice of queries was
    (``_selection_gaps``).
    """
    top_k, batch = exported.info.top_k, len(probes)
    selection: list[Tensor] = []
    watch = model.decoder.enc_score_head.register_forward_hook(
        lambda _module, _given, logits: selection.append(logits)
    )
    with torch.no_grad():
        wanted = best(model(probes), sizes_wh, top_k=top_k)  # type: ignore[arg-type]
    watch.remove()
    try:
        outputs = exported.run(probes, sizes_wh)
    except Exception as error:  # onnxruntime's exceptions share no type of their own
        raise ExportError(
            f"{name} was not written: it doesn't run at batch {batch}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    raw = exported.info.outputs == "raw"
    found = (
        best(Prediction(*outputs), sizes_wh, top_k=top_k)
        if raw
        else (outputs[2], outputs[0], outputs[1])
    )
    if [item.shape for item in found] != [item.shape for item in wanted]:
        raise ExportError(
            f"{name} was not written: outputs of batch {batch} have the shapes "
            f"{[list(item.shape) for item in found]}, "
            f"expected {[list(item.shape) for item in wanted]}"
        )
    return wanted, found, _selection_gaps(selection[0], model.decoder.spec.num_queries)


def _selection_gaps(logits: Tensor, num_queries: int) -> list[float]:
    """Of anchors' logits ``[B, A, C]``: by how much the last selected anchor of each image is ahead
    of the first that isn't.
    """
    ranked = logits.amax(-1).sort(dim=1, descending=True).values
    if ranked.shape[1] == num_queries:
        return [float("inf")] * len(ranked)
    gaps: list[float] = (ranked[:, num_queries - 1] - ranked[:, num_queries]).tolist()
    return gaps


def _chosen(scores: Tensor, cut: float | None) -> Tensor:
    """Which of the sorted ``scores [K]`` are compared, ``[K]`` bool: not those at the list's end,
    where a tie decides who is in.
    """
    wanted = scores > cut if cut is not None else torch.arange(len(scores)) < TOP
    return wanted & (scores > scores[-1] + TIE)


def _differences(wanted: Best, found: Best, chosen: Tensor) -> tuple[float, float]:
    """Largest difference in pixels and in score of the ``chosen`` detections of one image; inf
    where one has no counterpart, else NaN.

    Args:
        wanted, found: scores ``[K]``, labels ``[K]``, boxes_xyxy ``[K, 4]``.
        chosen: ``[K]`` bool, of ``wanted``.
    """
    if not all(bool(item.isfinite().all()) for item in found):
        return float("nan"), float("nan")
    scores, labels, boxes_xyxy = (item[chosen].double() for item in wanted)
    score_error = float((wanted[0].sort().values - found[0].sort().values).abs().max())
    if not len(scores):
        return 0.0, score_error
    distance = (boxes_xyxy[:, None] - found[2].double()[None]).abs().amax(-1)
    gap = (scores[:, None] - found[0].double()[None]).abs()
    foreign = labels[:, None] != found[1][None]
    # The score, too, decides who is whose counterpart: two queries may give nearly one box.
    rows, columns = linear_sum_assignment((distance + 100 * gap).masked_fill(foreign, 1e9).numpy())
    if bool(foreign[rows, columns].any()):
        return float("inf"), score_error
    return float(distance[rows, columns].max()), max(score_error, float(gap[rows, columns].max()))


def _of_image(found: Best, index: int) -> Best:
    scores, labels, boxes_xyxy = found
    return scores[index], labels[index], boxes_xyxy[index]


def _trouble(box_error: float, score_error: float, precision: str) -> str:
    """What is wrong, in words; "" when nothing is."""
    box_limit, score_limit = TOLERANCES[precision]
    if math.isnan(box_error):
        return "its outputs are inf or NaN"
    if math.isinf(box_error):
        return "it lacks a detection that PyTorch has"
    if box_error > box_limit:
        return f"a box is {box_error:.3g} px off PyTorch's (allowed: {box_limit:g} px)"
    return (
        f"a score is {score_error:.3g} off PyTorch's (allowed: {score_limit:g})"
        if score_error > score_limit
        else ""
    )


class _Graph(nn.Module):
    """What is traced: a detector, with the trunk in half precision and post-processing as asked
    for.
    """

    def __init__(self, model: Detector, info: OnnxInfo) -> None:
        super().__init__()
        self.info = info
        self.backbone, self.encoder, self.decoder = model.backbone, model.encoder, model.decoder
        if info.precision == "fp16":
            twin = copy.deepcopy(model)  # the given model is what the file is compared with
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
    """Tables that enter the graph as constants. While tracing, sizes are tensors, no two of them
    alike: here they count as their numbers.
    """

    def get_or_make(self, key: Any, make: Callable[[], T]) -> T:
        return super().get_or_make(_numbers(key), make)


def _numbers(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_numbers(item) for item in key)
    return int(key) if isinstance(key, (Tensor, int)) else key


def _write(model: Detector, path: Path, info: OnnxInfo, opset: int) -> None:
    """Trace, add the metadata, and let ONNX's own checker read it."""
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
            for axis, length in list(enumerate(shape))[1:]:  # tracing leaves them without a number
                value.type.tensor_type.shape.dim[axis].dim_value = length
        onnx.save(content, str(path))
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # of the exporter's, the checker's and protobuf's own kinds
        raise ExportError(
            f"the model can't be written as ONNX with opset {opset}: "
            f"{' '.join(str(error).split())[:400]}"
        ) from error


def _probes(size: tuple[int, int], pictures: Sequence[str | Path]) -> Tensor:
    """``[4, 3, H, W]`` in [0, 1]: the pictures in turn, or patterns with coarse and fine structure
    and rectangles.
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
    """Tracing warns of every size that becomes a constant, which is meant, and that a newer
    exporter exists.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
