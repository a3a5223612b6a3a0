"""Base of the decoders of all families: queries, layer, heads and output levels.

A family adds the refinement of boxes: ``dfine`` refines edge distributions, ``rtdetr`` refines
boxes directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from deim_lab.detector.attention import DeformableAttention
from deim_lab.detector.denoising import DenoisingQueries, make_queries
from deim_lab.detector.layers import ACTIVATIONS, ConvNorm, Mlp, TableCache
from deim_lab.detector.queries import (
    Selection,
    attend_in_groups,
    make_anchors,
    repeat_in_groups,
    select_queries,
)
from deim_lab.structures import DecoderOutput, DetectorOutput, Prediction, Targets, at_least_float32

PRIOR = 0.01  # probability of every class from an untrained score head (focal prior)
_HALF_MAX = 65504.0  # largest float16

Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Denoising:
    """Settings of denoising queries, with the meaning of ``config.ModelConfig``."""

    num_denoising: int
    max_denoising: int
    label_noise_ratio: float
    box_noise_scale: float


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """The sizes and options of a decoder.

    Attributes:
        in_channels: channels of the maps; a 1×1 convolution changes them to ``dim`` if needed.
        eval_layers: layers used in inference, the first of ``num_layers``.
        points: sampling points per head on each level.
        act: activation of the feed-forward networks and the MLPs.
        gateway: True: a learnt gate around cross-attention; False: a residual.
        query_position: MLP from a box to the position of its query, ``wide`` (4 → 2·dim → dim) or
            ``deep`` (4 → dim → dim → dim).
        denoising: settings of denoising queries; ``None`` turns them off and builds no class
            embedding.
        query_groups: groups of ``num_queries`` queries in training. Inference uses only the first
            group (``queries.repeat_in_groups``).
    """

    in_channels: int
    num_classes: int
    dim: int
    ffn_dim: int
    num_layers: int
    eval_layers: int
    num_heads: int
    points: tuple[int, ...]
    num_queries: int
    act: str
    gateway: bool
    query_position: Literal["wide", "deep"]
    denoising: Denoising | None
    query_groups: int = 1


@dataclass(frozen=True)
class Refined:
    """Output of the layers, with the fields of ``DecoderOutput`` and denoising queries first.

    In inference it has one level.
    """

    levels: tuple[str, ...]
    logits: Tensor
    boxes_cxcywh: Tensor
    corners: Tensor | None = None
    reference_cxcywh: Tensor | None = None

    def part(self, queries: slice) -> DecoderOutput:
        """The output of some queries only."""
        return DecoderOutput(
            self.levels,
            self.logits[:, :, queries],
            self.boxes_cxcywh[:, :, queries],
            None if self.corners is None else self.corners[:, :, queries],
            None if self.reference_cxcywh is None else self.reference_cxcywh[:, queries],
        )


class QueryDecoder(nn.Module):
    """Decode fused maps to a ``Prediction`` (eval mode) or a ``DetectorOutput`` (train mode).

    Maps are given finest first. A subclass builds its layers, passes them here, builds its box
    heads, then calls ``finish``. It also implements ``refine``.

    Args:
        layers: layers of the family; ``layers.layers`` lists them.
        always_project: apply a convolution to each map even if its channels fit.
    """

    up: nn.Parameter | None  # of W(n), for a family with edge distributions (``edges``)
    reg_scale: nn.Parameter | None

    def __init__(
        self, spec: DecoderSpec, layers: nn.Module, *, always_project: bool = False
    ) -> None:
        super().__init__()
        dim, act = spec.dim, spec.act
        self.register_parameter("up", None)
        self.register_parameter("reg_scale", None)
        self.spec, self.num_classes, self.query_groups = spec, spec.num_classes, spec.query_groups
        self.input_proj = nn.ModuleList(
            ConvNorm(spec.in_channels, dim, 1)
            if always_project or spec.in_channels != dim
            else nn.Identity()
            for _ in spec.points
        )
        self.decoder = layers
        if spec.denoising is not None:
            self.denoising_class_embed = nn.Embedding(
                spec.num_classes + 1, dim, padding_idx=spec.num_classes
            )
        self.query_pos_head = (
            Mlp(4, 2 * dim, dim, 2, act)
            if spec.query_position == "wide"
            else Mlp(4, dim, dim, 3, act)
        )
        self.enc_output: nn.Module = nn.Sequential()
        self.enc_output.add_module("proj", nn.Linear(dim, dim))
        self.enc_output.add_module("norm", nn.LayerNorm(dim))
        self.enc_score_head = nn.Linear(dim, spec.num_classes)
        self.enc_bbox_head = Mlp(dim, dim, 4, 3, act)
        self.dec_score_head = nn.ModuleList(
            nn.Linear(dim, spec.num_classes) for _ in range(spec.num_layers)
        )
        self._anchors = TableCache()

    def finish(self, box_heads: Sequence[Mlp]) -> None:
        """Set initial values and build the embedding of query groups.

        Score heads start at the focal prior. Box heads start without any correction.
        """
        for score in (self.enc_score_head, *self.dec_score_head):
            self.initialise_score(score)
        for head in (self.enc_bbox_head, *box_heads):
            head.zero_last_layer()
        for part in (
            self.enc_output,
            self.query_pos_head.layers[:2],
            self.input_proj,
        ):  # the third layer of the deep head is not initialised here
            for layer in part.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d)):
                    nn.init.xavier_uniform_(layer.weight)
        if self.query_groups > 1:
            # Built last, so that all other weights are drawn as with one group.
            self.group_embed = nn.Embedding(self.query_groups - 1, self.spec.dim)

    @staticmethod
    def initialise_score(head: nn.Module) -> None:
        """Set the bias so that every class of every query has probability ``PRIOR``.

        See focal loss (Lin et al. 2017, section 4.1).
        """
        nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(
        self,
        features: Sequence[Tensor],
        targets: Targets | None = None,
        *,
        every_level: bool | None = None,
    ) -> Prediction | DetectorOutput:
        """Decode the maps ``features``.

        Args:
            every_level: return all levels and all groups, as in training. In eval mode, levels end
                at the layer of inference. None: True in train mode, False in eval mode.
        """
        every_level = self.training if every_level is None else every_level
        memory, shapes = self.flatten(features)
        chosen = self.select(memory, shapes)
        noisy = self._make_denoising(targets) if self.training else None
        groups = self.query_groups if every_level else 1
        content, boxes_logit, mask = self._queries(chosen, noisy, groups)
        refined = self.refine(content, boxes_logit, memory, shapes, mask, every_level=every_level)
        if not every_level:
            return Prediction(refined.logits[-1], refined.boxes_cxcywh[-1])
        return self._output(chosen, refined, noisy, groups)

    def flatten(self, features: Sequence[Tensor]) -> tuple[Tensor, Shapes]:
        """Flatten maps to memory ``[B, Σ h·w, dim]`` and return (h, w) of each level."""
        maps = [
            project(feature) for project, feature in zip(self.input_proj, features, strict=True)
        ]
        shapes = tuple((item.shape[-2], item.shape[-1]) for item in maps)
        return torch.cat([item.flatten(2) for item in maps], dim=-1).transpose(1, 2), shapes

    def select(self, memory: Tensor, shapes: Shapes) -> Selection:
        """Select queries from ``memory`` (see ``queries.select_queries``)."""
        device = memory.device
        anchors_logit, valid = self._anchors.get_or_make(
            (shapes, device), lambda: make_anchors(shapes, device=device)
        )
        return select_queries(
            memory,
            anchors_logit.to(at_least_float32(memory[:0]).dtype),
            valid,
            self.spec.num_queries,
            project=self.enc_output,
            score=self.enc_score_head,
            box=self.enc_bbox_head,
        )

    def refine(
        self,
        content: Tensor,
        boxes_logit: Tensor,
        memory: Tensor,
        shapes: Shapes,
        mask: Tensor | None,
        *,
        every_level: bool,
    ) -> Refined:
        """Refine queries with the first ``self.run`` layers.

        Args:
            content: ``[B, Q, dim]`` content of the queries.
            boxes_logit: ``[B, Q, 4]`` boxes before the sigmoid.
            mask: attention mask of the denoising queries and the first group, True where a query
                (row) may not attend. Queries of other groups attend only within their group
                (``queries.attend_in_groups``).
            every_level: True: keep all levels. False: keep only the last level.
        """
        raise NotImplementedError

    @property
    def run(self) -> int:
        """Number of layers to run: ``num_layers`` in training, else ``eval_layers``."""
        return self.spec.num_layers if self.training else self.spec.eval_layers

    def drop_unused_heads(self) -> None:
        """Remove the query groups, which inference doesn't use (deploy form).

        A subclass may remove more.
        """
        if self.query_groups > 1:
            self.query_groups = 1
            del self.group_embed

    def _queries(
        self, chosen: Selection, noisy: DenoisingQueries | None, groups: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Content, boxes before the sigmoid, and attention mask of all queries.

        Denoising queries come first, then all groups of selected queries.
        """
        content, boxes_logit = chosen.features.detach(), chosen.boxes_logit.detach()
        mask = None if noisy is None else noisy.attention_mask
        if groups > 1:
            content, boxes_logit = repeat_in_groups(content, boxes_logit, self.group_embed.weight)
        if noisy is not None:
            content = torch.cat(
                [self.denoising_class_embed(noisy.class_ids).to(content.dtype), content], dim=1
            )
            boxes_logit = torch.cat([noisy.boxes_logit.to(boxes_logit.dtype), boxes_logit], dim=1)
        elif self.training and self.spec.denoising is not None:
            # Keep the embedding in the graph, because data-parallel training waits for the gradient
            # of every parameter.
            content = content + 0 * self.denoising_class_embed.weight.sum()
        return content, boxes_logit, mask

    def _output(
        self, chosen: Selection, refined: Refined, noisy: DenoisingQueries | None, groups: int
    ) -> DetectorOutput:
        """Separate denoising queries (first) from matching queries.

        The encoder's level comes before the layers of the matching queries. In this level all
        groups are equal.
        """
        split = 0 if noisy is None else len(noisy)
        layers = refined.part(slice(split, None))
        matching = DecoderOutput(
            levels=("encoder", *layers.levels),
            logits=torch.cat(
                [at_least_float32(chosen.logits).repeat(1, groups, 1)[None], layers.logits]
            ),
            boxes_cxcywh=torch.cat(
                [chosen.boxes_logit.sigmoid().repeat(1, groups, 1)[None], layers.boxes_cxcywh]
            ),
            corners=layers.corners,
            reference_cxcywh=layers.reference_cxcywh,
            anchors=chosen.index.repeat(1, groups),
            groups=groups,
        )
        if noisy is None:
            return DetectorOutput(matching, up=self.up, reg_scale=self.reg_scale)
        return DetectorOutput(
            matching,
            refined.part(slice(split)),
            noisy.matches,
            noisy.groups,
            up=self.up,
            reg_scale=self.reg_scale,
        )

    def _make_denoising(self, targets: Targets | None) -> DenoisingQueries | None:
        how = self.spec.denoising
        if targets is None or how is None:
            return None
        return make_queries(
            targets,
            num_classes=self.num_classes,
            num_queries=self.spec.num_queries,
            num_denoising=how.num_denoising,
            max_denoising=how.max_denoising,
            label_noise_ratio=how.label_noise_ratio,
            box_noise_scale=how.box_noise_scale,
        )


class DecoderLayer(nn.Module):
    """Self-attention of queries, deformable attention to the maps, feed-forward network.

    A norm follows each of the three. A family may have other norms (``norm_type``) and another
    feed-forward network, between the norms 2 and 3 of its layout.

    Args:
        project: whether cross-attention has value and output projections.
    """

    norm_type: Callable[[int], nn.Module] = nn.LayerNorm

    def __init__(self, spec: DecoderSpec, *, project: bool) -> None:
        super().__init__()
        dim, norm = spec.dim, self.norm_type
        self.self_attn = nn.MultiheadAttention(dim, spec.num_heads, batch_first=True)
        self.norm1 = norm(dim)
        self.cross_attn = DeformableAttention(dim, spec.num_heads, spec.points, project=project)
        if spec.gateway:
            self.gateway = _Gate(dim, norm(dim))
        else:
            self.norm2 = norm(dim)
        self.build_feed_forward(spec)
        self.norm3 = norm(dim)
        self.gated, self.num_queries = spec.gateway, spec.num_queries

    def build_feed_forward(self, spec: DecoderSpec) -> None:
        self.linear1 = nn.Linear(spec.dim, spec.ffn_dim)
        self.linear2 = nn.Linear(spec.ffn_dim, spec.dim)
        self.act = ACTIVATIONS[spec.act]
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def feed_forward(self, content: Tensor) -> Tensor:
        return self.linear2(self.act(self.linear1(content)))

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        reference_cxcywh: Tensor,
        values: Sequence[Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """Update the content ``[B, Q, dim]`` of the queries.

        Takes content and position ``[B, Q, dim]``, boxes ``[B, Q, 4]`` and the values of each level
        (``attention``).
        """
        placed = content + position
        seen = attend_in_groups(self.self_attn, placed, content, mask, self.num_queries)
        content = self.norm1(content + seen)
        read = self.cross_attn(content + position, reference_cxcywh, values)
        content = self.gateway(content, read) if self.gated else self.norm2(content + read)
        content = content + self.feed_forward(content)
        return self.norm3(content.clamp(-_HALF_MAX, _HALF_MAX))


class _Gate(nn.Module):
    """Mix a query's old content and its newly read content by two learnt gates.

    This is D-FINE's "target gating layer".
    """

    def __init__(self, dim: int, norm: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = norm
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, before: Tensor, read: Tensor) -> Tensor:
        keep, take = self.gate(torch.cat([before, read], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * before + take * read)
