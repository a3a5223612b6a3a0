"""View one model on some images: the costs, matches and IoU of every level.

The model is in inference mode (EMA weights, running statistics of the norms), but every level is
viewed, with the matching that trains the model (``matching.assign``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from deim_lab.boxes import cxcywh_to_xyxy, paired_iou
from deim_lab.config import MatchConfig
from deim_lab.detector.detector import Detector
from deim_lab.matching import assign, hungarian
from deim_lab.structures import DecoderOutput, Matches, Targets


@dataclass(frozen=True)
class View:
    """One model on some images: every level's predictions, costs and matches, on the CPU.

    Attributes:
        levels: ``K`` names, coarse to fine.
        costs: ``class``, ``l1``, ``giou`` → ``[K, T, Q]``, the weighted parts of the one-to-one
            cost.
        matches: of all levels, by the requested kind of matching.
        iou: ``[M]`` of the matched pairs.
        boxes_cxcywh: ``[K, B, Q, 4]``.
        scores: ``[K, B, Q, C]`` in [0, 1].
        names: ``[B, Q]`` int64, identifies each query by its anchor and its group.
        targets: of the images.
        groups: query groups; the first ``Q / groups`` queries are those of inference.
    """

    levels: tuple[str, ...]
    costs: dict[str, Tensor]
    matches: Matches
    iou: Tensor
    boxes_cxcywh: Tensor
    scores: Tensor
    names: Tensor
    targets: Targets
    groups: int = 1

    def pairs(self) -> pd.DataFrame:
        """One row per matched pair: ``level, image, query, target, iou, score``.

        ``score`` is that of the target's class. ``target`` is counted within its image.
        """
        matches, targets = self.matches, self.targets
        assert matches.level is not None
        score = self.scores[
            matches.level, matches.image, matches.query, targets.labels[matches.target]
        ]
        return pd.DataFrame(
            {
                "level": [self.levels[index] for index in matches.level.tolist()],
                "image": matches.image.numpy(),
                "query": matches.query.numpy(),
                "target": (matches.target - targets.offsets[matches.image]).numpy(),
                "iou": self.iou.numpy(),
                "score": score.numpy(),
            }
        )

    def of_image(self, image: int, size_wh: tuple[int, int]) -> pd.DataFrame:
        """The pairs of one image with boxes in pixels, in the columns of ``figures.matching``.

        A target without a query at a level has a row whose query box is NaN.
        """
        scale = torch.tensor([*size_wh, *size_wh])
        target_boxes = cxcywh_to_xyxy(self.targets.of_image(image)[0]) * scale
        pairs = self.pairs()
        pairs = pairs[pairs["image"] == image]
        every = pd.MultiIndex.from_product(
            [self.levels, range(len(target_boxes))], names=["level", "target"]
        ).to_frame(index=False)
        table = every.merge(pairs, how="left", on=["level", "target"])
        level = torch.tensor(
            [self.levels.index(name) for name in table["level"]], dtype=torch.int64
        )
        query = torch.from_numpy(table["query"].fillna(-1).to_numpy(dtype="int64", copy=True))
        query_boxes = cxcywh_to_xyxy(self.boxes_cxcywh[level, image, query]) * scale
        query_boxes[query < 0] = torch.nan
        sides = ("x1", "y1", "x2", "y2")
        table[[f"query_{side}" for side in sides]] = query_boxes.numpy()
        table[[f"target_{side}" for side in sides]] = target_boxes[
            torch.from_numpy(table["target"].to_numpy(copy=True))
        ].numpy()
        return table

    def costs_of(self, image: int, level: str) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        """Costs of one image at one level, and the assigned pairs.

        Returns the parts of the cost, each ``[n, Q]``, and the ``(query, target)`` pairs. Targets
        are counted within the image.
        """
        index = self.levels.index(level)
        rows = self.targets.image_index == image
        pairs = self.pairs()
        pairs = pairs[(pairs["image"] == image) & (pairs["level"] == level)]
        return {name: part[index, rows] for name, part in self.costs.items()}, list(
            zip(pairs["query"], pairs["target"], strict=True)
        )


@torch.no_grad()
def inspect(
    model: Detector, images: Tensor, targets: Targets, match: MatchConfig | None = None
) -> View:
    """Run ``model`` on ``images [B, 3, H, W]`` in eval mode and match every level.

    The model stays in eval mode. ``match``: kind and costs; None: the official one-to-one matching.
    ``ConfigError`` if the model has another number of query groups than ``match``.
    """
    match = match or MatchConfig()
    decoder = every_level(model, images)
    targets = targets.to("cpu")
    matches = assign(decoder, targets, match)
    parts = hungarian.cost_parts(
        decoder.logits, decoder.boxes_cxcywh, targets, alpha=match.alpha, gamma=match.gamma
    )
    weights = {"class": match.cost_class, "l1": match.cost_l1, "giou": match.cost_giou}
    target_boxes = cxcywh_to_xyxy(targets.boxes_cxcywh[matches.target])
    query_boxes = cxcywh_to_xyxy(decoder.boxes_cxcywh[matches.level, matches.image, matches.query])
    assert decoder.anchors is not None
    group = torch.arange(decoder.anchors.shape[1]) // (decoder.anchors.shape[1] // decoder.groups)
    return View(
        decoder.levels,
        {name: weight * part for (name, weight), part in zip(weights.items(), parts, strict=True)},
        matches,
        paired_iou(query_boxes, target_boxes),
        decoder.boxes_cxcywh,
        decoder.logits.sigmoid(),
        decoder.anchors * decoder.groups + group,
        targets,
        decoder.groups,
    )


def duplicates(
    view: View, *, thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.5), iou: float = 0.5
) -> pd.DataFrame:
    """Count the queries of the last level that detect each target.

    A query detects a target if its score for the target's class reaches the threshold and its IoU
    is at least ``iou``. One-to-one training leaves about one such query per target. One-to-many
    training leaves several, and all except one count as false positives.

    Returns:
        ``threshold``, ``found`` (share of the targets that are detected), ``detections`` (mean per
        detected target), ``spare`` (share of the detections that are not a target's first; NaN
        where nothing is detected).
    """
    targets, queries = view.targets, view.names.shape[1] // view.groups
    scores = view.scores[-1, :, :queries][targets.image_index, :, targets.labels]  # [T, Q]
    boxes = view.boxes_cxcywh[-1, targets.image_index, :queries]
    overlap = paired_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes_cxcywh)[:, None])
    rows = []
    for threshold in thresholds:
        count = ((scores >= threshold) & (overlap >= iou)).sum(-1)
        detected, total = int((count > 0).sum()), int(count.sum())
        rows.append(
            (
                threshold,
                detected / max(len(targets), 1),
                total / detected if detected else float("nan"),
                (total - detected) / total if total else float("nan"),
            )
        )
    return pd.DataFrame(rows, columns=["threshold", "found", "detections", "spare"])


def every_level(model: Detector, images: Tensor) -> DecoderOutput:
    """Every level's predictions in eval mode, on the CPU."""
    device = next(model.parameters()).device
    decoder = model.eval().every_level(images.to(device)).matching
    return replace(
        decoder,
        logits=decoder.logits.float().cpu(),
        boxes_cxcywh=decoder.boxes_cxcywh.float().cpu(),
        anchors=None if decoder.anchors is None else decoder.anchors.cpu(),
        corners=None,
        reference_cxcywh=None,
    )
