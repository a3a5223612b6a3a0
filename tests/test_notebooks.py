"""Every notebook runs from top to bottom, leaves its figures and reads well without a kernel.

`make test` runs each notebook once: its tests share one execution, and none of them is slow.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deim_lab import config as configs
from deim_lab.config import presets
from deim_lab.data import coco
from deim_lab.runs import Run
from deim_lab.sweep import kernel
from places import ROOT

NOTEBOOKS = ROOT / "notebooks"
COMMON = ("preset", "overrides", "data", "seed", "device", "runs_dir")
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
TRAINS = "03_train"
LOSSES = "02_mal_vs_vfl"
OVERRIDES = {"data.batch_size": 8}
# Parameters of one notebook, on top of the common ones.
PARAMETERS: dict[str, dict[str, Any]] = {
    "01_dense_o2o": {"samples": 64},
    LOSSES: {"overrides": OVERRIDES | {"loss.gamma": 2.0}},
}
# Bytes of an executed copy, at most; else a million. 02 shows two runs.
MOST_BYTES = {LOSSES: 1_200_000}
# Pictures in an executed copy, at least; else one.
FIGURES = {
    "01_dense_o2o": 7,
    "02_mal_vs_vfl": 10,
    "03_train": 4,
    "04_matching": 6,
    "05_ablation": 5,
    "06_paper_figures": 3,
}

Json = Any
OwnKernel = Callable[[Path], AbstractContextManager[None]]


def write_run(root: Path, kind: str, shift: float) -> None:
    """A finished run of a loss, as far as notebook 02 reads it."""
    train_set, val_set = coco.open_source(coco.resolve("embedded", cache_dir=root / "data"))
    truth = json.loads(val_set.annotations_path.read_text(encoding="utf-8"))["annotations"]
    config = presets.preset("smoke", {"loss.classification": kind})
    run = Run.start(
        root,
        config,
        seed=0,
        data={
            "name": train_set.name,
            "fingerprint": coco.joint_fingerprint(train_set, val_set),
        },
        overrides=configs.diff(presets.preset("smoke"), config),
    )
    for epoch in (0, 1):
        run.log(
            "train",
            epoch=epoch,
            step=10 * epoch,
            matched_iou_histogram=[float(20 - bin + 30 * epoch * bin) for bin in range(20)],
        )
        run.log(
            "val",
            epoch=epoch,
            step=10 * epoch,
            AP=0.1 + epoch / 10,
            AP50=0.2,
            best_f1=0.6,
            best_f1_threshold=shift,
        )
        run.save_detections(
            "best",
            [  # the second epoch's AP is the higher one
                {key: item[key] for key in ("image_id", "category_id", "bbox")}
                | {"score": shift + 0.001 * (number % 300) * (epoch + 1) / 2}
                for number, item in enumerate(truth)
                if number % (3 - epoch)
            ],
        )
    run.finish()


class Executed:
    """Each notebook as papermill leaves it, in a folder of runs of its own; executed when it is
    first asked for, once for all test processes.

    03 comes first: the run that it trains lies in the others' folders too. The folder of 02 has a
    run of the other loss as well.
    """

    def __init__(self, home: Path, own_kernel: OwnKernel) -> None:
        self._home, self._own_kernel = home, own_kernel

    def __getitem__(self, name: str) -> dict[str, Json]:
        notebook: dict[str, Json] = json.loads(
            (self.runs_dir(name) / f"{name}.ipynb").read_text(encoding="utf-8")
        )
        return notebook

    def runs_dir(self, name: str) -> Path:
        """The folder of runs that holds the executed notebook and what it made."""
        folder, outcome = self._home / name, self._home / f"{name}.outcome"
        with (self._home / f"{name}.lock").open("w", encoding="utf-8") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)  # another process that executes it is waited for
            if not outcome.exists():
                if name == TRAINS:
                    folder.mkdir()
                else:
                    shutil.copytree(self.runs_dir(TRAINS), folder)
                if name == LOSSES:
                    write_run(folder, "vfl", 0.6)
                try:
                    execute(name, folder, self._own_kernel)
                except Exception:
                    outcome.write_text(traceback.format_exc(), encoding="utf-8")
                    raise
                outcome.write_text("", encoding="utf-8")
        said = outcome.read_text(encoding="utf-8")
        assert not said, f"{name} failed where it was executed: {said}"
        return folder


def execute(name: str, runs_dir: Path, own_kernel: OwnKernel) -> None:
    """A notebook with the smoke preset, in a kernel of this very interpreter, as nothing
    watches.
    """
    pytest.importorskip("papermill")
    with own_kernel(runs_dir.parent / f"{name}-jupyter"):
        parameters: dict[str, Json] = {
            "preset": "smoke",
            "overrides": OVERRIDES,
            "device": "cpu",
            "runs_dir": str(runs_dir),
        }
        kernel.execute(
            NOTEBOOKS / f"{name}.ipynb",
            runs_dir / f"{name}.ipynb",
            parameters=parameters | PARAMETERS.get(name, {}),
            cwd=runs_dir,
        )


@pytest.fixture(scope="module")
def executed(own_kernel: OwnKernel, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    (shared / "notebooks").mkdir(exist_ok=True)
    return Executed(shared / "notebooks", own_kernel)


def outputs(notebook: dict[str, Json]) -> Iterator[dict[str, Json]]:
    for cell in notebook["cells"]:
        yield from cell.get("outputs", [])


def pictures(notebook: dict[str, Json]) -> list[bytes]:
    return [
        base64.b64decode("".join(part))
        for output in outputs(notebook)
        for kind, part in output.get("data", {}).items()
        if kind in ("image/png", "image/jpeg")
    ]


def text(notebook: dict[str, Json]) -> str:
    return "".join(
        "".join(output["text"])
        for output in outputs(notebook)
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_parameters_are_the_common_ones_and_plain_json(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"] >= 5) == (4, True)
    tagged = [
        cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])
    ]
    assert len(tagged) == 1
    values: dict[str, Json] = {}
    exec("".join(tagged[0]["source"]), {}, values)
    assert tuple(values)[: len(COMMON)] == COMMON
    assert json.loads(json.dumps(values)) == values
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@pytest.mark.parametrize("name", NAMES)
def test_an_executed_notebook_shows_its_figures_and_stays_small(
    executed: Executed, name: str
) -> None:
    found = pictures(executed[name])
    assert len(found) >= FIGURES.get(name, 1)
    assert len(set(found)) == len(found), "two figures of the notebook are the same"
    assert all(len(picture) > 5_000 for picture in found)
    assert (executed.runs_dir(name) / f"{name}.ipynb").stat().st_size < MOST_BYTES.get(
        name, 1_000_000
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_executed_notebook_holds_no_dead_widget(executed: Executed, name: str) -> None:
    kinds = {kind for output in outputs(executed[name]) for kind in output.get("data", {})}
    assert not [
        kind for kind in kinds if "widget-view" in kind or "plotly" in kind or "javascript" in kind
    ]
    assert "plotly" not in json.dumps(executed[name]["metadata"])
    assert "widgets" not in executed[name]["metadata"]


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_notebook_reads_without_a_kernel(executed: Executed, name: str) -> None:
    nbconvert = pytest.importorskip("nbconvert")
    nbformat = pytest.importorskip("nbformat")
    page, _ = nbconvert.HTMLExporter().from_notebook_node(
        nbformat.reads(json.dumps(executed[name]), as_version=4)
    )
    assert "model not found" not in page.lower()
    assert len(re.findall(r"<img[^>]+src=\"data:image/(?:png|jpeg);base64", page)) >= FIGURES.get(
        name, 1
    )


def test_01_says_what_it_measured(executed: Executed) -> None:
    said = text(executed["01_dense_o2o"])
    ratio = re.search(r"both [\d.]+ \(([\d.]+) times\)", said)
    assert ratio is not None, said
    assert (
        5 < float(ratio.group(1)) < 9
    )  # four tiles and two images, less what the affine map loses
    matched = re.search(r"matched: (.*)", said)
    assert matched is not None
    assert "smoke" in matched.group(1)  # the run that 03 trained
    line = (
        r"(plain|dense): ([\d.]+) targets per image; matched at the last level ([\d.]+), in the "
        r"union of all \d levels ([\d.]+)"
    )
    counted = re.findall(line, said)
    assert [item[0] for item in counted] == ["plain", "dense"]
    for _, targets, matched, union in counted:
        assert matched == targets  # one to one
        assert float(union) >= float(matched)
    saved = executed.runs_dir("01_dense_o2o") / "figures" / "01_dense_o2o_embedded_smoke"
    for stem in (
        "density_always_on",
        "density_recipe",
        "images_plain",
        "images_dense",
        "positives",
        "schedule",
        "density_at_settings",
    ):
        assert {path.suffix for path in saved.glob(f"{stem}.*")} == {
            ".png",
            ".svg",
            ".pdf",
            ".csv",
        }, stem


def test_03_trains_and_leaves_its_figures_in_the_run(executed: Executed) -> None:
    from deim_lab import runs

    run = runs.all_runs(executed.runs_dir(TRAINS), status="done")[0]
    table = run.metrics()
    assert {"curves.png", "matched_iou.csv", "detections.pdf", "schedule.svg"} <= {
        path.name for path in (run.folder / "figures").iterdir()
    }
    said = text(executed[TRAINS])
    last = table[table["kind"] == "val"].iloc[-1]
    assert f"AP {last['AP']:.3f}, AP50 {last['AP50']:.3f} at the end" in said
    steps = int(table["step"].max())
    assert len(said.splitlines()) < 20 + 0.2 * steps


def test_03_again_trains_nothing(executed: Executed) -> None:
    """The second call finds the run: ``resume="auto"`` in the package, no state in a kernel."""
    from deim_lab import runs, train
    from deim_lab.config import presets

    config = presets.preset("smoke", OVERRIDES)
    events: list[Json] = []
    folder = executed.runs_dir(TRAINS)
    before = {run.folder for run in runs.all_runs(folder)}
    run = train(config, "embedded", seed=0, runs_dir=folder, device="cpu", on_event=events.append)
    assert events == []
    assert run.folder in before
    assert {run.folder for run in runs.all_runs(folder)} == before


def test_05_makes_its_arms_and_says_no_more_than_two_seeds_bear(executed: Executed) -> None:
    said = text(executed["05_ablation"])
    assert "deim-lab sweep components" in said  # what would make more than this small show
    assert re.search(
        r"DEIM: AP [\d.]+ ± [\d.]+, [+-][\d.]+ against plain \[.*\] \(2 seeds, paired\)", said
    ), said
    assert "With 2 seeds the spread itself is a rough guess" in said
    saved = executed.runs_dir("05_ablation") / "figures" / "ablation_embedded_smoke"
    for stem in ("differences", "curves", "epochs_to_reach", "density", "price"):
        assert {path.suffix for path in saved.glob(f"{stem}.*")} == {
            ".png",
            ".svg",
            ".pdf",
            ".csv",
        }, stem
    verdict = said[said.index("plain (the baseline)") :].splitlines()
    assert (saved / "verdict.txt").read_text(encoding="utf-8").splitlines() == [
        line for line in verdict if line
    ]
    assert "| DEIM" in (saved / "arms.md").read_text(encoding="utf-8")
    assert r"\toprule" in (saved / "arms.tex").read_text(encoding="utf-8")


def test_06_keeps_reported_and_measured_apart(executed: Executed) -> None:
    shown = json.dumps(executed["06_paper_figures"])
    assert "Nothing under" in shown  # the smoke run was not measured on COCO
    folder = executed.runs_dir("06_paper_figures") / "figures" / "paper"
    own = (folder / "own_runs.md").read_text(encoding="utf-8")
    assert "| embedded" in own
    assert "smoke" in own
    tables = {path.name for path in folder.iterdir()}
    assert {
        f"{stem}.{kind}"
        for stem in ("main_table", "components", "own_runs")
        for kind in ("md", "tex")
    } <= tables
    assert {
        f"{stem}.{kind}"
        for stem in ("main", "components", "own_runs")
        for kind in ("svg", "pdf", "png", "csv")
    } <= tables
    drawn = (folder / "main.csv").read_text(encoding="utf-8")
    assert "reported" in drawn
    assert "measured" not in drawn


def test_07_counts_every_preset_and_times_one(executed: Executed) -> None:
    from deim_lab.config.presets import PRESETS

    folder = executed.runs_dir("07_models") / "figures" / "models"
    table = (folder / "zoo.md").read_text(encoding="utf-8")
    assert all(f"| {name} " in table for name in PRESETS)
    assert "smoke" in (folder / "times.md").read_text(encoding="utf-8")
    assert "presets, " in text(executed["07_models"])
    assert {path.suffix for path in folder.glob("ap_against_latency.*")} == {
        ".png",
        ".svg",
        ".pdf",
        ".csv",
    }


@pytest.fixture
def losses_alone(tmp_path: Path, own_kernel: OwnKernel) -> Callable[..., dict[str, Json]]:
    """``losses_alone(**parameters)`` executes notebook 02 anew, with parameters of its own."""

    def run(**parameters: Json) -> dict[str, Json]:
        pytest.importorskip("papermill")
        target = tmp_path / f"{LOSSES}.ipynb"
        with own_kernel(tmp_path / "jupyter"):
            kernel.execute(
                NOTEBOOKS / f"{LOSSES}.ipynb", target, parameters=parameters, cwd=tmp_path
            )
        assert target.stat().st_size < 1_200_000
        notebook: dict[str, Json] = json.loads(target.read_text(encoding="utf-8"))
        return notebook

    return run


# Slow: a second execution of notebook 02.
@pytest.mark.slow
def test_notebook_without_runs_says_so_and_goes_on(
    tmp_path: Path, losses_alone: Callable[..., dict[str, Json]]
) -> None:
    notebook = losses_alone(runs_dir=str(tmp_path / "none"))
    said = text(notebook)
    assert "No finished run" in said
    assert "9 of 9 hold" in said
    assert "γ = 1.5" in said
    assert len(pictures(notebook)) == 8
    kinds = [kind for output in outputs(notebook) for kind in output.get("data", {})]
    assert not [kind for kind in kinds if "widget" in kind or "plotly" in kind]
    saved = {
        path.stem
        for path in (tmp_path / "none" / "figures" / "02_mal_vs_vfl_cpu_demo").glob("*.csv")
    }
    assert {
        "paper_panels",
        "overview",
        "gradient_ratio",
        "minima",
        "gamma",
        "surface_gradient",
        "surface_loss",
    } <= saved


@pytest.mark.parametrize(
    "named",
    [
        # Slow: a third execution of notebook 02.
        pytest.param(True, marks=pytest.mark.slow, id="runs given"),
        pytest.param(False, id="runs found"),
    ],
)
def test_notebook_with_two_runs(
    executed: Executed,
    losses_alone: Callable[..., dict[str, Json]],
    tmp_path: Path,
    named: bool,
) -> None:
    """Found: the run that 03 trained, and one of the other loss. Given: two made-up runs."""
    if named:
        root = tmp_path / "runs"
        write_run(root, "mal", 0.3)
        write_run(root, "vfl", 0.6)
        folders = sorted(str(path.parent) for path in root.glob("*/run.json"))
        assert len(folders) == 2
        notebook = losses_alone(
            runs_dir=str(root), runs=folders, preset="smoke", overrides={"loss.gamma": 2.0}
        )
    else:
        root, notebook = executed.runs_dir(LOSSES), executed[LOSSES]
    said = text(notebook)
    assert "trained with mal" in said
    assert "trained with vfl" in said
    assert "(γ = 2)" in said
    assert len(pictures(notebook)) == 11  # two runs' matches, and their F1
    table = pd.read_csv(root / "figures" / "02_mal_vs_vfl_smoke" / "f1_over_thresholds.csv")
    assert table["run"].nunique() == 2
    assert (table["best_f1"] > table["f1_at_fixed"]).any()  # the run of the low scores, cut at 0.5
