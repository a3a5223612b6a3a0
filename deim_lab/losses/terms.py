"""The terms of the loss: pure functions, before any weight or normaliser.

Classification terms (``focal``, ``vfl``, ``mal``) take ``[..., C]`` tensors of one shape and return
the elementwise loss ``[..., C]``. Training uses its sum divided by the number of targets.
``target`` is 1 at the class of a matched query and 0 elsewhere. ``iou`` is the IoU of that pair at
the same place and 0 elsewhere. Box and edge terms take matched pairs row by row, never a full
matrix.

``CLASSIFICATION`` names the classification terms and holds their defaults. To add your own term,
add an entry: ``CLASSIFICATION["mine"] = Term(mine, gamma=1.0)`` (docs/extending.md).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as _bce, log_softmax, logsigmoid

from deim_lab.boxes import paired_giou
from deim_lab.config.entries import CLASSIFICATION

_FOCAL, _VFL, _MAL = (CLASSIFICATION[name] for name in ("focal", "vfl", "mal"))


def focal(
    logits: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    iou: Float[Tensor, "*shape"] | None = None,
    *,
    gamma: float = _FOCAL.default("gamma"),
    alpha: float = _FOCAL.default("alpha"),
) -> Float[Tensor, "*shape"]:
    """Focal loss (Lin et al. 2017, eq. 5): ``α_t (1 − p_t)^γ · BCE(p, target)``.

    Ignores ``iou``, which only gives all terms one signature. The gradient also runs through the
    modulating factor, unlike in ``vfl`` and ``mal``.
    """
    missed = (
        gamma * logsigmoid(logits * (1 - 2 * target))
    ).exp()  # (1 − p_t)^γ, with a finite gradient where it is 0
    weight = (alpha * target + (1 - alpha) * (1 - target)) * missed
    return weight * _bce(logits, target, reduction="none")


def vfl(
    logits: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    iou: Float[Tensor, "*shape"],
    *,
    alpha: float = _VFL.default("alpha"),
    gamma: float = _VFL.default("gamma"),
) -> Float[Tensor, "*shape"]:
    """Varifocal loss (Zhang et al. 2021, eq. 2).

    Positives: ``q · BCE(p, q)``. Negatives: ``α p^γ · BCE(p, 0)``. ``q = iou``, and the weights are
    constants. The minimum is at ``p = q``. The gradient vanishes with ``q``, so a poor match
    teaches little.
    """
    score = logits.detach().sigmoid()
    weight = iou + alpha * score**gamma * (1 - target)
    return weight * _bce(logits, iou, reduction="none")


def mal(
    logits: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    iou: Float[Tensor, "*shape"],
    *,
    gamma: float = _MAL.default("gamma"),
    alpha: float | None = _MAL.alpha,
) -> Float[Tensor, "*shape"]:
    """Matchability-aware loss (DEIM, Huang et al. 2025, eq. 3).

    Positives: ``BCE(p, q^γ)``. Negatives: ``p^γ · BCE(p, 0)``, times ``alpha`` if given. ``q =
    iou``, and the weights are constants. The minimum is at ``p = q^γ``. A poor match keeps its full
    weight.
    """
    score = logits.detach().sigmoid()
    quality = target * iou**gamma
    weight = target + (1.0 if alpha is None else alpha) * score**gamma * (1 - target)
    return weight * _bce(logits, quality, reduction="none")


CLASSIFICATION.attach({"mal": mal, "vfl": vfl, "focal": focal})


def l1(
    predicted_cxcywh: Float[Tensor, "*pairs 4"], target_cxcywh: Float[Tensor, "*pairs 4"]
) -> Float[Tensor, "*pairs"]:
    """L1 distance of each pair, summed over 4 values: ``[..., 4]``, ``[..., 4]`` → ``[...]``."""
    return (predicted_cxcywh - target_cxcywh).abs().sum(-1)


def giou(
    predicted_xyxy: Float[Tensor, "*pairs 4"], target_xyxy: Float[Tensor, "*pairs 4"]
) -> Float[Tensor, "*pairs"]:
    """1 − GIoU of each pair, in [0, 2]: ``[..., 4]``, ``[..., 4]`` → ``[...]``."""
    return 1 - paired_giou(predicted_xyxy, target_xyxy)


def fgl(
    corners: Float[Tensor, "*edges bins"],
    target: Float[Tensor, "*edges"],
    weight_right: Float[Tensor, "*edges"],
    weight_left: Float[Tensor, "*edges"],
) -> Float[Tensor, "*edges"]:
    """Fine-grained localisation loss (D-FINE, Peng et al. 2024, eq. 6) of each edge.

    Cross-entropy of the two bins around the true distance, each weighted by its nearness. The
    weight by IoU is not included.

    Args:
        corners: ``[..., R + 1]`` logits of an edge's distribution.
        target: ``[...]`` fractional bin of the true distance, in ``[0, R)``.
        weight_right, weight_left: ``[...]`` shares of the bins ``floor(target) + 1`` and
            ``floor(target)``, summing to 1.

    Returns:
        ``[...]`` loss of each edge.
    """
    left = target.long().unsqueeze(-1)
    log_share = log_softmax(corners, dim=-1).gather(-1, torch.cat([left, left + 1], dim=-1))
    return -(log_share * torch.stack([weight_left, weight_right], dim=-1)).sum(-1)


def ddf(
    student: Float[Tensor, "*#edges bins"],
    teacher: Float[Tensor, "*#edges bins"],
    *,
    temperature: float = 5.0,
) -> Float[Tensor, "*_"]:
    """Decoupled distillation focal loss (D-FINE, GO-LSD) of each edge.

    ``T² · KL(teacher ‖ student)``, before any weight. Logits ``[..., R + 1]`` of student and
    teacher broadcast against one another → ``[...]``. The teacher gets no gradient.
    """
    teacher_log_probs = log_softmax(teacher.detach() / temperature, dim=-1)
    student_log_probs = log_softmax(student / temperature, dim=-1)
    difference = teacher_log_probs - student_log_probs
    return temperature**2 * (teacher_log_probs.exp() * difference).sum(-1)


def decoupled_mean(
    values: Float[Tensor, "*shape"],
    matched: Bool[Tensor, "*shape"],
    *,
    matched_share: float,
    unmatched_share: float,
    dims: tuple[int, ...],
) -> Tensor:
    """Weighted mean of two means of ``values``: over matched and over other entries.

    This is the "decoupled" part of DDF. ``values`` and the bool ``matched`` have one shape.
    ``dims`` are reduced. An empty part counts as 0.
    """
    inside = matched.to(values.dtype)
    mean_matched = (values * inside).sum(dims) / inside.sum(dims).clamp(min=1)
    mean_other = (values * (1 - inside)).sum(dims) / (1 - inside).sum(dims).clamp(min=1)
    return (mean_matched * matched_share + mean_other * unmatched_share) / (
        matched_share + unmatched_share
    )
