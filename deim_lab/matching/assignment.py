"""Output and targets → Matches of every level; their union; what their losses are divided by.

``match.kind`` decides what assigns: ``hungarian`` gives each target one query (of each query
group), ``simota`` as many queries as fit it well. More positives must not mean a larger loss. So
the kind also decides what the sums of losses are divided by. ``KINDS`` has both, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from deim_lab.config import MatchConfig
from deim_lab.config.entries import KINDS
from deim_lab.errors import ConfigError
from deim_lab.matching import hungarian, simota
from deim_lab.structures import (
    DecoderOutput,
    DetectorOutput,
    Matches,
    Targets,
    at_least_float32,
)

Divisor = float | Tensor


def assign(
    output: DetectorOutput | DecoderOutput,
    targets: Targets,
    match: MatchConfig,
    *,
    late: bool = False,
) -> Matches:
    """Match every level by ``match.kind``. A query has at most one target.

    Args:
        output: of the detector, or the levels of its matching queries alone. Denoising queries
            bring their own matches.
        targets: of the batch, on the output's device.
        match: kind and costs.
        late: match by the cost of ``match.iou_power``, where it is given (SimOTA's cost is its
            own). ``Schedule.matches_late`` says when.

    Returns:
        Matches on the CPU with a level axis, ordered by level, image, query. One device-to-host
        copy in all.

    Raises:
        ConfigError: the queries are in another number of groups than ``match.kind`` says, or a
            kind of your own returned something else than matches.
    """
    decoder = output.matching if isinstance(output, DetectorOutput) else output
    if decoder.groups != match.groups:
        raise ConfigError(
            f"match.kind {match.kind!r} asks for {match.groups} query groups, and the detector's "
            f"output has {decoder.groups}: "
            "build the detector from the same config"
        )
    logits, boxes_cxcywh = at_least_float32(decoder.logits), at_least_float32(decoder.boxes_cxcywh)
    function = KINDS.callable(match.name)
    now = match if late else replace(match, iou_power=None)
    with torch.no_grad():
        matches: Matches = function(logits, boxes_cxcywh, targets, now)
    if KINDS.is_added(match.name):
        _check(matches, logits, targets, match.kind)
    return matches


def _one_to_one(
    logits: Tensor, boxes_cxcywh: Tensor, targets: Targets, match: MatchConfig
) -> Matches:
    """The Hungarian matching of each query group."""
    return hungarian.match(
        logits,
        boxes_cxcywh,
        targets,
        cost_class=match.cost_class,
        cost_l1=match.cost_l1,
        cost_giou=match.cost_giou,
        alpha=match.alpha,
        gamma=match.gamma,
        iou_power=match.iou_power,
        groups=match.groups,
    )


def _simota(logits: Tensor, boxes_cxcywh: Tensor, targets: Targets, match: MatchConfig) -> Matches:
    """SimOTA."""
    return simota.simota(
        logits,
        boxes_cxcywh,
        targets,
        candidates=match.simota_candidates,
        radius=match.simota_radius,
        iou_weight=match.simota_iou_weight,
    )


KINDS.attach({"hungarian": _one_to_one, "groups": _one_to_one, "simota": _simota})


def _check(matches: Matches, logits: Tensor, targets: Targets, kind: str) -> None:
    """Raise ``ConfigError`` unless an added kind of matching returned what the losses need."""
    if not isinstance(matches, Matches) or matches.level is None:
        raise ConfigError(
            f"match.kind {kind!r} returned {type(matches).__name__} without a level axis. "
            f"Expected Matches(image, query, target, level)."
        )
    num_levels, num_images, num_queries, _ = logits.shape
    limits = {
        "level": num_levels,
        "image": num_images,
        "query": num_queries,
        "target": len(targets),
    }
    for name, limit in limits.items():
        index: Tensor = getattr(matches, name)
        if index.device.type != "cpu" or index.dtype != torch.int64 or index.ndim != 1:
            raise ConfigError(
                f"match.kind {kind!r}: Matches.{name} must be int64 [M] on the CPU, not "
                f"{index.dtype} {list(index.shape)} on {index.device}"
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < limit:
            raise ConfigError(
                f"match.kind {kind!r}: Matches.{name} is outside [0, {limit}): "
                f"{int(index.min())} to {int(index.max())}"
            )
    place = (matches.level * num_images + matches.image) * num_queries + matches.query
    if not bool((place[1:] > place[:-1]).all()):
        raise ConfigError(
            f"match.kind {kind!r}: matches must be ordered by level, image and query, and a query "
            f"has at most one target"
        )
    owner = targets.image_index.cpu()[matches.target]
    if not torch.equal(owner, matches.image):
        raise ConfigError(f"match.kind {kind!r} matched a query to a target of another image")


def union(matches: Matches) -> Matches:
    """One match a query from those of all levels: the global optimal set of GO-LSD (D-FINE).

    Identical (query, target) pairs are counted over the levels; a query keeps its most frequent
    target, of equally frequent ones the first. A target may be matched by several queries. Ordered
    by image and query; no level axis; on the CPU.
    """
    image, query, target = (
        item.cpu().numpy() for item in (matches.image, matches.query, matches.target)
    )
    num_targets = int(target.max(initial=0)) + 1
    num_queries = int(query.max(initial=0)) + 1
    pair, count = np.unique(
        (image * num_queries + query) * num_targets + target, return_counts=True
    )
    slot = pair // num_targets
    order = np.lexsort((pair, -count, slot))
    slot, pair = slot[order], pair[order]
    first = np.ones(len(slot), dtype=bool)
    first[1:] = slot[1:] != slot[:-1]
    slot, pair = slot[first], pair[first]
    return Matches(
        *(
            torch.from_numpy(item)
            for item in (slot // num_queries, slot % num_queries, pair % num_targets)
        )
    )


@dataclass(frozen=True)
class Divisors:
    """What each sum of losses is divided by: one number for all levels, or one a level (``[K]``).

    Attributes:
        class_terms: targets × query groups; with SimOTA each level's own pairs, as in YOLOX.
        box_terms: pairs of the union; without a union the same as ``class_terms``.
        targets: number of targets.
    """

    class_terms: Divisor
    box_terms: Divisor
    targets: Divisor

    @classmethod
    def count(
        cls,
        match: MatchConfig,
        *,
        num_targets: float,
        pairs_by_level: Sequence[int],
        pairs_of_union: int | None,
        device: torch.device,
    ) -> Divisors:
        """Means over the ranks of a run, each at least 1.

        Args:
            match: its kind says whether targets or pairs are counted.
            num_targets: of the batch, or the mean over the batches of a step.
            pairs_by_level: number of own pairs of each level.
            pairs_of_union: number of pairs in the union; None: boxes learn from own pairs.
            device: of the numbers, where they are tensors.
        """
        targets, union_pairs, *level_pairs = _mean_over_ranks(
            [num_targets, pairs_of_union or 0, *pairs_by_level], device
        )
        class_terms: Divisor = targets * match.groups
        if KINDS[match.name].divided_by == "pairs":
            counts = [torch.as_tensor(pairs, device=device) for pairs in level_pairs]
            class_terms = torch.stack(counts)
        box_terms = class_terms if pairs_of_union is None else union_pairs
        return cls(class_terms, box_terms, targets)

    def edge_terms(self, num_layers: int) -> Divisor:
        """As ``box_terms``, of the decoder layers alone, which are the last levels."""
        if isinstance(self.box_terms, Tensor) and self.box_terms.ndim:
            return self.box_terms[-num_layers:]
        return self.box_terms

    def of_denoising(self, groups: int) -> Divisors:
        """Of the denoising queries: every target has one query in each of ``groups`` groups."""
        queries = self.targets * groups
        return Divisors(queries, queries, self.targets)


def _mean_over_ranks(values: list[float], device: torch.device) -> list[float] | list[Tensor]:
    """Each value averaged over the ranks of a distributed run, and at least 1."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [max(value, 1.0) for value in values]
    reduced = torch.tensor(values, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(reduced)
    return list((reduced / torch.distributed.get_world_size()).clamp(min=1.0))
