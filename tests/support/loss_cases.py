"""Outputs of a detector without a detector, official and random, and their losses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deim_lab.config import LossConfig, MatchConfig
from deim_lab.losses import criterion
from deim_lab.losses.criterion import LossTable
from deim_lab.matching import assign
from deim_lab.structures import DecoderOutput, DetectorOutput, Matches, Targets
from places import REFERENCE

FAMILIES = ("dfine", "rtdetr")
OFFICIAL = {
    family: json.loads((REFERENCE / f"criterion_{family}.json").read_text(encoding="utf-8"))
    for family in FAMILIES
}
SETTINGS = [(family, name) for family in FAMILIES for name in OFFICIAL[family]["settings"]]


def official_batch(
    family: str, dtype: torch.dtype
) -> tuple[DetectorOutput, Targets, dict[str, Tensor]]:
    """The captured output as ours, the targets, and the leaves by their official path."""
    arrays, alias, scalars = (
        np.load(REFERENCE / f"criterion_{family}.npz"),
        OFFICIAL[family]["alias"],
        OFFICIAL[family]["scalars"],
    )
    leaves = {
        name: torch.from_numpy(arrays[name]).to(dtype).requires_grad_()
        for name in arrays.files
        if name.rpartition(".")[2].startswith(("pred_", "ref_", "teacher_"))
    }
    counts = arrays["tgt_counts"].tolist()
    targets = Targets.from_lists(
        torch.from_numpy(arrays["tgt_boxes"]).to(dtype).split(counts),
        torch.from_numpy(arrays["tgt_labels"]).split(counts),
    )

    def leaf(name: str) -> Tensor | None:
        return leaves.get(alias.get(name, name))

    def decoder(paths: dict[str, str]) -> DecoderOutput:
        def gather(field: str) -> list[Tensor]:
            return [item for path in paths.values() if (item := leaf(path + field)) is not None]

        corners, last = gather("pred_corners"), list(paths.values())[-1]
        reference = leaf(last + "ref_points")
        return DecoderOutput(
            tuple(paths),
            torch.stack(gather("pred_logits")),
            torch.stack(gather("pred_boxes")),
            torch.stack(corners) if corners else None,
            reference.detach() if reference is not None else None,
        )

    pre = {"pre": "pre_outputs."} if family == "dfine" else {}
    dn_pre = {"pre": "dn_pre_outputs."} if family == "dfine" else {}
    positives = [
        torch.from_numpy(arrays[f"dn_meta.dn_positive_idx.{image}"]) for image in range(len(counts))
    ]
    groups = scalars["dn_meta.dn_num_group"]
    dn_matches = Matches(
        image=torch.cat([torch.full_like(query, image) for image, query in enumerate(positives)]),
        query=torch.cat(positives),
        target=torch.cat(
            [
                torch.arange(count).repeat(groups) + start
                for count, start in zip(counts, targets.offsets.tolist())
            ]
        ),
    )
    output = DetectorOutput(
        matching=decoder(
            {
                "encoder": "enc_aux_outputs.0.",
                **pre,
                "layer_0": "aux_outputs.0.",
                "layer_1": "aux_outputs.1.",
                "layer_2": "",
            }
        ),
        denoising=decoder({**dn_pre, **{f"layer_{i}": f"dn_outputs.{i}." for i in range(3)}}),
        dn_matches=dn_matches,
        dn_groups=groups,
        up=torch.tensor(scalars["up"], dtype=dtype) if "up" in scalars else None,
        reg_scale=torch.tensor(scalars["reg_scale"], dtype=dtype)
        if "reg_scale" in scalars
        else None,
    )
    return output, targets, leaves


def config_of(params: dict[str, Any]) -> LossConfig:
    """The losses of an official setting."""
    kind = params["losses"][0]
    return LossConfig(
        classification=kind,
        gamma=params["gamma"],
        alpha=params["alpha"] if kind == "vfl" else params.get("mal_alpha"),
        go_union=params["use_uni_set"],
        giou_weighting=params.get("boxes_weight_format") or "none",
    )


def random_batch(
    counts: list[int],
    *,
    queries: int = 12,
    classes: int = 5,
    layers: int = 2,
    edges: bool = True,
    seed: int = 0,
) -> tuple[DetectorOutput, Targets]:
    """A detector's output without a detector: leaves that take gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    def boxes(*shape: int) -> Tensor:
        return (0.2 + 0.5 * torch.rand(*shape, 4, generator=generator)).requires_grad_()

    batch = len(counts)
    levels = ("encoder", "pre", *(f"layer_{i}" for i in range(layers)))
    matching = DecoderOutput(
        levels,
        normal(len(levels), batch, queries, classes),
        boxes(len(levels), batch, queries),
        normal(layers, batch, queries, 4 * 33) if edges else None,
        boxes(batch, queries).detach() if edges else None,
    )
    targets = Targets.from_lists(
        [0.2 + 0.5 * torch.rand(n, 4, generator=generator) for n in counts],
        [torch.randint(classes, (n,), generator=generator) for n in counts],
    )
    return DetectorOutput(matching, up=torch.tensor([0.5]), reg_scale=torch.tensor([4.0])), targets


def score(
    output: DetectorOutput, targets: Targets, loss: LossConfig | None = None, **options: Any
) -> LossTable:
    """The losses of an output, matched as usual."""
    match = MatchConfig()
    matches = assign(output, targets, match)
    return criterion.compute(
        output, targets, matches, loss=loss or LossConfig(), match=match, **options
    )
