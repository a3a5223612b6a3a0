"""Compute all losses of a batch: terms × matches × weights → LossTable.

Three steps, each for all levels at once: gather the matched pairs and their IoU, score them with
the pure functions of ``terms``, weigh and normalise. Classification learns from the matches of each
level. With ``go_union``, boxes and edges learn from the union of the matches of all levels (GO-LSD
of D-FINE). Denoising queries come with their matches.

A one-to-many comparator (``match.kind``) changes the assignment only. The union still works,
because it needs one target per query, not one query per target. ``loss.go_union=false`` trains
boxes on the pairs of each level. ``matching.Divisors`` holds the divisor of each sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deim_lab.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from deim_lab.config import LossConfig, MatchConfig
from deim_lab.config.entries import CLASSIFICATION
from deim_lab.detector.edges import bin_distances, boxes_to_bins
from deim_lab.errors import ConfigError
from deim_lab.losses import terms
from deim_lab.matching.assignment import Divisors, union
from deim_lab.structures import DecoderOutput, DetectorOutput, Matches, Targets, at_least_float32


@dataclass(frozen=True)
class LossTable:
    """Losses of a batch by term and level, weighted and normalised, with matching statistics.

    Attributes:
        terms: term → ``[levels of the term]``. ``class``, ``l1`` and ``giou`` have every level,
            ``fgl`` the decoder layers. ``ddf`` has all decoder layers except the last, which
            teaches. ``dn_*`` are the terms of the denoising queries, if there were any.
        levels: term → names of its levels, coarse to fine (``encoder``, ``pre``, ``layer_0`` …).
        total: scalar sum of all terms, with gradient.
        matches: the matches of each level, with level axis, on the device of the output.
        matched_iou: ``[M]`` IoU of the pairs of the last level, detached.
        positives_per_image: matched queries of the last level (all groups) / images.
        unmatched_targets: targets of the batch without a query in the last level. An image may have
            more targets than queries. With SimOTA, all queries of a target may fit another target
            better.
    """

    terms: dict[str, Tensor]
    levels: dict[str, tuple[str, ...]]
    total: Float[Tensor, ""]
    matches: Matches
    matched_iou: Float[Tensor, " M"]
    positives_per_image: float
    unmatched_targets: int

    def as_dict(self) -> dict[str, float]:
        """Losses as Python floats: ``{"class/layer_2": 0.81, …, "total": 24.1}``.

        Makes one device-to-host copy.
        """
        values = torch.cat([*self.terms.values(), self.total.reshape(1)]).detach().tolist()
        return dict(
            zip(
                [
                    *(f"{term}/{level}" for term in self.terms for level in self.levels[term]),
                    "total",
                ],
                values,
                strict=True,
            )
        )

    def official_names(self, classification: str) -> dict[str, str]:
        """Names in the official code → names here, e.g. ``loss_mal_aux_0`` → ``class/layer_0``."""
        last = self.levels["class"][-1]
        by_official_name: dict[str, str] = {}
        for term in self.terms:
            base = {"class": classification, "l1": "bbox"}.get(
                term.removeprefix("dn_"), term.removeprefix("dn_")
            )
            for level in self.levels[term]:
                suffix = {"encoder": "_enc_0", "pre": "_pre"}.get(
                    level, level.replace("layer", "_aux")
                )
                if term.startswith("dn_"):
                    suffix = "_dn" + suffix.replace("_aux", "")
                elif level == last:
                    suffix = ""
                by_official_name[f"loss_{base}{suffix}"] = f"{term}/{level}"
        return by_official_name


@dataclass(frozen=True)
class _Pairs:
    """Matched pairs of all ``K`` levels, ordered by level.

    Index tensors ``[P]`` on the device, and counts on the host.
    """

    level: Int64[Tensor, " P"]
    image: Int64[Tensor, " P"]
    query: Int64[Tensor, " P"]
    target: Int64[Tensor, " P"]
    by_level: tuple[int, ...]  # number of pairs of each level
    num_layers: int  # number of decoder layers: the last levels, with edge distributions

    @property
    def before_layers(self) -> int:
        """Number of pairs of levels without edge distributions, which come first."""
        return sum(self.by_level[: len(self.by_level) - self.num_layers])

    @property
    def in_last(self) -> int:
        """Number of pairs of the last level, which come last."""
        return self.by_level[-1]

    def __len__(self) -> int:
        return int(self.level.shape[0])


def compute(
    output: DetectorOutput,
    targets: Targets,
    matches: Matches,
    *,
    loss: LossConfig,
    match: MatchConfig,
    num_targets: float | None = None,
) -> LossTable:
    """Compute all losses of one batch, in float32 despite autocast (float64 stays).

    A batch without targets gives the same terms, all finite. Matching outputs stay in the graph.

    Args:
        output: output of the detector in training mode.
        targets: targets of the batch, on the output's device, checked (``Targets.check``).
        matches: matches of every level (``matching.assign``).
        loss: terms and weights.
        match: the config that made ``matches``. Its kind selects the divisors of the sums.
        num_targets: normaliser of this rank instead of ``len(targets)``: with accumulation, the
            mean over the batches of a step. Numbers of pairs (union, SimOTA) and the shares of DDF
            come from one batch; their totals are known only after the last forward of a step.
    """
    device = output.matching.logits.device
    with torch.autocast(device.type, enabled=False):
        decoder = _single(output.matching)
        level_pairs = pairs = _pairs_by_level(matches, decoder, device)
        if loss.go_union:
            pairs = _pairs_of_all_levels(union(matches), decoder, device)
        divisors = Divisors.count(
            match,
            num_targets=len(targets) if num_targets is None else num_targets,
            pairs_by_level=level_pairs.by_level,
            pairs_of_union=pairs.in_last if loss.go_union else None,
            device=device,
        )
        shares = _ddf_shares(decoder, pairs)
        scorer = _Scorer(targets, loss, _bins(output), output.reg_scale, shares)
        weighted, level_iou = scorer.score(decoder, level_pairs, pairs, divisors)
        names = _level_names(weighted, decoder)
        dn_terms, dn_names = scorer.score_denoising(output, divisors, device)
        weighted, names = weighted | dn_terms, names | dn_names
    last = len(matches) - level_pairs.in_last  # the first pair of the last level
    return LossTable(
        terms=weighted,
        levels=names,
        total=torch.cat(list(weighted.values())).sum(),
        matches=Matches(
            level_pairs.image, level_pairs.query, level_pairs.target, level_pairs.level
        ),
        matched_iou=level_iou[last:],
        positives_per_image=level_pairs.in_last / max(targets.batch_size, 1),
        unmatched_targets=len(targets) - len(matches.target[last:].unique()),
    )


@dataclass(frozen=True)
class _Scorer:
    """Targets, weights and edge bins, which matching and denoising queries share."""

    targets: Targets
    loss: LossConfig
    bins: Tensor | None  # W(n) of the edge distributions
    reg_scale: Tensor | None
    ddf_shares: tuple[
        float, float
    ]  # of matched and unmatched queries; denoising queries use the shares of matching queries

    def score(
        self,
        decoder: DecoderOutput,
        level_pairs: _Pairs,
        pairs: _Pairs,
        divisors: Divisors,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted terms of one set of queries, and the IoU of its ``level_pairs``.

        The class terms learn from ``level_pairs``, the box and edge terms from ``pairs``.
        """
        weights, num_levels = self.loss, len(decoder.levels)
        all_targets_cxcywh = self.targets.boxes_cxcywh.to(decoder.boxes_cxcywh.dtype)
        all_targets_xyxy = cxcywh_to_xyxy(all_targets_cxcywh)
        predicted = decoder.boxes_cxcywh[pairs.level, pairs.image, pairs.query]
        predicted_xyxy, target_xyxy = cxcywh_to_xyxy(predicted), all_targets_xyxy[pairs.target]
        iou, overlap = paired_iou_and_giou(predicted_xyxy.detach(), target_xyxy)
        level_iou, level_overlap = iou, overlap
        if level_pairs is not pairs:
            boxes = decoder.boxes_cxcywh.detach()[
                level_pairs.level, level_pairs.image, level_pairs.query
            ]
            level_iou, level_overlap = paired_iou_and_giou(
                cxcywh_to_xyxy(boxes), all_targets_xyxy[level_pairs.target]
            )

        quality = level_iou
        l1, giou = (
            terms.l1(predicted, all_targets_cxcywh[pairs.target]),
            terms.giou(predicted_xyxy, target_xyxy),
        )
        if weights.giou_weighting == "iou":
            giou = giou * iou
        elif weights.giou_weighting == "giou":
            # As in the official code, GIoU then also replaces IoU as the quality of a match. Few
            # class terms accept a quality below 0.
            giou, quality = (
                giou * overlap,
                level_overlap if weights.term.signed_quality else level_overlap.clamp(min=0),
            )
        weighted = {
            "class": self._classify(decoder, level_pairs, quality)
            * (weights.weight_class / divisors.class_terms),
            "l1": _sum_by_level(l1, pairs.level, num_levels)
            * (weights.weight_l1 / divisors.box_terms),
            "giou": _sum_by_level(giou, pairs.level, num_levels)
            * (weights.weight_giou / divisors.box_terms),
        }
        if decoder.corners is not None:
            per_layer = weights.weight_fgl / divisors.edge_terms(decoder.num_layers)
            weighted["fgl"] = self._refine(decoder, pairs, target_xyxy, iou) * per_layer
            weighted["ddf"] = self._distil(decoder, pairs, iou) * weights.weight_ddf
        return weighted, level_iou

    def score_denoising(
        self, output: DetectorOutput, divisors: Divisors, device: torch.device
    ) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
        """Weighted terms of denoising queries, ``dn_*``, and their levels; empty without any."""
        if output.denoising is None or output.dn_matches is None:
            return {}, {}
        denoising = _single(output.denoising)
        pairs = _pairs_of_all_levels(output.dn_matches, denoising, device)
        terms_of_it, _ = self.score(
            denoising, pairs, pairs, divisors.of_denoising(output.dn_groups)
        )
        names = _level_names(terms_of_it, denoising)
        return (
            {f"dn_{term}": values for term, values in terms_of_it.items()},
            {f"dn_{term}": levels for term, levels in names.items()},
        )

    def _classify(
        self, decoder: DecoderOutput, level_pairs: _Pairs, quality: Float[Tensor, " P"]
    ) -> Float[Tensor, " K"]:
        """Classification loss ``[K]``, summed over images, queries and classes."""
        place = (
            level_pairs.level,
            level_pairs.image,
            level_pairs.query,
            self.targets.labels[level_pairs.target],
        )
        target, iou = torch.zeros_like(decoder.logits), torch.zeros_like(decoder.logits)
        target[place] = 1.0
        iou[place] = quality
        function = CLASSIFICATION.callable(self.loss.classification)
        values = function(decoder.logits, target, iou, **self.loss.options)
        if getattr(values, "shape", None) != target.shape:
            raise ConfigError(
                f"loss.classification {self.loss.classification!r} returned "
                f"{_described(values)}. Expected the loss of each query and class: a tensor of "
                f"the shape of the logits, {list(target.shape)}."
            )
        return values.sum((1, 2, 3))

    def _refine(
        self,
        decoder: DecoderOutput,
        pairs: _Pairs,
        target_xyxy: Float[Tensor, "P 4"],
        iou: Float[Tensor, " P"],
    ) -> Float[Tensor, " L"]:
        """FGL × IoU ``[L]``, summed over the pairs of each decoder layer."""
        assert decoder.corners is not None
        assert decoder.reference_cxcywh is not None
        assert self.bins is not None
        assert self.reg_scale is not None
        of_layers = slice(pairs.before_layers, None)
        image, query = pairs.image[of_layers], pairs.query[of_layers]
        layer = pairs.level[of_layers] - (len(decoder.levels) - decoder.num_layers)
        # Each pair gets bins of its own. Without the union, the official code reuses the bins of
        # the last layer in all layers, although these layers match other targets.
        position, right, left = boxes_to_bins(
            decoder.reference_cxcywh[image, query],
            target_xyxy[of_layers],
            bins=self.bins,
            reg_scale=self.reg_scale,
        )
        edges = terms.fgl(
            decoder.corners[layer, image, query].unflatten(-1, (4, -1)), position, right, left
        )
        return _sum_by_level(edges.sum(-1) * iou[of_layers], layer, decoder.num_layers)

    def _distil(
        self, decoder: DecoderOutput, pairs: _Pairs, iou: Float[Tensor, " P"]
    ) -> Float[Tensor, " students"]:
        """DDF ``[L − 1]`` of each decoder layer, with the last layer as teacher.

        Covers *all* queries. Matched queries are weighted by IoU, other queries by the teacher's
        score.
        """
        assert decoder.corners is not None
        corners = decoder.corners.unflatten(-1, (4, -1))
        of_students = slice(pairs.before_layers, len(pairs) - pairs.in_last)
        layer = pairs.level[of_students] - (len(decoder.levels) - decoder.num_layers)
        place = (layer, pairs.image[of_students], pairs.query[of_students])
        values = terms.ddf(corners[:-1], corners[-1], temperature=self.loss.ddf_temperature).mean(
            -1
        )
        weight = decoder.logits[-1].detach().amax(-1).sigmoid().expand_as(values).clone()
        weight[place] = iou[of_students]
        matched = torch.zeros_like(weight, dtype=torch.bool)
        matched[place] = True
        return terms.decoupled_mean(
            values * weight,
            matched,
            matched_share=self.ddf_shares[0],
            unmatched_share=self.ddf_shares[1],
            dims=(1, 2),
        )


def _ddf_shares(matching: DecoderOutput, pairs: _Pairs) -> tuple[float, float]:
    """Square roots of the numbers of matched and unmatched queries.

    The official code multiplies both roots by √(32 / B), which cancels. The numbers are means over
    the layers that learn. With one-to-one matches or the union, all layers have the same number.
    """
    students = pairs.by_level[len(pairs.by_level) - pairs.num_layers : -1] or pairs.by_level[-1:]
    matched = sum(students) / len(students)
    return math.sqrt(matched), math.sqrt(
        matching.logits.shape[1] * matching.logits.shape[2] - matched
    )


def _pairs_by_level(matches: Matches, decoder: DecoderOutput, device: torch.device) -> _Pairs:
    """Convert matches per level (on the CPU, ordered by level) to pairs on the device."""
    assert matches.level is not None
    counts = torch.bincount(matches.level, minlength=len(decoder.levels)).tolist()
    level, image, query, target = torch.stack(
        [matches.level, matches.image, matches.query, matches.target]
    ).to(device, non_blocking=True)
    return _Pairs(level, image, query, target, tuple(counts), decoder.num_layers)


def _pairs_of_all_levels(matches: Matches, decoder: DecoderOutput, device: torch.device) -> _Pairs:
    """Convert matches without a level axis to pairs of every level."""
    num_levels = len(decoder.levels)
    shared = torch.stack([matches.image, matches.query, matches.target]).to(
        device, non_blocking=True
    )
    level = torch.arange(num_levels, device=device).repeat_interleave(len(matches))
    image, query, target = shared.repeat(1, num_levels)
    return _Pairs(level, image, query, target, (len(matches),) * num_levels, decoder.num_layers)


def _level_names(named: Iterable[str], decoder: DecoderOutput) -> dict[str, tuple[str, ...]]:
    layers = decoder.levels[len(decoder.levels) - decoder.num_layers :]
    return {term: {"fgl": layers, "ddf": layers[:-1]}.get(term, decoder.levels) for term in named}


def _sum_by_level(
    values: Float[Tensor, " P"], level: Int64[Tensor, " P"], num_levels: int
) -> Float[Tensor, " levels"]:
    return torch.zeros(num_levels, dtype=values.dtype, device=values.device).index_add(
        0, level, values
    )


def _bins(output: DetectorOutput) -> Tensor | None:
    """W(n) of the edge distributions; None for a detector without them."""
    if output.matching.corners is None:
        return None
    if output.up is None or output.reg_scale is None or output.matching.reference_cxcywh is None:
        raise ValueError("An output with corners also needs up, reg_scale and reference_cxcywh.")
    return bin_distances(
        output.matching.corners.shape[-1] // 4 - 1, output.up.detach(), output.reg_scale.detach()
    )


def _described(values: object) -> str:
    """Describe a tensor by its shape, any other value by its type."""
    if isinstance(values, Tensor):
        return f"a tensor of the shape {list(values.shape)}"
    return f"a {type(values).__name__}"


def _single(decoder: DecoderOutput) -> DecoderOutput:
    """The same output in at least float32."""
    return replace(
        decoder,
        logits=at_least_float32(decoder.logits),
        boxes_cxcywh=at_least_float32(decoder.boxes_cxcywh),
        corners=None if decoder.corners is None else at_least_float32(decoder.corners),
        reference_cxcywh=None
        if decoder.reference_cxcywh is None
        else at_least_float32(decoder.reference_cxcywh),
    )
