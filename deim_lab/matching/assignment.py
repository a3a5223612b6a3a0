"""Match queries to targets at every level, unite the matches, and count the loss divisors.

``match.kind`` selects the assignment. ``hungarian`` gives each target one query in each query
group. ``simota`` gives each target all queries that fit it well. More positives must not increase
the loss, so the kind also selects the divisor of the summed losses. ``KINDS`` holds both by name.
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
        output: output of the detector, or only the levels of its matching queries. Denoising
            queries come with their matches.
        targets: targets of the batch, on the output's device.
        match: kind and costs.
        late: use the cost of ``match.iou_power`` if it is given (not with SimOTA, which has its own
            cost). ``Schedule.matches_late`` decides when.

    Returns:
        Matches on the CPU with a level axis, ordered by level, image, query. Needs one
        device-to-host copy.

    Raises:
        ConfigError: the number of query groups differs from ``match.kind``, or your own kind did
            not return valid matches.
    """
    decoder = output.matching if isinstance(output, DetectorOutput) else output
    if decoder.groups != match.groups:
        raise ConfigError(
            f"match.kind {match.kind!r} needs {match.groups} query groups, but the detector's "
            f"output has {decoder.groups}. Build the detector from the same config."
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
    """Hungarian matching, for each query group separately."""
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
    """SimOTA matching with the settings of the config."""
    return simota.simota(
        logits,
        boxes_cxcywh,
        targets,
        candidates=match.simota_candidates,
        radius=match.simota_radius,
        iou_weight=match.simota_iou_weight,
    )


KINDS.attach({"hungarian": _one_to_one, "groups": _one_to_one, "simota": _simota})


def _check(matches: object, logits: Tensor, targets: Targets, kind: str) -> None:
    """Raise ``ConfigError`` unless an added kind of matching returned valid matches."""
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
                f"{index.dtype} {list(index.shape)} on {index.device}."
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < limit:
            raise ConfigError(
                f"match.kind {kind!r}: Matches.{name} is outside [0, {limit}). "
                f"Its values are {int(index.min())} to {int(index.max())}."
            )
    place = (matches.level * num_images + matches.image) * num_queries + matches.query
    if not bool((place[1:] > place[:-1]).all()):
        raise ConfigError(
            f"match.kind {kind!r}: matches must be ordered by level, image and query. "
            f"A query has at most one target."
        )
    owner = targets.image_index.cpu()[matches.target]
    if not torch.equal(owner, matches.image):
        raise ConfigError(f"match.kind {kind!r} matched a query to a target of another image.")


def union(matches: Matches) -> Matches:
    """Merge the matches of all levels into one per query.

    This is the global optimal set of GO-LSD (D-FINE). Identical (query, target) pairs are counted
    over the levels. A query keeps its most frequent target, or the first of equally frequent
    targets. A target may have several queries. The result is ordered by image and query, without a
    level axis, on the CPU.
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
    """Divisors of the summed losses: one number for all levels, or one per level (``[K]``).

    Attributes:
        class_terms: targets × query groups; with SimOTA the pairs of each level, as in YOLOX.
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
        """Average the counts over the ranks of a run; each divisor is at least 1.

        Args:
            match: its kind decides whether targets or pairs are counted.
            num_targets: targets of the batch, or the mean over the batches of a step.
            pairs_by_level: number of pairs of each level.
            pairs_of_union: number of pairs in the union; None: boxes learn from the pairs of each
                level.
            device: device of the numbers, if they are tensors.
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
        """``box_terms`` of the decoder layers only, which are the last levels."""
        if isinstance(self.box_terms, Tensor) and self.box_terms.ndim:
            return self.box_terms[-num_layers:]
        return self.box_terms

    def of_denoising(self, groups: int) -> Divisors:
        """Divisors for denoising queries: each target has one query in each of ``groups``."""
        queries = self.targets * groups
        return Divisors(queries, queries, self.targets)


def _mean_over_ranks(values: list[float], device: torch.device) -> list[float] | list[Tensor]:
    """Average each value over the ranks of a distributed run; at least 1."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [max(value, 1.0) for value in values]
    reduced = torch.tensor(values, dtype=torch.float32, device=device)
    torch.distributed.all_reduce(reduced)
    return list((reduced / torch.distributed.get_world_size()).clamp(min=1.0))
