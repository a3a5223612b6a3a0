"""How far float32 may be from exact arithmetic, for all tests; comparisons that don't mind order.

float64 stands against the official numbers to a fixed small distance. In float32 the order of a
sum's terms, which a processor's vector width decides, is seen in the result; so are fused products.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import nn

TERMS = 256  # of a sum: the width of the widest decoder
LAYERS = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
# What the edges' losses make of a relative error of the boxes. Their targets divide the way to an
# edge by the box's side, and then by a bin's width. In float64, weights changed by r relative move
# a term of a whole detector by up to 9 r a layer. One entry of a gradient doesn't average that out.
EDGES = 10.0
ONE_EDGE = 100.0


def float32_tolerance(depth: int, condition: float = 1.0) -> float:
    """What float32 may be off by after ``depth`` layers, as a share of the largest value.

    A sum of n terms is off by about √n · eps / 2. A next layer keeps what came in, for norms keep
    the magnitude, and adds its own: linear in the depth. For formulas, ``depth`` counts the steps.

    Args:
        condition: the relative change of the result for a relative change of 1 inside.
    """
    return depth * condition * TERMS**0.5 / 2 * torch.finfo(torch.float32).eps


def depth_of(model: nn.Module) -> int:
    """Layers with weights, all of them: more than lie on any one path."""
    return sum(isinstance(module, LAYERS) for module in model.modules())


def assert_same_rows(found: ArrayLike, expected: ArrayLike, within: ArrayLike) -> None:
    """The same rows in any order, each column within its own distance.

    Of two queries with nearly equal scores float32 puts either first.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    off = np.abs(found[:, None] - expected) / np.asarray(within)  # 1: just allowed
    pairs = linear_sum_assignment(off.sum(-1))
    worst = off[pairs].max(initial=0)
    assert worst <= 1, f"a row is off by {worst:.3g} times what is allowed"


def assert_same_queries(
    boxes: ArrayLike,
    logits: ArrayLike,
    expected_boxes: ArrayLike,
    expected_logits: ArrayLike,
    depth: int,
) -> None:
    """float32 queries ``[B, Q, …]`` of a detector of this depth against exact ones."""
    share = float32_tolerance(depth)
    # A box is the sigmoid of x: off by share · x σ'(x) at most, and x σ'(x) < 1 / 4.
    within = [share / 4] * 4 + [share * np.abs(expected_logits).max()] * np.shape(logits)[-1]
    found, expected = (
        np.concatenate(both, axis=-1)
        for both in ((boxes, logits), (expected_boxes, expected_logits))
    )
    assert found.shape == expected.shape
    for image in range(len(found)):
        assert_same_rows(found[image], expected[image], within)
