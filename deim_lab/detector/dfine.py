"""The D-FINE decoder: each layer refines queries and corrects their edge distributions.

D-FINE (Peng et al. 2024) has fine-grained distribution refinement (FDR). A gate replaces the
residual around cross-attention. A localisation quality estimate (LQE) is added to the class logits.
DEIM keeps all parts and only changes the activation to SiLU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deim_lab.detector.attention import split_heads
from deim_lab.detector.decoder import DecoderLayer, DecoderSpec, QueryDecoder, Refined, Shapes
from deim_lab.detector.edges import bin_distances, distances_to_boxes, expected_distances
from deim_lab.detector.layers import Mlp, inverse_sigmoid
from deim_lab.structures import at_least_float32

_LQE_TOP, _LQE_HIDDEN = 4, 64
_POSITION_MAX = 10.0


class DFineDecoder(QueryDecoder):
    """``QueryDecoder`` with edge distributions.

    Its levels are ``encoder``, ``pre`` (a plain regression after the first layer) and each layer.

    Args:
        reg_max, reg_scale, up: shape of the bins, see ``edges``.
    """

    layer_type: type[DecoderLayer] = DecoderLayer
    position_once = False  # compute positions of queries once, from the first boxes
    decoder: _Stack
    up: nn.Parameter
    reg_scale: nn.Parameter

    def __init__(self, spec: DecoderSpec, *, reg_max: int, reg_scale: float, up: float) -> None:
        super().__init__(
            spec,
            _Stack(
                [self.layer_type(spec, project=False) for _ in range(spec.num_layers)],
                reg_max,
                spec.act,
            ),
        )
        self.reg_max = reg_max
        self.up = nn.Parameter(torch.tensor([float(up)]), requires_grad=False)
        self.reg_scale = nn.Parameter(torch.tensor([float(reg_scale)]), requires_grad=False)
        self.pre_bbox_head = Mlp(spec.dim, spec.dim, 4, 3, spec.act)
        heads = [
            Mlp(spec.dim, spec.dim, 4 * (reg_max + 1), 3, spec.act) for _ in range(spec.num_layers)
        ]
        self.dec_bbox_head = nn.ModuleList(heads)
        self.finish([self.pre_bbox_head, *heads])

    def drop_unused_heads(self) -> None:
        """Remove the score heads, quality estimates and query groups unused in inference."""
        super().drop_unused_heads()
        for index in range(self.spec.num_layers):
            if index != self.spec.eval_layers - 1:
                self.dec_score_head[index] = nn.Identity()
                self.decoder.lqe_layers[index] = nn.Identity()

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
        values = split_heads(memory, shapes, self.spec.num_heads)
        bins = bin_distances(self.reg_max, self.up, self.reg_scale)
        levels, all_logits, all_boxes, all_corners = [], [], [], []
        initial = reference = boxes_logit.sigmoid()
        previous: Tensor | float = 0.0
        corners: Tensor | float = 0.0
        for index in range(self.run):
            if index == 0 or not self.position_once:
                position = self.query_pos_head(reference).clamp(-_POSITION_MAX, _POSITION_MAX)
            content = self.decoder.layers[index](content, position, reference, values, mask)
            if index == 0:
                first = (
                    at_least_float32(self.pre_bbox_head(content)) + inverse_sigmoid(reference)
                ).sigmoid()
                initial = first.detach()
                if every_level:
                    levels.append("pre")
                    all_logits.append(at_least_float32(self.dec_score_head[0](content)))
                    all_boxes.append(first)
            # Corrections add up, and their gradient reaches all layers. Boxes are always relative
            # to the first reference.
            corners = at_least_float32(self.dec_bbox_head[index](content + previous)) + corners
            boxes = distances_to_boxes(initial, expected_distances(corners, bins), self.reg_scale)
            if every_level or index == self.run - 1:
                logits = self.dec_score_head[index](content) + self.decoder.lqe_layers[index](
                    corners
                )
                levels.append(f"layer_{index}")
                all_logits.append(at_least_float32(logits))
                all_boxes.append(boxes)
                all_corners.append(corners)
            reference, previous = boxes.detach(), content.detach()
        return Refined(
            tuple(levels),
            torch.stack(all_logits),
            torch.stack(all_boxes),
            torch.stack(all_corners),
            initial,
        )


class _Stack(nn.Module):
    """The decoder layers and their quality estimates."""

    def __init__(self, layers: Sequence[nn.Module], reg_max: int, act: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.lqe_layers = nn.ModuleList(_QualityEstimate(reg_max, act) for _ in layers)


class _QualityEstimate(nn.Module):
    """Estimate localisation quality from how peaked the edge distributions are.

    ``[B, Q, 4·bins]`` → ``[B, Q, 1]``, which is added to the class logits.
    """

    def __init__(self, reg_max: int, act: str) -> None:
        super().__init__()
        self.bins = reg_max + 1
        self.reg_conf = Mlp(4 * (_LQE_TOP + 1), _LQE_HIDDEN, 1, 2, act)
        self.reg_conf.zero_last_layer()

    def forward(self, corners: Tensor) -> Tensor:
        top = corners.unflatten(-1, (4, self.bins)).softmax(-1).topk(_LQE_TOP, dim=-1).values
        return self.reg_conf(torch.cat([top, top.mean(-1, keepdim=True)], dim=-1).flatten(-2))
