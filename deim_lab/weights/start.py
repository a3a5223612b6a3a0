"""What a run starts from: a whole detector's weights, a backbone's, or nothing.

``train`` is handed one ``Start``, so that weights are read and hashed once a run: for its identity,
for ``run.json`` and to fill the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deim_lab.config import Config, checks
from deim_lab.detector.detector import Detector
from deim_lab.weights.backbone import (
    BackboneWeights,
    load_backbone_weights,
    read_backbone_weights,
)
from deim_lab.weights.classes import Category
from deim_lab.weights.own import fingerprint_of, load_weights

Json = Any


@dataclass(frozen=True)
class Start:
    """Weights of a detector (by their path), of a backbone (in memory), or neither."""

    detector: str | Path | None = None
    backbone: BackboneWeights | None = None

    @cached_property
    def identity(self) -> list[Json]:
        """As the fingerprint of a run holds it: by content, never by path. Empty: from nothing."""
        if self.detector is not None:
            return [fingerprint_of(self.detector)]
        return [] if self.backbone is None else [{"backbone": self.backbone.sha256}]

    def record(self) -> dict[str, Json] | None:
        """The entry of ``run.json``."""
        if self.detector is not None:
            return {"path": str(self.detector), "sha256": self.identity[0]}
        if self.backbone is None:
            return None
        return {
            "path": self.backbone.source,
            "sha256": self.backbone.sha256,
            "part": "backbone",
        }

    def fill(self, model: Detector, categories: Sequence[Category]) -> None:
        """Copy the weights into ``model``, whose classes are ``categories``.

        Raises:
            WeightsError: they are of another model or backbone, or can't be read.
        """
        if self.detector is not None:
            load_weights(model, self.detector, categories=categories)
        elif self.backbone is not None:
            load_backbone_weights(model, self.backbone)


def read_start(config: Config, weights: str | Path | None = None) -> Start:
    """Read what ``config`` with ``weights`` (a checkpoint of a whole detector) starts from.

    Raises:
        ConfigError: both name weights of a backbone, or as ``read_backbone_weights``.
        WeightsError: as ``read_backbone_weights``.
    """
    checks.one_start(config.model, weights)
    if weights is None:
        return Start(backbone=read_backbone_weights(config.model))
    return Start(detector=weights)


def start_of(config: Config, weights: str | Path | None) -> list[Json]:
    """What a run starts from, as its identity holds it. Weights of a whole detector bring its
    backbone.
    """
    return (read_start(config) if weights is None else Start(detector=weights)).identity
