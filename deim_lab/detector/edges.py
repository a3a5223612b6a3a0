"""Convert between edge distributions and boxes.

See D-FINE (Peng et al. 2024, section 3.1, Fine-grained Distribution Refinement). Each of the four
edges of a box (left, top, right, bottom) is a distribution over ``reg_max + 1`` bins. Bin n
represents the distance W(n), measured outwards from the edge of a reference box. The unit is the
size of the reference / ``reg_scale``. W is fine around 0 for exact small corrections, and coarse at
its ends for large corrections. All functions are pure, in float32 or float64.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deim_lab.boxes import xyxy_to_cxcywh

# A target beyond the last bin gets a position this far below reg_max, so that its left neighbour is
# still a bin (official value).
_LAST_BIN_MARGIN = 0.1


def bin_distances(reg_max: int, up: Tensor | float, reg_scale: Tensor | float) -> Tensor:
    """W(n) of D-FINE, eq. 2: ``[reg_max + 1]`` increasing distances.

    They are antisymmetric, with 0 in the middle.

    Args:
        reg_max: number of bins minus 1; even and at least 4.
        up, reg_scale: a = |up · reg_scale| bounds the regular bins (the outermost two are at ±2a).
            Tensors keep their device and float dtype. Int tensors, such as ``reg_scale`` in
            official checkpoints, count as float32.

    Raises:
        ValueError: ``reg_max`` odd or below 4.
    """
    if reg_max < 4 or reg_max % 2:
        raise ValueError(
            f"reg_max {reg_max} must be even and at least 4. W(n) has equally many bins on both "
            f"sides of 0."
        )
    like = next(
        (item for item in (up, reg_scale) if isinstance(item, Tensor) and item.is_floating_point()),
        None,
    )
    device = next((item.device for item in (up, reg_scale) if isinstance(item, Tensor)), None)
    dtype = torch.float32 if like is None else torch.promote_types(like.dtype, torch.float32)
    bound = (
        (
            torch.as_tensor(up, dtype=dtype, device=device)
            * torch.as_tensor(reg_scale, dtype=dtype, device=device)
        )
        .abs()
        .reshape(1)
    )
    step = (bound + 1) ** (2 / (reg_max - 2))
    positive = step ** torch.arange(1, reg_max // 2, dtype=dtype, device=device) - 1
    return torch.cat([-2 * bound, -positive.flip(0), torch.zeros_like(bound), positive, 2 * bound])


def expected_distances(
    corners: Float[Tensor, "*boxes logits"], bins: Float[Tensor, " bins"]
) -> Float[Tensor, "*boxes 4"]:
    """Mean distance of each edge's distribution.

    Logits ``[..., 4 * (reg_max + 1)]``, W ``[reg_max + 1]`` → distances ``[..., 4]``. Computed in
    at least float32 in any autocast mode, because a half-precision distance moves a box by pixels.
    """
    logits = corners.unflatten(-1, (4, bins.shape[0]))
    # A product and a sum instead of a matmul, which autocast would run in half precision.
    return (logits.to(torch.promote_types(logits.dtype, bins.dtype)).softmax(-1) * bins).sum(-1)


def distances_to_boxes(
    reference_cxcywh: Float[Tensor, "*#boxes 4"],
    distances: Float[Tensor, "*#boxes 4"],
    reg_scale: Tensor | float,
) -> Float[Tensor, "*_ 4"]:
    """Move each edge of the reference outwards by its distance.

    Reference ``[..., 4]`` cxcywh and distances (l, t, r, b) ``[..., 4]`` → cxcywh ``[..., 4]``. A
    distance d puts an edge (reg_scale / 2 + d) · size / reg_scale from the reference's centre
    (D-FINE, eq. 1).
    """
    centre, unit = reference_cxcywh[..., :2], reference_cxcywh[..., 2:] / reg_scale
    low = centre - (0.5 * reg_scale + distances[..., :2]) * unit
    high = centre + (0.5 * reg_scale + distances[..., 2:]) * unit
    return xyxy_to_cxcywh(torch.cat([low, high], dim=-1))


def boxes_to_bins(
    reference_cxcywh: Float[Tensor, "*pairs 4"],
    boxes_xyxy: Float[Tensor, "*pairs 4"],
    *,
    bins: Float[Tensor, " bins"],
    reg_scale: Tensor | float,
) -> tuple[Float[Tensor, "*pairs 4"], Float[Tensor, "*pairs 4"], Float[Tensor, "*pairs 4"]]:
    """Positions of box edges on the bins of a reference, and weights of the nearest two bins.

    This is the inverse of ``distances_to_boxes``, then a linear interpolation between the bins n
    and n + 1 around the distance.

    Args:
        reference_cxcywh: ``[..., 4]``.
        boxes_xyxy: ``[..., 4]`` in the same units.
        bins: ``[reg_max + 1]`` from ``bin_distances``.

    Returns:
        ``target``, ``weight_right`` and ``weight_left``, each ``[..., 4]`` (edges l, t, r, b)
        without gradient. ``target`` is a float in [0, reg_max - 0.1]; its floor is the left bin.
        The weights sum to 1. Below W(0), all weight is on bin 0. From W(reg_max) on, all weight is
        on bin reg_max.
    """
    with torch.no_grad():
        centre = reference_cxcywh[..., :2]
        unit = (
            reference_cxcywh[..., 2:] / reg_scale + 1e-16
        )  # avoids 0 / 0 for a reference of no size
        from_centre = torch.cat(
            [(centre - boxes_xyxy[..., :2]) / unit, (boxes_xyxy[..., 2:] - centre) / unit], dim=-1
        )
        distance = (from_centre - 0.5 * reg_scale).contiguous()

        reg_max = bins.shape[0] - 1
        bins = bins.detach().to(distance.dtype)
        index = torch.searchsorted(bins, distance, right=True) - 1
        below, above = index < 0, index >= reg_max
        left = index.clamp(0, reg_max - 1)
        to_left, to_right = (distance - bins[left]).abs(), (bins[left + 1] - distance).abs()
        weight_right = (
            (to_left / (to_left + to_right)).masked_fill(below, 0.0).masked_fill(above, 1.0)
        )
        target = left.to(distance.dtype).masked_fill(above, reg_max - _LAST_BIN_MARGIN)
        return target, weight_right, 1 - weight_right
