"""Score a detector on a data set: detections, COCO's metrics and F1 over thresholds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from deim_lab.config import Config
from deim_lab.config.entries import VALIDATION
from deim_lab.data import loader
from deim_lab.data.coco import CocoDataset
from deim_lab.detections import check_finite, postprocess, to_coco
from deim_lab.errors import ConfigError
from deim_lab.evaluation.backends import Json, resolve_backend
from deim_lab.evaluation.scores import (
    Scores,
    read_detections,
    score_checked,
    truth_of,
)
from deim_lab.evaluation.thresholds import F1Curve, f1_curve


@dataclass(frozen=True)
class Evaluation:
    """The scores of a detector on a data set.

    Attributes:
        metrics: COCO's 12 metrics.
        detections: COCO result rows, with the image and category ids of the data set.
        scores: the arrays from which the metrics are computed (``scores.per_class()``).
        f1: F1 over thresholds.
        backend: name of the evaluator.
        images: number of scored images.
        seconds: total time without further metrics; ``inference_seconds``: the part up to the last
            detection.
        further: the metrics that were added to ``VALIDATION``; NaN if undefined.
    """

    metrics: dict[str, float]
    detections: list[dict[str, Json]]
    scores: Scores
    f1: F1Curve
    backend: str
    images: int
    seconds: float
    inference_seconds: float
    further: dict[str, float] = field(default_factory=dict)


def evaluate(
    model: nn.Module,
    dataset: CocoDataset,
    config: Config,
    *,
    device: torch.device | str | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Score ``model`` (usually the EMA's) on ``dataset`` in float32.

    On CUDA, torch lets convolutions use TF32. The model's train or eval mode is restored
    afterwards.

    Args:
        model: a detector whose class indices are ``dataset.categories``.
        config: ``config.data`` sets the input size and batch size, ``config.eval`` the ``top_k``
            and the backend.
        device: device of the model; None: that of its first parameter.
        limit: score only the first ``limit`` images.

    Raises:
        NonFiniteError: logits or boxes that are inf or NaN. Names the images.
    """
    started = time.perf_counter()
    place = torch.device(device) if device is not None else next(model.parameters()).device
    rows: list[dict[str, Json]] = []
    image_ids: list[int] = []
    with _eval_mode(model), torch.no_grad():
        for batch in loader.eval_batches(
            dataset, config, limit=limit, pin_memory=place.type == "cuda"
        ):
            prediction = model(batch.images.to(place, non_blocking=True))
            check_finite(prediction, batch.image_ids)
            detections = postprocess(prediction, batch.sizes_wh.to(place), top_k=config.eval.top_k)
            rows += to_coco(detections, batch.image_ids, dataset.categories.as_list())
            image_ids += batch.image_ids
    inference_seconds = time.perf_counter() - started
    truth = truth_of(dataset.annotations, image_ids, dataset.categories)
    checked = read_detections(rows, truth)
    backend = resolve_backend(config.eval.backend)
    scores = score_checked(truth, checked, backend)
    evaluation = Evaluation(
        metrics=scores.metrics(),
        detections=rows,
        scores=scores,
        f1=f1_curve(truth, checked, backend),
        backend=backend,
        images=len(image_ids),
        seconds=time.perf_counter() - started,
        inference_seconds=inference_seconds,
    )
    return replace(evaluation, further=_further(evaluation, dataset))


def _further(evaluation: Evaluation, dataset: CocoDataset) -> dict[str, float]:
    """Compute the metrics that were added to ``VALIDATION``, if their code is loaded."""
    values = {}
    for name, entry in VALIDATION.items():
        if not VALIDATION.is_added(name) or entry.function is None:
            continue
        value = entry.function(evaluation, dataset)
        if not isinstance(value, (int, float)):
            raise ConfigError(
                f"evaluation.VALIDATION[{name!r}] returned {value!r} ({type(value).__name__}). "
                f"Expected a float."
            )
        values[name] = float(value)
    return values


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode, and restore the mode of each module at the end.

    Modes can differ: a frozen norm stays in eval mode during training.
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
