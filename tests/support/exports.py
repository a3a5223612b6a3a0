"""Detectors to export, and detections that may differ in their order."""

from __future__ import annotations

from typing import Any

import torch

from deim_lab.config import override
from deim_lab.config.presets import preset
from deim_lab.detections import Detections
from deim_lab.detector.detector import build_detector
from deim_lab.weights.own import LoadedDetector
from numeric import assert_same_rows, float32_tolerance

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 17, "name": "Hündin"}, {"id": 90, "name": "cow"}]
SIZE = (96, 160)  # a rectangle, which squares would not tell from its transpose


def loaded_of(name: str, **more: Any) -> LoadedDetector:
    """A model whose every tensor matters, as if trained: random weights of unit gain, scores spread
    over (0, 1).
    """
    config = override(
        preset(name),
        {
            "data.input_size": list(SIZE),
            "augment.multiscale_repeat": None,
            "model.num_queries": 20,
            **more,
        },
    )
    model = build_detector(config, len(CATEGORIES)).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            last = key.rpartition(".")[2]
            if last in ("up", "reg_scale") or not value.is_floating_point():
                continue
            x = torch.randn(value.shape, generator=random)
            if last == "running_var":
                value.copy_(x.mul(0.2).exp())
            elif value.ndim >= 2:
                value.copy_(1.2 * x / value[0].numel() ** 0.5)
            else:
                value.copy_(1 + 0.1 * x if last in ("weight", "scale") else 0.1 * x)
    return LoadedDetector(model, config, CATEGORIES)


def assert_same_detections(found: Detections, expected: Detections, depth: int) -> None:
    """In any order, for scores may tie to rounding. A score is a sigmoid, its logit here at most 4:
    off by as much as that, over 4.
    """
    found_rows, expected_rows = (
        torch.cat([item.boxes_xyxy, item.scores[:, None], item.labels[:, None]], dim=1)
        for item in (found, expected)
    )
    assert_same_rows(found_rows, expected_rows, [0.05] * 4 + [float32_tolerance(depth), 1e-3])
