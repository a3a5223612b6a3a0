"""A small detector whose matching is looked at, and views made by hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from deim_lab.config import MatchConfig
from deim_lab.config.presets import preset
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.structures import Matches, Targets
from deim_lab.study.matching import View

CONFIG = preset("smoke", {"data.input_size": 64, "model.num_queries": 20})


def model_of(kind: str = "hungarian", seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return build_detector(replace(CONFIG, match=MatchConfig(kind=kind)), 6)


def view_of(names: list[int], pairs: list[tuple[int, int]]) -> View:
    """One image, one level; ``pairs`` of (query, target); ``names`` who each query is."""
    query, target = torch.tensor(pairs).T
    zero = torch.zeros_like(query)
    boxes = torch.full((1, 1, len(names), 4), 0.5)
    targets = Targets.from_lists([boxes[0, 0, :3]], [torch.zeros(3, dtype=torch.int64)])
    return View(
        ("layer_0",),
        {},
        Matches(zero, query, target, zero),
        torch.ones(len(pairs)),
        boxes,
        torch.zeros(1, 1, len(names), 2),
        torch.tensor([names]),
        targets,
    )
