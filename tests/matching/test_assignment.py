"""matching/assignment.py: the union, the late cost, and means over processes."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from deim_lab.config import MatchConfig
from deim_lab.matching import assign, union
from deim_lab.structures import DecoderOutput, Matches, Targets
from places import REFERENCE

pytestmark = pytest.mark.numeric

CASES = json.loads((REFERENCE / "losses.json").read_text(encoding="utf-8"))


def test_late_matching_prefers_the_box_that_fits() -> None:
    """Query 0: half the overlap, far the best score. Query 1: the exact box. The usual cost takes
    the first, the late one the second.
    """
    targets = Targets.from_lists([torch.tensor([[0.5, 0.5, 0.4, 0.4]])], [torch.tensor([0])])
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.28], [0.5, 0.5, 0.4, 0.4]]])
    logits = torch.tensor([[[4.0], [0.0]]])
    decoder = DecoderOutput(("layer_0",), logits[None], boxes[None])
    config = MatchConfig(iou_power=4.0, cost_class=6.0)
    assert assign(decoder, targets, config).query.tolist() == [0]
    assert assign(decoder, targets, config, late=True).query.tolist() == [1]
    assert assign(decoder, targets, MatchConfig(cost_class=6.0), late=True).query.tolist() == [0], (
        "without a power there is no late cost"
    )


def matches_of(rows: list[tuple[int, int, int, int]]) -> Matches:
    """Rows of (level, image, query, target)."""
    level, image, query, target = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).T
    return Matches(image, query, target, level)


@pytest.mark.parametrize("later", [2, 0], ids=["lower target first", "higher target first"])
def test_of_equally_frequent_targets_the_union_keeps_the_lowest(later: int) -> None:
    """Whichever level matched it, and whatever other queries and images do."""
    earlier = 2 - later
    twice = [(0, 1, 3, earlier), (1, 1, 3, later), (2, 1, 3, 1), (3, 1, 3, earlier)]
    found = union(matches_of([*twice, (4, 1, 3, later), (0, 1, 4, 2), (0, 0, 3, 2)]))
    pairs = list(zip(found.image.tolist(), found.query.tolist(), found.target.tolist()))
    assert pairs == [(0, 3, 2), (1, 3, 0), (1, 4, 2)]


@pytest.mark.parametrize("case", CASES["go_union"], ids=lambda case: str(case["case"]))
def test_union_parity(case: dict) -> None:
    offsets = np.concatenate([[0], np.cumsum(case["counts"])])
    rows = [
        (level, image, query, column + offsets[image])
        for level, layer in enumerate(case["layers"])
        for image, (queries, columns) in enumerate(layer)
        for query, column in zip(queries, columns)
    ]
    matches = matches_of(rows)
    image, query, target = matches.image, matches.query, matches.target
    found = union(matches)
    mine = {(int(b), int(q)): int(t) for b, q, t in zip(found.image, found.query, found.target)}
    expected = {
        (image, query): column + offsets[image]
        for image, (queries, columns) in enumerate(case["union"])
        for query, column in zip(queries, columns)
    }
    assert len(found) == len(mine)
    assert mine.keys() == expected.keys()
    often = Counter((int(b), int(q), int(t)) for b, q, t in zip(image, query, target))
    for (
        key,
        chosen,
    ) in mine.items():  # case 1 has a tie that the official unstable sort resolved otherwise
        tied = (
            not case["equals_stable_rule"]
            and often[*key, chosen] == often[*key, int(expected[key])]
        )
        assert chosen == expected[key] or tied
