"""detector/denoising.py: recorded draws of the official code, the cap, rules of the mask."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch

from deim_lab.detector import denoising
from deim_lab.detector.denoising import Draws, make_queries
from deim_lab.structures import Targets
from places import REFERENCE

pytestmark = pytest.mark.numeric

CASES = json.loads((REFERENCE / "denoising.json").read_text(encoding="utf-8"))
OPTIONS: dict[str, Any] = {
    "num_classes": 7,
    "num_queries": 5,
    "num_denoising": 10,
    "max_denoising": 800,
    "label_noise_ratio": 0.5,
    "box_noise_scale": 1.0,
}


def targets_of(counts: list[int], num_classes: int = 7, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    return Targets.from_lists(
        [0.3 + 0.3 * torch.rand(n, 4, generator=generator) for n in counts],
        [torch.randint(num_classes, (n,), generator=generator) for n in counts],
    )


@pytest.mark.parametrize("tag", ["d0", "d1", "d2", "d3"])
def test_parity_with_recorded_draws(tag: str) -> None:
    case, arrays = CASES[tag], np.load(REFERENCE / "denoising.npz")
    counts = case["counts"]
    targets = Targets.from_lists(
        torch.from_numpy(arrays[f"{tag}.tgt_boxes"]).split(counts),
        torch.from_numpy(arrays[f"{tag}.tgt_labels"]).split(counts),
    )
    recorded = [torch.from_numpy(arrays[f"{tag}.draw{i}"]) for i in range(len(case["draws"]))]
    if len(recorded) == 2:  # no label noise: flip and labels were not drawn
        shape = recorded[0].shape[:2]
        recorded = [torch.zeros(shape), torch.zeros(shape, dtype=torch.int64), *recorded]
    options = {
        key: case[key]
        for key in (
            "num_classes",
            "num_queries",
            "num_denoising",
            "label_noise_ratio",
            "box_noise_scale",
        )
    }
    queries = make_queries(targets, **options, max_denoising=800, draws=Draws(*recorded))

    assert queries is not None
    assert queries.groups == case["dn_meta"]["dn_num_group"]
    assert queries.class_ids.tolist() == arrays[f"{tag}.class_ids"].tolist()
    np.testing.assert_allclose(
        queries.boxes_logit.numpy(), arrays[f"{tag}.bbox_unact"], atol=1e-4, rtol=0
    )
    size = case["attn_mask_shape"][1]
    assert np.array_equal(
        queries.attention_mask.numpy(),
        np.unpackbits(arrays[f"{tag}.attn_mask"], axis=1)[:, :size].astype(bool),
    )
    for image, expected in enumerate(case["dn_meta"]["dn_positive_idx"]):
        mine = queries.matches.image == image
        assert sorted(queries.matches.query[mine].tolist()) == expected
    start = targets.offsets[queries.matches.image]
    per_group = max(counts)
    assert torch.equal(queries.matches.target - start, queries.matches.query % (2 * per_group))


def test_none_when_off_or_without_targets() -> None:
    assert make_queries(targets_of([0, 0]), **OPTIONS) is None
    assert make_queries(targets_of([2, 0]), **{**OPTIONS, "num_denoising": 0}) is None
    assert CASES["d4_empty"]["result"] == "all four outputs are None"


@pytest.mark.parametrize(
    ("fullest", "max_denoising"), [(3, 800), (50, 800), (50, 40), (50, 3), (7, 15), (1, 2)]
)
def test_the_cap_holds_and_every_positive_keeps_its_target(
    fullest: int, max_denoising: int
) -> None:
    targets = targets_of([2, fullest, 0])
    queries = make_queries(
        targets,
        **{
            **OPTIONS,
            "max_denoising": max_denoising,
            "label_noise_ratio": 0.0,
            "box_noise_scale": 0.0,
        },
    )
    assert queries is not None
    matches = queries.matches
    assert len(queries) <= max_denoising
    assert len(matches) == queries.groups * sum(min(n, max_denoising // 2) for n in (2, fullest, 0))
    assert torch.equal(targets.image_index[matches.target], matches.image)
    assert torch.equal(
        queries.class_ids[matches.image, matches.query], targets.labels[matches.target]
    )
    torch.testing.assert_close(
        queries.boxes_logit[matches.image, matches.query].sigmoid(),
        targets.boxes_cxcywh[matches.target],
    )
    assert (queries.class_ids[2] == OPTIONS["num_classes"]).all()


def test_the_cap_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoising, "_warned_of_cap", False)
    with caplog.at_level(logging.WARNING, logger="deim_lab"):
        for _ in range(2):
            make_queries(targets_of([30]), **{**OPTIONS, "max_denoising": 20})
    assert [record.getMessage()[:66] for record in caplog.records] == [
        "an image has 30 targets, but denoising uses only the first 10 of a"
    ]


def test_same_generator_state_gives_same_queries_and_noise_is_bounded() -> None:
    targets = targets_of([4, 1])
    first, second = (
        make_queries(targets, **OPTIONS, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert first is not None
    assert second is not None
    assert torch.equal(first.boxes_logit, second.boxes_logit)
    assert torch.equal(first.class_ids, second.class_ids)
    # A positive's edges move by less than half a side, so its centre by less too, and its size at
    # most doubles.
    noisy = first.boxes_logit[first.matches.image, first.matches.query].sigmoid()
    clean = targets.boxes_cxcywh[first.matches.target]
    assert ((noisy[:, :2] - clean[:, :2]).abs() <= clean[:, 2:] / 2 + 1e-4).all()
    assert not torch.allclose(noisy, clean)


def test_labels_flip_at_half_the_ratio_and_padding_never() -> None:
    targets = targets_of([40, 10], num_classes=1000)
    queries = make_queries(
        targets,
        **{**OPTIONS, "num_classes": 1000, "num_denoising": 400, "label_noise_ratio": 0.5},
        generator=torch.Generator().manual_seed(0),
    )
    assert queries is not None
    matches = queries.matches
    flipped = (
        (queries.class_ids[matches.image, matches.query] != targets.labels[matches.target])
        .float()
        .mean()
    )
    assert 0.18 < float(flipped) < 0.32
    padding = torch.arange(len(queries)) % 40 >= 10
    assert (queries.class_ids[1, padding] == 1000).all()
