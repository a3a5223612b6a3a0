"""Two classification losses, as a user adds them to the table."""

from __future__ import annotations

from torch import Tensor


def plain(logits: Tensor, target: Tensor, iou: Tensor) -> Tensor:
    return (logits.sigmoid() - target).square()


def with_gamma(logits: Tensor, target: Tensor, iou: Tensor, *, gamma: float = 3.0) -> Tensor:
    return plain(logits, target, iou) * gamma
