"""Reading a folder of runs: data are not mixed, a seed counts once, wrong names are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deim_lab.errors import ConfigError, DataError
from deim_lab.study import ablation
from trained_runs import PLAIN, grid, indexed, trained


def test_different_data_never_meet_unasked(tmp_path: Path) -> None:
    first = [trained(tmp_path, overrides, 0) for overrides in (PLAIN, {})]
    other = trained(tmp_path, {}, 1, data={"name": "toy", "fingerprint": "e" * 64})
    third = trained(tmp_path, {}, 2, data={"name": "else", "fingerprint": "a" * 64})
    indexed(
        tmp_path,
        "mixed",
        [
            ("off", 0, first[0], "done"),
            ("on", 0, first[1], "done"),
            ("on", 1, other, "done"),
            ("on", 2, third, "done"),
        ],
        baseline="off",
    )
    with pytest.raises(
        DataError, match=r"different data: toy d{12} \(2 runs\), toy e{12} \(1 runs\), else"
    ):
        ablation.read(tmp_path)
    by_name = ablation.read(tmp_path, data="toy")
    assert {arm.name: len(arm.trials) for arm in by_name.arms} == {"off": 1, "on": 2}
    assert any("share their name" in note for note in by_name.notes)
    assert {arm.name: len(arm.trials) for arm in ablation.read(tmp_path, data="dddddd").arms} == {
        "off": 1,
        "on": 1,
    }
    alone = ablation.read(
        tmp_path, False
    )  # without a sweep the largest group counts, and a note lists the others
    assert sum(len(arm.trials) for arm in alone.arms) == 2
    assert any(note.startswith("left out") for note in alone.notes)


def test_a_seed_that_was_trained_twice_counts_once(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4], "DEIM": [0.5]})
    trained(tmp_path, {}, 0, 0.6)
    found = ablation.read(tmp_path)
    assert ablation.summary(found)["AP"].tolist() == pytest.approx([0.4, 0.6])
    assert "DEIM: seed 0 was trained more than once; the latest run counts" in found.notes


def test_nothing_to_compare_says_what_makes_runs(tmp_path: Path) -> None:
    assert ablation.overview(tmp_path / "none").empty
    with pytest.raises(DataError, match="deim-lab sweep components"):
        ablation.read(tmp_path)
    trained(tmp_path, {}, 0)
    with pytest.raises(DataError, match="two arms"):
        ablation.read(tmp_path)
    assert ablation.overview(tmp_path)[["arms", "done", "failed"]].to_numpy().tolist() == [
        [1, 1, 0]
    ]
    assert "smoke on toy: smoke (1 done). A comparison needs finished runs of two arms" in str(
        ablation.lacking(tmp_path)
    )
    trained(tmp_path, PLAIN, 0, end="failed")
    assert "1 failed" in str(ablation.lacking(tmp_path))
    trained(tmp_path, PLAIN, 1)
    assert ablation.lacking(tmp_path) is None
    assert ablation.lacking(tmp_path, preset="cpu_demo") is not None


def test_wrong_names_are_refused_with_the_right_ones(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4], "DEIM": [0.5]})
    with pytest.raises(ConfigError, match=r"'DIEM' is not an arm.*did you mean 'DEIM'"):
        ablation.read(tmp_path, baseline="DIEM")
    with pytest.raises(ConfigError, match=r"unknown arm 'plan'.*did you mean 'plain'"):
        ablation.read(tmp_path, names={"plan": "x"})
    with pytest.raises(ConfigError, match="two arms would have the name 'DEIM'"):
        ablation.read(tmp_path, names={"plain": "DEIM"})
    with pytest.raises(ConfigError, match="unknown preset 'smok'"):
        ablation.read(tmp_path, preset="smok")
    with pytest.raises(ConfigError, match=r"unknown metric 'AP55'.*AP50"):
        ablation.summary(ablation.read(tmp_path), "AP55")
    (tmp_path / "sweeps" / "torn").mkdir(parents=True)
    (tmp_path / "sweeps" / "torn" / "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"index\.json is no readable JSON"):
        ablation.read(tmp_path)


def test_weights_of_a_backbone_are_a_change_by_their_content(tmp_path: Path) -> None:
    rows = []
    for arm, path, content in (
        ("scratch", None, None),
        ("one", "a.pth", "1" * 64),
        ("same file elsewhere", "b.pth", "1" * 64),
    ):
        own = {} if path is None else {"model.backbone_weights": path}
        rows.append(
            (
                arm,
                0,
                trained(
                    tmp_path,
                    own,
                    0,
                    0.4,
                    weights=None
                    if path is None
                    else {"path": path, "sha256": content, "part": "backbone"},
                ),
                "done",
            )
        )
    indexed(tmp_path, "starts", rows, baseline="scratch")
    assert ablation.proof(ablation.read(tmp_path))["changes"].tolist() == [
        "(baseline)",
        "model.backbone_weights=a.pth",
        "model.backbone_weights=b.pth",
    ]
    assert [arm.changes for arm in ablation.read(tmp_path, baseline="one").arms][-1] == {}


def test_unlike_circumstances_are_noted(tmp_path: Path) -> None:
    grid(tmp_path, {"plain": [0.4], "DEIM": [0.5]})
    run = trained(tmp_path, {}, 1, 0.5)
    info = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    (run.folder / "run.json").write_text(
        json.dumps(info | {"device": "cuda:0", "git": {"commit": "0" * 40, "dirty": False}}),
        encoding="utf-8",
    )
    notes = ablation.read(tmp_path).notes
    assert any(
        note.startswith("runs of 2 kinds of device: cpu (2 runs), cuda (1 runs)") for note in notes
    )
    assert any("commits of the lab" in note for note in notes)
