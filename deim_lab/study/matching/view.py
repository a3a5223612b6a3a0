"""One model on some images: the costs, matches and IoU of every level.

The model is looked at as inference has it (EMA weights, running statistics of the norms), but at
every level and with the matching that trains it (``matching.assign``).
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
    """What one model makes of some images: every level's predictions, costs and matches, on the
    CPU.

    Attributes:
        levels: ``K`` names, coarse to fine.
        costs: ``class``, ``l1``, ``giou`` → ``[K, T, Q]``, the parts of the one-to-one cost with
            their weights in it.
        matches: of all levels, by the kind of matching that was asked for.
        iou: ``[M]`` of the matched pairs.
        boxes_cxcywh: ``[K, B, Q, 4]``.
        scores: ``[K, B, Q, C]`` in [0, 1].
        names: ``[B, Q]`` int64 who each query is: its anchor, and its group.
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
        """One row a matched pair: ``level, image, query, target, iou, score`` (of the target's
        class), ``target`` counted in its image.
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
        """The pairs of one image with both boxes in pixels (columns as ``figures.matching`` draws
        them); a row without a query, its box NaN, for each target that has none at that level.
        """
        scale = torch.tensor([*size_wh, *size_wh])
        wanted = cxcywh_to_xyxy(self.targets.of_image(image)[0]) * scale
        pairs = self.pairs()
        pairs = pairs[pairs["image"] == image]
        every = pd.MultiIndex.from_product(
            [self.levels, range(len(wanted))], names=["level", "target"]
        ).to_frame(index=False)
        table = every.merge(pairs, how="left", on=["level", "target"])
        level = torch.tensor(
            [self.levels.index(name) for name in table["level"]], dtype=torch.int64
        )
        query = torch.from_numpy(table["query"].fillna(-1).to_numpy(dtype="int64", copy=True))
        found = cxcywh_to_xyxy(self.boxes_cxcywh[level, image, query]) * scale
        found[query < 0] = torch.nan
        sides = ("x1", "y1", "x2", "y2")
        table[[f"query_{side}" for side in sides]] = found.numpy()
        table[[f"target_{side}" for side in sides]] = wanted[
            torch.from_numpy(table["target"].to_numpy(copy=True))
        ].numpy()
        return table

    def costs_of(self, image: int, level: str) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        """Parts of the cost ``[n, Q]`` of one image at one level, and its assigned
        ``(query, target)``, targets counted in the image.
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
    """Run ``model`` (which is put into eval mode) on ``images [B, 3, H, W]`` and match every level.

    ``match``: kind and costs; None: the official one-to-one matching. ``ConfigError`` if the model
    has other query groups than it asks for.
    """
    match = match or MatchConfig()
    decoder = every_level(model, images)
    targets = targets.to("cpu")
    matches = assign(decoder, targets, match)
    parts = hungarian.cost_parts(
        decoder.logits, decoder.boxes_cxcywh, targets, alpha=match.alpha, gamma=match.gamma
    )
    weights = {"class": match.cost_class, "l1": match.cost_l1, "giou": match.cost_giou}
    wanted = cxcywh_to_xyxy(targets.boxes_cxcywh[matches.target])
    found = cxcywh_to_xyxy(decoder.boxes_cxcywh[matches.level, matches.image, matches.query])
    assert decoder.anchors is not None
    group = torch.arange(decoder.anchors.shape[1]) // (decoder.anchors.shape[1] // decoder.groups)
    return View(
        decoder.levels,
        {name: weight * part for (name, weight), part in zip(weights.items(), parts, strict=True)},
        matches,
        paired_iou(found, wanted),
        decoder.boxes_cxcywh,
        decoder.logits.sigmoid(),
        decoder.anchors * decoder.groups + group,
        targets,
        decoder.groups,
    )


def duplicates(
    view: View, *, thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.5), iou: float = 0.5
) -> pd.DataFrame:
    """How many queries of the last level detect each target, with its class above a score threshold
    and at ``iou`` or more.

    One-to-one training leaves about one; one-to-many training leaves several, of which all but one
    count as false.

    Returns:
        ``threshold``, ``found`` (share of the targets that are detected), ``detections`` (mean of
        those), ``spare`` (share of the detections
        that are not a target's first; NaN where nothing is detected).
    """
    targets, queries = view.targets, view.names.shape[1] // view.groups
    scores = view.scores[-1, :, :queries][targets.image_index, :, targets.labels]  # [T, Q]
    boxes = view.boxes_cxcywh[-1, targets.image_index, :queries]
    overlap = paired_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes_cxcywh)[:, None])
    rows = []
    for threshold in thresholds:
        count = ((scores >= threshold) & (overlap >= iou)).sum(-1)
        found, total = int((count > 0).sum()), int(count.sum())
        rows.append(
            (
                threshold,
                found / max(len(targets), 1),
                total / found if found else float("nan"),
                (total - found) / total if total else float("nan"),
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
