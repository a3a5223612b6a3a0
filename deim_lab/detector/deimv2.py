"""The DEIMv2 decoder: D-FINE's decoder with simpler parts, also for very small sizes.

Differences from ``dfine`` (DEIMv2, Huang et al. 2025): root-mean-square norms and a gated
feed-forward network. The positions of the queries are computed once from the first boxes, not
before every layer. Queries are selected directly on the memory. The smallest sizes have one box
head for all layers and no gate around cross-attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deim_lab.detector.decoder import DecoderLayer, DecoderSpec
from deim_lab.detector.dfine import DFineDecoder
from deim_lab.structures import at_least_float32

NORM_EPS = 1e-6


class RmsNorm(nn.Module):
    """x · scale / √(mean x² + ε) over the last axis (Zhang & Sennrich 2019).

    The root is computed in at least float32.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)).to(
            x.dtype
        ) * self.scale


class SwiGlu(nn.Module):
    """Gated feed-forward network: w3(SiLU(a) · b) with (a, b) = w12(x) (Shazeer 2020).

    a and b have ``hidden`` channels each.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)
        for layer in (self.w12, self.w3):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Deimv2Layer(DecoderLayer):
    """``DecoderLayer`` with root-mean-square norms and a gated feed-forward network.

    Each half of the gated network has ``ffn_dim / 2`` channels.
    """

    norm_type = RmsNorm

    def build_feed_forward(self, spec: DecoderSpec) -> None:
        self.swish_ffn = SwiGlu(spec.dim, spec.ffn_dim // 2)

    def feed_forward(self, content: Tensor) -> Tensor:
        return self.swish_ffn(content)


class Deimv2Decoder(DFineDecoder):
    """``DFineDecoder`` with DEIMv2's layers.

    Args:
        share_box_head: use one box head for all layers. It occurs once among the parameters, and
            under the name of each layer in the state.
    """

    layer_type = Deimv2Layer
    position_once = True

    def __init__(
        self, spec: DecoderSpec, *, reg_max: int, reg_scale: float, up: float, share_box_head: bool
    ) -> None:
        super().__init__(spec, reg_max=reg_max, reg_scale=reg_scale, up=up)
        self.enc_output = nn.Identity()
        if share_box_head:
            self.dec_bbox_head = nn.ModuleList([self.dec_bbox_head[0]] * spec.num_layers)
        for name in (
            "query_pos_head",
            "pre_bbox_head",
            "dec_score_head",
            "dec_bbox_head",
            "group_embed",
        ):
            if name in self._modules:  # the order of the official layout
                self._modules[name] = self._modules.pop(name)
