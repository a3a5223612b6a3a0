"""The weights that a run starts from: of a complete detector, of a backbone, or none.

``train`` gets one ``Start``, so that weights are read and hashed once per run. The ``Start`` serves
the run's identity, the record in ``run.json`` and the model.
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
    """Weights of a detector (as a path), weights of a backbone (in memory), or no weights."""

    detector: str | Path | None = None
    backbone: BackboneWeights | None = None

    @cached_property
    def identity(self) -> list[Json]:
        """The entry in a run's fingerprint: content hashes, never paths. Empty without weights."""
        if self.detector is not None:
            return [fingerprint_of(self.detector)]
        return [] if self.backbone is None else [{"backbone": self.backbone.sha256}]

    def record(self) -> dict[str, Json] | None:
        """The entry in ``run.json``; None without weights."""
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
            WeightsError: the weights are of another model or backbone, or can't be read.
        """
        if self.detector is not None:
            load_weights(model, self.detector, categories=categories)
        elif self.backbone is not None:
            load_backbone_weights(model, self.backbone)


def read_start(config: Config, weights: str | Path | None = None) -> Start:
    """Read the weights that a run of ``config`` with ``weights`` starts from.

    ``weights`` is a checkpoint of a complete detector.

    Raises:
        ConfigError: config and ``weights`` both name weights of a backbone; or as
            ``read_backbone_weights``.
        WeightsError: as ``read_backbone_weights``.
    """
    checks.one_start(config.model, weights)
    if weights is None:
        return Start(backbone=read_backbone_weights(config.model))
    return Start(detector=weights)


def start_of(config: Config, weights: str | Path | None) -> list[Json]:
    """The entry of a run's start weights in its identity.

    Weights of a complete detector include its backbone.
    """
    return (read_start(config) if weights is None else Start(detector=weights)).identity
