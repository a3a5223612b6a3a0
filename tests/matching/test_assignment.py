"""matching/assignment.py: the union, the late cost, and means over processes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deim_lab.config import MatchConfig
from deim_lab.errors import ConfigError
from deim_lab.matching import Divisors, assign, assignment, union
from deim_lab.structures import DecoderOutput, Matches, Targets
from loss_cases import FAMILIES, OFFICIAL, official_batch, random_batch, score
from places import REFERENCE
from processes import CONTEXT

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


@pytest.mark.parametrize(
    ("index", "described"),
    [
        (torch.zeros(1, dtype=torch.int32), r"torch.int32 \[1\] on cpu"),
        (torch.zeros(1, 1, dtype=torch.int64), r"torch.int64 \[1, 1\] on cpu"),
        (torch.zeros(1, dtype=torch.int64, device="meta"), r"torch.int64 \[1\] on meta"),
    ],
    ids=["dtype", "shape", "device"],
)
@pytest.mark.parametrize("name", ["level", "image", "query", "target"])
def test_each_index_of_an_added_matching_is_checked(
    name: str, index: Tensor, described: str
) -> None:
    output, targets = random_batch([1])
    matches = matches_of([(0, 0, 0, 0)])
    assignment._check(matches, output.matching.logits, targets, "mine")
    object.__setattr__(matches, name, index)  # the shape check of the tests would refuse it
    with pytest.raises(ConfigError, match=rf"'mine': Matches.{name} must be int64.* {described}"):
        assignment._check(matches, output.matching.logits, targets, "mine")


def test_edge_terms_have_the_divisors_of_the_last_levels() -> None:
    by_level = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert torch.equal(Divisors(1.0, by_level, 1.0).edge_terms(3), by_level[2:])  # type: ignore[arg-type]
    assert Divisors(1.0, torch.tensor(6.0), 1.0).edge_terms(3) == 6.0
    assert Divisors(1.0, 7.0, 1.0).edge_terms(3) == 7.0


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


@pytest.mark.parametrize("family", FAMILIES)
def test_matches_are_the_official_ones(family: str) -> None:
    output, targets, _ = official_batch(family, torch.float64)
    table = score(output, targets)
    order = [
        len(output.matching.levels) - 1,
        *range(len(output.matching.levels) - 3, len(output.matching.levels) - 1),
    ]
    order += [1, 0] if family == "dfine" else [0]
    for level, expected in zip(
        order, OFFICIAL[family]["settings"]["deim"]["matcher_calls_in_order"], strict=True
    ):
        mine = table.matches.of_level(level)
        for image, (rows, columns) in enumerate(expected):
            here = mine.image == image
            assert mine.query[here].tolist() == rows
            assert (mine.target[here] - targets.offsets[image]).tolist() == columns


def test_means_over_ranks_are_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks; the other one has 0, 1 and 2."""

    def all_reduce(values: Tensor) -> None:
        values += torch.tensor([0.0, 1.0, 2.0])

    device = torch.device("cpu")
    assert assignment._mean_over_ranks([0, 0.5, 6], device) == [1.0, 1.0, 6.0]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    found = torch.stack(
        [torch.as_tensor(v) for v in assignment._mean_over_ranks([0, 2, 6], device)]
    )
    assert found.tolist() == [1.0, 1.5, 4.0]


def test_a_rank_without_pairs_counts_as_zero_in_the_mean_over_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks; the other one has 3 targets, 3 pairs of the union and 3 of the level."""

    def all_reduce(values: Tensor) -> None:
        values += 3.0

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    found = Divisors.count(
        MatchConfig(),
        num_targets=0,
        pairs_by_level=[0],
        pairs_of_union=0,
        device=torch.device("cpu"),
    )
    assert (found.targets, found.box_terms, found.class_terms) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_divisors_of_pairs_are_made_on_the_given_device(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: ranks > 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: None)
    found = Divisors.count(
        MatchConfig(kind="simota"),
        num_targets=3,
        pairs_by_level=[2, 4],
        pairs_of_union=None,
        device=torch.device("meta"),
    )
    assert torch.as_tensor(found.class_terms).device.type == "meta"
    assert ranks == 1 or torch.as_tensor(found.targets).device.type == "meta"


def test_normalisers_are_means_over_ranks(tmp_path: Path) -> None:
    processes = [CONTEXT.Process(target=_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    found = [
        json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)
    ]
    alone = [score(*random_batch(counts)).as_dict() for counts in ([3, 2], [0, 1])]
    assert found[0]["class/pre"] == pytest.approx(alone[0]["class/pre"] * 5 / 3)
    assert found[1]["class/pre"] == pytest.approx(alone[1]["class/pre"] * 1 / 3)


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    table = score(*random_batch([[3, 2], [0, 1]][rank]))
    Path(folder, f"{rank}.json").write_text(json.dumps(table.as_dict()), encoding="utf-8")
    torch.distributed.destroy_process_group()
