"""The D-FINE decoder: queries refined layer by layer, boxes as edge distributions that every layer corrects.

D-FINE (Peng et al. 2024): fine-grained distribution refinement (FDR), a gate in place of the residual around cross-attention, and a
localisation quality estimate (LQE) added to the class logits. DEIM keeps all of it and changes the activation to SiLU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deim_lab.detector.attention import DeformableAttention, split_heads
from deim_lab.detector.denoising import DenoisingQueries, make_queries
from deim_lab.detector.edges import bin_distances, distances_to_boxes, expected_distances
from deim_lab.detector.layers import ACTIVATIONS, ConvNorm, Mlp, TableCache, inverse_sigmoid
from deim_lab.detector.queries import Selection, isolate_groups, make_anchors, repeat_in_groups, select_queries
from deim_lab.structures import DecoderOutput, DetectorOutput, Prediction, Targets, at_least_float32

PRIOR = 0.01  # probability that an untrained score head gives to every class (focal prior)
_LQE_TOP, _LQE_HIDDEN = 4, 64
_HALF_MAX = 65504.0  # largest float16
_POSITION_MAX = 10.0


@dataclass(frozen=True)
class Denoising:
    """How to make denoising queries; the meaning of each number stands in ``config.ModelConfig``."""

    num_denoising: int
    max_denoising: int
    label_noise_ratio: float
    box_noise_scale: float


class DFineDecoder(nn.Module):
    """Fused maps, finest first → ``Prediction`` in eval mode, ``DetectorOutput`` in train mode.

    Args:
        in_channels: channels of the maps; where they aren't ``dim``, a 1×1 convolution makes them so.
        points: sampling points a head takes on each level.
        act: activation of the feed-forward networks and the MLPs.
        reg_max, reg_scale, up: shape of the bins, see ``edges``.
        denoising: ``None`` builds no class embedding, and no denoising queries are made.
        query_groups: groups of ``num_queries`` queries in training; inference has the first alone (``queries.repeat_in_groups``).
    """

    def __init__(self, in_channels: int, *, num_classes: int, dim: int, ffn_dim: int, num_layers: int, num_heads: int,
                 points: Sequence[int], num_queries: int, act: str, reg_max: int, reg_scale: float, up: float,
                 denoising: Denoising | None, query_groups: int = 1) -> None:
        super().__init__()
        self.num_classes, self.num_queries, self.num_heads, self.query_groups = num_classes, num_queries, num_heads, query_groups
        self.reg_max, self.denoising = reg_max, denoising
        self.up = nn.Parameter(torch.tensor([float(up)]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([float(reg_scale)]), requires_grad=False)
        self.input_proj = nn.ModuleList(nn.Identity() if in_channels == dim else ConvNorm(in_channels, dim, 1) for _ in points)
        self.decoder = _Stack(dim, ffn_dim, num_layers, num_heads, points, act, reg_max)
        if denoising is not None:
            self.denoising_class_embed = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)
        self.query_pos_head = Mlp(4, 2 * dim, dim, 2, act)
        self.enc_output = nn.Sequential()
        self.enc_output.add_module("proj", nn.Linear(dim, dim))
        self.enc_output.add_module("norm", nn.LayerNorm(dim))
        self.enc_score_head = nn.Linear(dim, num_classes)
        self.enc_bbox_head = Mlp(dim, dim, 4, 3, act)
        self.dec_score_head = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(num_layers))
        self.pre_bbox_head = Mlp(dim, dim, 4, 3, act)
        self.dec_bbox_head = nn.ModuleList(Mlp(dim, dim, 4 * (reg_max + 1), 3, act) for _ in range(num_layers))
        self._anchors = TableCache()
        self._initialise()
        if query_groups > 1:
            self.group_embed = nn.Embedding(query_groups - 1, dim)  # made last: all other weights are those of one group, draw for draw

    def forward(self, features: Sequence[Tensor], targets: Targets | None = None, *,
                every_level: bool | None = None) -> Prediction | DetectorOutput:
        """``every_level``: return all levels (and all groups) as in training; None: in train mode."""
        every_level = self.training if every_level is None else every_level
        memory, shapes = self.flatten(features)
        chosen = self.select(memory, shapes)
        noisy = self._make_denoising(targets) if self.training else None
        groups = self.query_groups if every_level else 1

        content, boxes_logit = chosen.features.detach(), chosen.boxes_logit.detach()
        mask = None if noisy is None else noisy.attention_mask
        if groups > 1:
            content, boxes_logit = repeat_in_groups(content, boxes_logit, self.group_embed.weight)
            mask = isolate_groups(mask, self.num_queries, groups, device=content.device)
        if noisy is not None:
            content = torch.cat([self.denoising_class_embed(noisy.class_ids).to(content.dtype), content], dim=1)
            boxes_logit = torch.cat([noisy.boxes_logit.to(boxes_logit.dtype), boxes_logit], dim=1)
        elif self.training and self.denoising is not None:
            # Keeps the embedding in the graph: data-parallel training waits for a gradient of every parameter.
            content = content + 0 * self.denoising_class_embed.weight.sum()

        values = split_heads(memory, shapes, self.num_heads)
        refined = self._refine(content, boxes_logit, values, mask, every_level)
        if not every_level:
            return Prediction(refined.logits[-1], refined.boxes[-1])
        return self._output(chosen, refined, noisy, groups)

    def flatten(self, features: Sequence[Tensor]) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
        """Maps → memory ``[B, Σ h·w, dim]`` and the levels' (h, w)."""
        maps = [project(feature) for project, feature in zip(self.input_proj, features, strict=True)]
        shapes = tuple((item.shape[-2], item.shape[-1]) for item in maps)
        return torch.cat([item.flatten(2) for item in maps], dim=-1).transpose(1, 2), shapes

    def select(self, memory: Tensor, shapes: tuple[tuple[int, int], ...]) -> Selection:
        """Query selection on ``memory`` (see ``queries.select_queries``)."""
        device = memory.device
        anchors_logit, valid = self._anchors.get_or_make((shapes, device), lambda: make_anchors(shapes, device=device))
        return select_queries(memory, anchors_logit.to(at_least_float32(memory[:0]).dtype), valid, self.num_queries,
                              project=self.enc_output, score=self.enc_score_head, box=self.enc_bbox_head)

    def drop_unused_heads(self) -> None:
        """Leave out the score heads, quality estimates and query groups that inference doesn't use (deploy form)."""
        if self.query_groups > 1:
            self.query_groups = 1
            del self.group_embed
        for index in range(len(self.dec_score_head) - 1):
            self.dec_score_head[index] = nn.Identity()
            self.decoder.lqe_layers[index] = nn.Identity()

    def _refine(self, content: Tensor, boxes_logit: Tensor, values: Sequence[Tensor], mask: Tensor | None,
                every_level: bool) -> _Refined:
        """Run the layers. Without ``every_level`` only the last one's logits and boxes are kept."""
        bins = bin_distances(self.reg_max, self.up, self.reg_scale)
        result = _Refined()
        reference, last = boxes_logit.sigmoid(), len(self.decoder.layers) - 1
        previous: Tensor | float = 0.0
        corners: Tensor | float = 0.0
        for index, layer in enumerate(self.decoder.layers):
            position = self.query_pos_head(reference).clamp(-_POSITION_MAX, _POSITION_MAX)
            content = layer(content, position, reference, values, mask)
            if index == 0:
                result.pre_boxes = (at_least_float32(self.pre_bbox_head(content)) + inverse_sigmoid(reference)).sigmoid()
                result.reference = result.pre_boxes.detach()
                if every_level:
                    result.pre_logits = at_least_float32(self.dec_score_head[0](content))
            # Corrections add up, and their gradient reaches all layers; boxes are always measured from the first reference.
            corners = at_least_float32(self.dec_bbox_head[index](content + previous)) + corners
            boxes = distances_to_boxes(result.reference, expected_distances(corners, bins), self.reg_scale)
            if every_level or index == last:
                logits = self.dec_score_head[index](content) + self.decoder.lqe_layers[index](corners)
                result.logits.append(at_least_float32(logits))
                result.boxes.append(boxes)
                result.corners.append(corners)
            reference, previous = boxes.detach(), content.detach()
        return result

    def _output(self, chosen: Selection, refined: _Refined, noisy: DenoisingQueries | None, groups: int) -> DetectorOutput:
        """Stack the levels, and part denoising queries (first) from matching queries. At the encoder all groups are the same."""
        split = 0 if noisy is None else len(noisy)
        layers = tuple(f"layer_{index}" for index in range(len(refined.logits)))
        logits = torch.stack([refined.pre_logits, *refined.logits])
        boxes = torch.stack([refined.pre_boxes, *refined.boxes])
        corners = torch.stack(refined.corners)
        matching = DecoderOutput(
            levels=("encoder", "pre", *layers),
            logits=torch.cat([at_least_float32(chosen.logits).repeat(1, groups, 1)[None], logits[:, :, split:]]),
            boxes_cxcywh=torch.cat([chosen.boxes_logit.sigmoid().repeat(1, groups, 1)[None], boxes[:, :, split:]]),
            corners=corners[:, :, split:],
            reference_cxcywh=refined.reference[:, split:],
            anchors=chosen.index.repeat(1, groups),
            groups=groups,
        )
        if noisy is None:
            return DetectorOutput(matching, up=self.up, reg_scale=self.reg_scale)
        denoising = DecoderOutput(("pre", *layers), logits[:, :, :split], boxes[:, :, :split], corners[:, :, :split],
                                  refined.reference[:, :split])
        return DetectorOutput(matching, denoising, noisy.matches, noisy.groups, up=self.up, reg_scale=self.reg_scale)

    def _make_denoising(self, targets: Targets | None) -> DenoisingQueries | None:
        if targets is None or self.denoising is None:
            return None
        how = self.denoising
        return make_queries(targets, num_classes=self.num_classes, num_queries=self.num_queries, num_denoising=how.num_denoising,
                            max_denoising=how.max_denoising, label_noise_ratio=how.label_noise_ratio, box_noise_scale=how.box_noise_scale)

    def _initialise(self) -> None:
        """Score heads start at the focal prior; box heads start with no correction at all."""
        for score in (self.enc_score_head, *self.dec_score_head):
            self.initialise_score(score)
        for head in (self.enc_bbox_head, self.pre_bbox_head, *self.dec_bbox_head):
            head.zero_last_layer()  # type: ignore[operator]
        for part in (self.enc_output, self.query_pos_head, self.input_proj):
            for layer in part.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d)):
                    nn.init.xavier_uniform_(layer.weight)

    @staticmethod
    def initialise_score(head: nn.Module) -> None:
        """The bias at which every class of every query has probability ``PRIOR`` (focal loss, Lin et al. 2017, section 4.1)."""
        nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]


@dataclass
class _Refined:
    """What the layers left behind: one entry a kept layer, all ``[B, Q, …]``."""

    logits: list[Tensor] = field(default_factory=list)
    boxes: list[Tensor] = field(default_factory=list)
    corners: list[Tensor] = field(default_factory=list)
    pre_logits: Tensor = field(default_factory=lambda: torch.empty(0))
    pre_boxes: Tensor = field(default_factory=lambda: torch.empty(0))
    reference: Tensor = field(default_factory=lambda: torch.empty(0))


class _Stack(nn.Module):
    """The layers and their quality estimates; ``DFineDecoder`` runs them between its heads."""

    def __init__(self, dim: int, ffn_dim: int, num_layers: int, num_heads: int, points: Sequence[int], act: str, reg_max: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_DecoderLayer(dim, ffn_dim, num_heads, points, act) for _ in range(num_layers))
        self.lqe_layers = nn.ModuleList(_QualityEstimate(reg_max, act) for _ in range(num_layers))


class _DecoderLayer(nn.Module):
    """Self-attention among the queries, deformable attention into the maps through a gate, feed-forward network."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, points: Sequence[int], act: str) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(dim, num_heads, points)
        self.gateway = _Gate(dim)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.act = ACTIVATIONS[act]
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, content: Tensor, position: Tensor, reference_cxcywh: Tensor, values: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        placed = content + position
        content = self.norm1(content + self.self_attn(placed, placed, content, attn_mask=mask, need_weights=False)[0])
        content = self.gateway(content, self.cross_attn(content + position, reference_cxcywh, values))
        content = content + self.linear2(self.act(self.linear1(content)))
        return self.norm3(content.clamp(-_HALF_MAX, _HALF_MAX))


class _Gate(nn.Module):
    """Two learnt gates weigh what a query was against what it has read (D-FINE's "target gating layer")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, before: Tensor, read: Tensor) -> Tensor:
        keep, take = self.gate(torch.cat([before, read], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * before + take * read)


class _QualityEstimate(nn.Module):
    """How peaked the edge distributions ``[B, Q, 4·bins]`` are → ``[B, Q, 1]``, to be added to the class logits."""

    def __init__(self, reg_max: int, act: str) -> None:
        super().__init__()
        self.bins = reg_max + 1
        self.reg_conf = Mlp(4 * (_LQE_TOP + 1), _LQE_HIDDEN, 1, 2, act)
        self.reg_conf.zero_last_layer()

    def forward(self, corners: Tensor) -> Tensor:
        top = corners.unflatten(-1, (4, self.bins)).softmax(-1).topk(_LQE_TOP, dim=-1).values
        return self.reg_conf(torch.cat([top, top.mean(-1, keepdim=True)], dim=-1).flatten(-2))
