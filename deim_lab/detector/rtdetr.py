"""The RT-DETRv2 decoder: each layer refines the queries and corrects their boxes.

RT-DETRv2 (Lv et al. 2024) is RT-DETR (Zhao et al. 2024) with a separate number of sampling points
for each level. Boxes are refined as in Deformable DETR. Training adds DINO's "look forward twice"
(Zhang et al. 2022, section 3.4). The box of a layer is a correction of the previous layer's box,
with the gradient of that box. The reference box that a layer reads is detached. So a box head
learns from two layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deim_lab.detector.decoder import DecoderLayer, DecoderSpec, QueryDecoder, Refined, Shapes
from deim_lab.detector.layers import Mlp, inverse_sigmoid
from deim_lab.structures import at_least_float32


class RTDetrDecoder(QueryDecoder):
    """``QueryDecoder`` with levels ``encoder`` and each layer; no edge distributions."""

    decoder: _Stack

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__(spec, _Stack(spec), always_project=True)
        heads = [Mlp(spec.dim, spec.dim, 4, 3, spec.act) for _ in range(spec.num_layers)]
        self.dec_bbox_head = nn.ModuleList(heads)
        self.finish(heads)

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
        levels, all_logits, all_boxes = [], [], []
        boxes = boxes_logit.sigmoid()
        for index in range(self.run):
            layer: DecoderLayer = self.decoder.layers[index]  # type: ignore[assignment]
            reference = boxes.detach()
            content = layer(
                content,
                self.query_pos_head(reference),
                reference,
                layer.cross_attn.values_of(memory, shapes),
                mask,
            )
            correction = at_least_float32(self.dec_bbox_head[index](content))
            if every_level or index == self.run - 1:
                levels.append(f"layer_{index}")
                all_logits.append(at_least_float32(self.dec_score_head[index](content)))
                all_boxes.append(
                    (correction + inverse_sigmoid(boxes)).sigmoid()
                )  # look forward twice
            boxes = (correction + inverse_sigmoid(reference)).sigmoid()
        return Refined(tuple(levels), torch.stack(all_logits), torch.stack(all_boxes))


class _Stack(nn.Module):
    """The decoder layers, named as in the official checkpoints."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(spec, project=True) for _ in range(spec.num_layers)
        )
