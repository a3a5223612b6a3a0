"""The demo's main job, in small: two arms trained side by side, compared, drawn, reported; and what
happens when an arm fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from deim_lab.cli import demo
from deim_lab.data import synthetic
from deim_lab.errors import ConfigError, RunFailedError
from deim_lab.runs import Run, all_runs

TINY = {
    "data.input_size": 64,
    "train.epochs": 2,
    "model.num_queries": 20,
    "model.num_denoising": 8,
    "train.eval_every": 2,
}


@pytest.fixture
def small_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder whose embedded set is a small one, so that the two processes have little to
    do.
    """
    folder = synthetic.make(tmp_path / "set", train_images=12, val_images=4, size_px=(64, 64))
    data = {
        half: {
            "images": str(folder / "images" / half),
            "annotations": str(folder / f"annotations/instances_{half}.json"),
        }
        for half in ("train", "val")
    }
    monkeypatch.setattr(demo, "DATA", data)
    return tmp_path / "runs"


@pytest.mark.slow
def test_two_arms_from_one_seed_are_compared_and_drawn(small_embedded: Path) -> None:
    arms = demo.main(
        small_embedded, preset_name="smoke", overrides=TINY, seed=4, notebook=None, progress=False
    )
    assert [arm.name for arm in arms] == ["plain D-FINE", "DEIM"]
    plain, deim = (Run.open(arm.run) for arm in arms)
    assert plain.info["seed"] == deim.info["seed"] == 4
    assert plain.config.loss.classification == "vfl"
    assert plain.config.augment.mosaic_prob == 0
    assert deim.config.loss.classification == "mal"
    assert deim.config.augment.mosaic_prob == 0.5
    assert arms[1].targets_per_image > arms[0].targets_per_image
    for arm in arms:
        val = Run.open(arm.run).metrics(["val"]).iloc[-1]
        assert (arm.ap, arm.ap50) == (val["AP"], val["AP50"])
        assert arm.seconds > 0
    out = small_embedded / "demo"
    assert {path.suffix for path in out.glob("plain_against_deim.*")} == {
        ".png",
        ".svg",
        ".pdf",
        ".csv",
    }
    report = (out / "report.md").read_text(encoding="utf-8")
    assert f"| DEIM | {arms[1].ap:.3f} | {arms[1].ap50:.3f} |" in report
    assert str(arms[0].run) in report
    demo.main(
        small_embedded, preset_name="smoke", overrides=TINY, seed=4, notebook=None, progress=False
    )
    assert len(all_runs(small_embedded)) == 2, "finished arms are not trained again"


@pytest.mark.slow
def test_a_failing_arm_is_named(small_embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.ARMS, "DEIM", {"loss.gamma": "high"})
    with pytest.raises(RunFailedError, match=r"arm 'DEIM' failed: ConfigError: loss\.gamma"):
        demo.main(
            small_embedded,
            preset_name="smoke",
            overrides=TINY | {"train.epochs": 1},
            notebook=None,
            progress=False,
        )


def test_the_verdict_follows_the_numbers() -> None:
    def report(plain_ap: float, deim_ap: float) -> str:
        arms = [
            demo.Arm("plain D-FINE", Path("a"), plain_ap, 0.6, 2.5, 100.0),
            demo.Arm("DEIM", Path("b"), deim_ap, 0.6, 5.0, 110.0),
        ]
        return demo.render(arms, preset_name="cpu_demo", seed=0, figure_paths=[])

    assert "DEIM is ahead of plain D-FINE by 0.020 AP" in report(0.50, 0.52)
    assert "DEIM is behind plain D-FINE by 0.030 AP" in report(0.50, 0.47)
    assert "2.0 times the targets" in report(0.5, 0.5)


def test_an_absent_notebook_is_said_before_anything_is_trained(small_embedded: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        demo.main(small_embedded, notebook="nowhere.ipynb")
    assert not small_embedded.exists()
