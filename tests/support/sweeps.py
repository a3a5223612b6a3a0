"""Grids, notebooks, runs and executors of the sweep tests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deim_lab import runs
from deim_lab.sweep.spec import Failure, RunRecord, RunSpec, failed
from places import ROOT

Json = Any

NOTEBOOK = str(ROOT / "notebooks" / "03_train.ipynb")
ARMS = {"baseline": {}, "sharper": {"loss.gamma": 2.0}}


def a_grid(**values: Json) -> dict[str, Json]:
    return {"notebook": NOTEBOOK, "preset": "smoke", "arms": ARMS, **values}


PARAMETERS = (
    "preset = 'smoke'\noverrides = {}\ndata = 'embedded'\nseed = 0\ndevice = 'auto'\nruns_dir = "
    "'runs'\nbreak_seed = -1\nepoch_seconds = 0.0"
)
# What training does, without torch: find or start the run of this identity, go on where it was, an
# event and a checkpoint an epoch. The first epoch takes no time.
TRAIN = (
    """
import json, os, pathlib, time
from deim_lab import config as configs, runs
config = configs.preset(preset, overrides)
index = json.loads(next(pathlib.Path(runs_dir, 'sweeps').glob('*/index.json')).read_text())
data_print = index['runs'][0]['data_fingerprint']
identity = dict(fingerprint=configs.fingerprint(config), seed=seed, data_fingerprint=data_print)
run = runs.find(runs_dir, **identity)
again = run is not None
data_entry = {'name': 'small', 'fingerprint': data_print}
if again:
    run = run.reopen()
else:
    run = runs.Run.start(runs_dir, config, seed=seed, data=data_entry, device='cpu')
mark = pathlib.Path(runs_dir, f'{os.getpid()}.pid')
mark.write_text(json.dumps([overrides.get('loss.gamma'), seed]))
last = run.folder / 'checkpoints' / 'last.json'
epoch = json.loads(last.read_text()) if last.exists() else 0
""",
    """
print('widgets', os.environ['DEIM_LAB_WIDGETS'], 'gpu', os.environ.get('CUDA_VISIBLE_DEVICES'))
while epoch < config.train.epochs:
    run.log('train', epoch=epoch, step=epoch + 1, pid=os.getpid())
    time.sleep(epoch_seconds if epoch else 0)
    epoch += 1
    last.write_text(json.dumps(epoch))
    if seed == break_seed:
        raise ArithmeticError(f'seed {seed} breaks')
""",
    """
run.log('val', epoch=epoch - 1, step=epoch, AP=0.25)
run.finish()
""",
)


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """Write a notebook: the parameters cell (None: without one), then these cells."""
    sources = cells if parameters is None else (parameters, *cells)
    content: list[Json] = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": {"tags": ["parameters"]} if source is parameters else {},
            "source": source.strip(),
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(sources)
    ]
    path.write_text(
        json.dumps({"cells": content, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}),
        encoding="utf-8",
    )
    return path


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


def index_of(root: Path, name: str = "tiny") -> dict[str, Json]:
    content: dict[str, Json] = json.loads(
        (root / "sweeps" / name / "index.json").read_text(encoding="utf-8")
    )
    return content


def epochs(run: runs.Run) -> list[int]:
    return [event["epoch"] for event in run.events() if event["kind"] == "train"]


def plain_specs(folder: Path, notebook: Path, number: int) -> list[RunSpec]:
    return [
        RunSpec(
            index=index,
            arm="a",
            seed=index,
            notebook=str(notebook),
            parameters={"seed": index},
            overrides={},
            fingerprint="f",
            data_fingerprint="d",
            runs_dir=str(folder),
            executed=str(folder / "executed" / f"{index}.ipynb"),
        )
        for index in range(number)
    ]


def two_arm_specs(number: int) -> list[RunSpec]:
    return [
        RunSpec(
            index=index,
            arm="ab"[index % 2],
            seed=index,
            notebook="n",
            parameters={},
            overrides={},
            fingerprint="f",
            data_fingerprint="d",
            runs_dir="r",
            executed="e",
        )
        for index in range(number)
    ]


class Pretended:
    """An executor that runs nothing: it leaves what a worker would leave."""

    def __init__(self, outcomes: dict[tuple[str, int], str] | None = None) -> None:
        self.outcomes = outcomes or {}
        self.seen: list[tuple[str, int]] = []
        self.closed = False

    def execute(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        try:
            for spec in specs:
                self.seen.append((spec.arm, spec.seed))
                outcome = self.outcomes.get((spec.arm, spec.seed), "done")
                if outcome == "stop":
                    raise KeyboardInterrupt
                if outcome == "failed":
                    yield failed(spec, Failure("ValueError", "no", "Traceback"), seconds=1.0)
                    continue
                from deim_lab.config.presets import preset

                run = runs.Run.start(
                    spec.runs_dir,
                    preset(spec.parameters["preset"], spec.parameters["overrides"]),
                    seed=spec.seed,
                    data={"name": "small", "fingerprint": spec.data_fingerprint},
                    device="cpu",
                    fingerprint=spec.fingerprint,
                )
                if outcome == "cut":
                    run.log("train", epoch=0, step=1)
                    raise KeyboardInterrupt
                run.finish()
                (run.folder / "notebook.ipynb").write_text("{}", encoding="utf-8")
                yield RunRecord(
                    index=spec.index,
                    arm=spec.arm,
                    seed=spec.seed,
                    status="done",
                    run=run.folder.name,
                    seconds=2.0,
                    notebook=str(run.folder / "notebook.ipynb"),
                )
        finally:
            self.closed = True
