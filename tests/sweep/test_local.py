"""A sweep end to end, with a notebook that trains nothing: processes, kills, continuation, the
index. (Real training: test_kernel.)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deim_lab import cli, runs, sweep
from deim_lab.errors import ConfigError
from deim_lab.sweep.local import LocalExecutor
from deim_lab.sweep.spec import Failure, RunRecord, RunSpec, failed

psutil = pytest.importorskip("psutil")

Json = Any
MARK = "DEIM_LAB_TEST_MARK"  # variable that every process of a test inherits

PARAMETERS = (
    "preset = 'smoke'\noverrides = {}\ndata = 'embedded'\nseed = 0\ndevice = 'auto'\nruns_dir = "
    "'runs'\nbreak_seed = -1\nepoch_seconds = 0.0"
)
# What training does, without torch: find or start the run of this identity, go on where it was, an
# event and a checkpoint an epoch.
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
    time.sleep(epoch_seconds)
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


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    content: list[Json] = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": {"tags": ["parameters"]} if number == 0 else {},
            "source": source.strip(),
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate([parameters, *cells])
    ]
    path.write_text(
        json.dumps({"cells": content, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures in COCO layout."""
    root = tmp_path_factory.mktemp("data")
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(root / "images" / split / "1.jpg")
        (root / "annotations" / f"instances_{split}.json").write_text(
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "1.jpg", "width": 32, "height": 32}],
                    "categories": [{"id": 1, "name": "thing"}],
                    "annotations": [
                        {
                            "id": 1,
                            "image_id": 1,
                            "category_id": 1,
                            "bbox": [4, 4, 9, 9],
                            "area": 81,
                            "iscrowd": 0,
                        }
                    ],
                }
            ),
            encoding="utf-8",
        )
    return root


@pytest.fixture
def place(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``place(seeds=…, **grid)`` writes notebook and grid file; gives the grid file. Kernels keep
    their files under the test's folder.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("deim_lab.sweep.loop.LOOK_SECONDS", 0.1)

    def make(*, cells: Sequence[str] = TRAIN, **values: Json) -> Path:
        notebook = write_notebook(tmp_path / "small.ipynb", *cells)
        grid = {
            "notebook": str(notebook),
            "preset": "smoke",
            "data": str(data),
            "base": {"train.epochs": 3},
            "arms": {"baseline": {}, "sharper": {"loss.gamma": 2.0}},
            "seeds": [0, 1, 2],
            **values,
        }
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(grid), encoding="utf-8")
        return path

    return make


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Json]]]:
    """Processes, other than this one, that a test started; none may be left in the end."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)

    def find() -> list[Json]:
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.pid != os.getpid()
                    and process.environ().get(MARK) == mark
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                continue
        return found

    yield find
    for process in find():
        process.kill()


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


def test_a_second_call_skips_continues_and_retries(
    place: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="deim_lab")
    root, grid = tmp_path / "runs", place(seeds=[0, 1], parameters={"device": "cpu"})
    first = Pretended({("sharper", 0): "failed", ("sharper", 1): "cut"})
    with pytest.raises(KeyboardInterrupt):
        sweep.run(grid, root, executor=first)
    assert first.closed
    assert first.seen == [
        ("baseline", 0),
        ("sharper", 0),
        ("baseline", 1),
        ("sharper", 1),
    ]  # whole seeds first
    content = index_of(root)
    assert (content["name"], content["grid"], content["baseline"], content["finished"]) == (
        "tiny",
        str(grid),
        "baseline",
        None,
    )
    assert [row["status"] for row in content["runs"]] == ["done", "failed", "done", "pending"]
    assert content["runs"][1]["error"] == {
        "type": "ValueError",
        "message": "no",
        "traceback": "Traceback",
    }
    assert (root / content["runs"][0]["notebook"]).is_file()
    planned = sweep.prepare(grid, root).runs
    assert [item.state for item in planned] == ["done", "failed", "done", "cut"]
    assert planned[0].cost.seconds == 0
    assert planned[1].cost.seconds
    assert planned[3].cost.seconds == pytest.approx(
        planned[1].cost.seconds * 2 / 3
    )  # an epoch of three is behind it
    lines = "\n".join(sweep.plan.describe(sweep.prepare(grid, root), workers=2))
    assert "sharper   s1   interrupted after epoch 1 of 3" in lines
    assert "sharper   loss.gamma null → 2.0" in lines

    patient = Pretended()
    assert len(sweep.run(grid, root, executor=patient, retry_failed=False).failed) == 1
    assert patient.seen == [("sharper", 1)]
    second = Pretended()
    result = sweep.run(grid, root, executor=second)
    assert second.seen == [("sharper", 0)]
    assert (len(result.done), result.failed) == (4, [])
    assert index_of(root)["finished"] is not None
    third = Pretended()
    assert len(sweep.run(grid, root, executor=third).done) == 4
    assert third.seen == []
    assert "4 of 4 runs are done already" in caplog.text
    assert json.loads((root / "sweeps" / "tiny" / "grid.json").read_text(encoding="utf-8"))["arms"][
        "sharper"
    ] == {"loss.gamma": 2.0}


def test_an_index_is_of_one_experiment(
    place: Callable[..., Path], tmp_path: Path, data: Path
) -> None:
    root, grid = tmp_path / "runs", place(seeds=[0])
    sweep.run(grid, root, executor=Pretended())
    more = Pretended()
    sweep.run(grid, root, executor=more, seeds=[1])
    assert [(row["arm"], row["seed"]) for row in index_of(root)["runs"]] == [
        ("baseline", 1),
        ("sharper", 1),
        ("baseline", 0),
        ("sharper", 0),
    ]
    assert (root / "sweeps" / "tiny" / "grid-1.json").exists()  # what was asked for first
    with pytest.raises(
        ConfigError, match=r"another configuration under the name of arm 'baseline'.*--name"
    ):
        sweep.run(grid, root, executor=more, overrides={"train.epochs": 4})
    content = (data / "annotations" / "instances_train.json").read_text(encoding="utf-8")
    (data / "annotations" / "again.json").write_text(content + " ", encoding="utf-8")
    half = {
        "images": str(data / "images" / "val"),
        "annotations": str(data / "annotations" / "instances_val.json"),
    }
    other = {
        "train": {
            "images": str(data / "images" / "train"),
            "annotations": str(data / "annotations" / "again.json"),
        },
        "val": half,
    }
    with pytest.raises(ConfigError, match="holds runs of other data"):
        sweep.run(grid, root, executor=more, data=other)
    assert len(sweep.run(grid, root, executor=more, data=other, name="other").done) == 1 * 2
    (root / "sweeps" / "tiny" / "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="no readable JSON"):
        sweep.run(grid, root, executor=more)


def test_nothing_is_said_to_run_after_a_sweep_was_stopped(
    place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deim_lab.sweep.index import Index

    watching: list[int] = []
    interrupted, before = Index.interrupted, threading.active_count()

    def watched(self: Index) -> None:
        watching.append(threading.active_count() - before)
        interrupted(self)

    monkeypatch.setattr(Index, "interrupted", watched)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(place(seeds=[0]), tmp_path / "runs", executor=Pretended({("sharper", 0): "stop"}))
    assert watching == [0]


def test_weights_of_a_backbone_make_arms_and_a_second_call_knows_them(
    place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(config: Any, weights: Any) -> list[Json]:
        return (
            []
            if config.model.backbone_weights is None
            else [{"backbone": Path(config.model.backbone_weights).read_text(encoding="utf-8")}]
        )

    monkeypatch.setattr("deim_lab.weights.start.start_of", start)
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.pth", "1"), ("b.pth", "2"), ("again.pth", "1")):
        Path(name).write_text(content, encoding="utf-8")
    key = "model.backbone_weights"
    root, grid = (
        tmp_path / "runs",
        place(seeds=[0], arms={"scratch": {}, "a": {key: "a.pth"}, "b": {key: "b.pth"}}),
    )
    prepared = sweep.prepare(grid, root)
    assert prepared.grid.arms["a"] == {
        key: str(tmp_path / "a.pth")
    }  # a worker is in another folder
    assert len({item.spec.fingerprint for item in prepared.runs}) == 3
    assert len(sweep.run(grid, root, executor=Pretended()).done) == 3
    second = Pretended()
    assert len(sweep.run(grid, root, executor=second).done) == 3
    assert second.seen == []
    same = place(seeds=[0], arms={"a": {key: "a.pth"}, "again": {key: "again.pth"}})
    with pytest.raises(
        ConfigError,
        match=r"arms 'a' and 'again' differ in model\.backbone_weights alone and start from the "
        r"same weights",
    ):
        sweep.prepare(same, root, name="other")


def test_two_sweeps_of_one_name_do_not_run_at_once(
    place: Callable[..., Path], tmp_path: Path
) -> None:
    root, grid = tmp_path / "runs", place(seeds=[0])
    code = (
        f"import fcntl, pathlib, sys; p = pathlib.Path({str(root)!r}, 'sweeps', 'tiny'); "
        f"p.mkdir(parents=True);"
        "h = (p / '.lock').open('w'); fcntl.lockf(h, fcntl.LOCK_EX); print('held', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="is being run by another process"):
            sweep.run(grid, root, executor=Pretended())
        other.communicate("")
    assert len(sweep.run(grid, root, executor=Pretended()).done) == 2


def test_dry_run_makes_nothing(
    place: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = place(data="embedded", about="What γ does.")
    assert (
        cli.main(
            ["sweep", str(grid), "--runs", str(tmp_path / "runs"), "--dry-run", "--seeds", "4,5"]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "4 runs = 2 arms × 2 seeds" in said
    assert "What γ does." in said
    assert "4 new; time unknown: no comparable run has finished" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_kernel_killed_in_the_third_of_six_runs(
    place: Callable[..., Path],
    tmp_path: Path,
    marked: Callable[[], list[Json]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The killed run goes on where it was, the others don't notice; each slot has its GPU, each run
    folder its notebook.
    """
    caplog.set_level("INFO", logger="deim_lab")
    root, grid = (
        tmp_path / "runs",
        place(parameters={"epoch_seconds": 0.6}, base={"train.epochs": 4}),
    )
    shots: list[int] = []

    def shoot(spec: RunSpec) -> bool:
        """kill -9 the kernel of the third run once it has a checkpoint."""
        for file in root.glob("*.pid"):
            if json.loads(file.read_text(encoding="utf-8")) == [None, 1]:
                run = runs.find(
                    root,
                    fingerprint=spec.fingerprint,
                    seed=1,
                    data_fingerprint=spec.data_fingerprint,
                )
                if run is not None and (run.folder / "checkpoints" / "last.json").exists():
                    os.kill(int(file.stem), signal.SIGKILL)
                    shots.append(int(file.stem))
                    return True
        return False

    third = sweep.prepare(grid, root).runs[2].spec
    assert (third.arm, third.seed) == ("baseline", 1)
    killer = threading.Thread(
        target=wait_for, args=(lambda: shoot(third), "a kernel to kill"), daemon=True
    )
    killer.start()
    assert (
        cli.main(["sweep", str(grid), "--runs", str(root), "--workers", "3", "--gpus", "7,8"]) == 0
    )
    killer.join(1)
    assert len(shots) == 1
    rows = {(row["arm"], row["seed"]): row for row in index_of(root)["runs"]}
    assert [row["status"] for row in rows.values()] == ["done"] * 6
    assert [row["attempts"] for row in rows.values()] == [1, 1, 2, 1, 1, 1]
    run = runs.Run.open(root / rows["baseline", 1]["run"])
    assert len({event["pid"] for event in run.events() if event["kind"] == "train"}) == 2
    assert sorted(set(epochs(run))) == [0, 1, 2, 3]
    assert epochs(run).count(0) == 1  # the first epoch had its checkpoint: it isn't trained again
    assert all(
        row["notebook"] == f"{row['run']}/notebook.ipynb" and (root / row["notebook"]).is_file()
        for row in rows.values()
    )
    assert list((root / "sweeps" / "tiny" / "notebooks").iterdir()) == []
    notebooks = [(root / row["notebook"]).read_text(encoding="utf-8") for row in rows.values()]
    assert all("widgets static" in text and len(text) < 1_000_000 for text in notebooks)
    seen = {gpu for gpu in "78" for text in notebooks if f"gpu {gpu}" in text}
    assert seen == {"7", "8"}
    assert all(
        row["where"].split(" gpu ")[1] in ("7 slot 0", "8 slot 1", "7 slot 2")
        for row in rows.values()
    )
    assert "6 done, 0 failed" in capsys.readouterr().out
    assert "[6/6] done: " in caplog.text
    assert "s1, AP 0.250, " in caplog.text
    assert " left" in caplog.text
    assert marked() == []


def test_a_failed_run_is_a_row_and_the_exit_code_says_so(
    place: Callable[..., Path],
    tmp_path: Path,
    marked: Callable[[], list[Json]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, grid = (
        tmp_path / "runs",
        place(seeds=[0, 1], arms={"only": {}}, parameters={"break_seed": 0}),
    )
    assert cli.main(["sweep", str(grid), "--runs", str(root), "--workers", "2"]) == 1
    bad, good = index_of(root)["runs"]
    assert (bad["status"], good["status"]) == ("failed", "done")
    assert (bad["error"]["type"], bad["error"]["message"], bad["attempts"]) == (
        "ArithmeticError",
        "seed 0 breaks",
        1,
    )
    assert "raise ArithmeticError" in bad["error"]["traceback"]
    assert "\x1b" not in bad["error"]["traceback"]
    assert bad["notebook"].startswith("sweeps/tiny/notebooks/only_s0_")
    assert "ArithmeticError" in (root / bad["notebook"]).read_text(encoding="utf-8")
    assert "ArithmeticError: seed 0 breaks" in caplog.text
    assert marked() == []

    content = json.loads(grid.read_text(encoding="utf-8"))
    grid.write_text(json.dumps({**content, "parameters": {}}), encoding="utf-8")
    assert cli.main(["sweep", str(grid), "--runs", str(root)]) == 0
    again, untouched = index_of(root)["runs"]
    assert untouched == good
    assert (again["status"], again["run"], again["error"]) == ("done", bad["run"], None)
    assert epochs(runs.Run.open(root / again["run"])) == [
        0,
        1,
        2,
    ]  # went on after the epoch that was saved
    assert not (root / bad["notebook"]).exists()


def start_sweep(grid: Path, root: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "deim_lab.cli",
        "sweep",
        str(grid),
        "--runs",
        str(root),
        "--workers",
        "2",
        *options,
    ]
    # A suite that a script started with & ignores Ctrl-C, and its children would inherit that.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_leaves_no_process_and_loses_nothing(
    how: signal.Signals,
    place: Callable[..., Path],
    tmp_path: Path,
    marked: Callable[[], list[Json]],
) -> None:
    root, grid = (
        tmp_path / "runs",
        place(
            seeds=[0, 1],
            arms={"only": {}},
            parameters={"epoch_seconds": 4.0},
            base={"train.epochs": 6},
        ),
    )
    with start_sweep(grid, root) as process:

        def both_saved() -> bool:
            return len(list(root.glob("*/checkpoints/last.json"))) == 2

        wait_for(both_saved, "two runs with a checkpoint")
        assert len(marked()) >= 5  # the sweep, two workers, two kernels
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    wait_for(
        lambda: not marked(), "the end of every process", seconds=8
    )  # the runs have 20 s to go
    if how == signal.SIGINT:
        assert "interrupted; the same command continues it" in said
        assert {row["status"] for row in index_of(root)["runs"]} == {"pending"}
    saved = {
        folder.parents[1].name: json.loads(folder.read_text(encoding="utf-8"))
        for folder in root.glob("*/checkpoints/last.json")
    }
    assert len(saved) == 2
    content = json.loads(grid.read_text(encoding="utf-8"))
    grid.write_text(json.dumps({**content, "parameters": {}}), encoding="utf-8")  # hurry up
    assert len(sweep.run(grid, root, workers=2).done) == 2
    for run in runs.all_runs(root):
        assert run.status == "done"
        assert set(epochs(run)) == set(range(6))
        assert all(epochs(run).count(epoch) == 1 for epoch in range(saved[run.folder.name]))
    assert len(runs.all_runs(root)) == 2
    assert marked() == []


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


def test_a_killed_worker_is_started_once_more_and_then_is_a_failed_record(
    tmp_path: Path, marked: Callable[[], list[Json]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notebook kills the worker above its kernel: always with seed 0, the first time with seed
    1.
    """
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = write_notebook(
        tmp_path / "deadly.ipynb",
        f"""
import os, pathlib, signal, time
first = pathlib.Path({str(tmp_path)!r}, f'been-{{seed}}')
if seed == 0 or not first.exists():
    first.touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
""",
    )
    records = {
        record.seed: record
        for record in LocalExecutor(2).execute(plain_specs(tmp_path, notebook, 2))
    }
    assert (records[0].status, records[0].attempts) == ("failed", 2)
    assert records[0].error is not None
    assert records[0].error["type"] == "WorkerDiedError"
    assert "was ended by SIGKILL, 2 times" in records[0].error["message"]
    assert (records[1].status, records[1].attempts, records[1].run) == ("done", 2, None)
    wait_for(lambda: not marked(), "the end of every process", seconds=5)
    assert list(tmp_path.glob("deim-*")) == []


def test_closing_the_iterator_stops_what_runs_with_all_that_it_started(
    tmp_path: Path, marked: Callable[[], list[Json]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = write_notebook(
        tmp_path / "long.ipynb",
        """
import subprocess, time
child = subprocess.Popen(['sleep', '300'])
time.sleep(300 if seed else 0)
""",
    )
    records = LocalExecutor(2).execute(plain_specs(tmp_path, notebook, 3))
    record = next(records)
    assert (record.seed, record.status) == (0, "done")
    assert isinstance(records, Generator)
    records.close()
    wait_for(lambda: not marked(), "the end of every process", seconds=5)
    with pytest.raises(ConfigError, match="workers 0 is below 1"):
        LocalExecutor(0)


def test_a_worker_that_does_not_see_the_data_says_so(
    tmp_path: Path, place: Callable[..., Path]
) -> None:
    spec = plain_specs(tmp_path, tmp_path / "none.ipynb", 1)[0]
    record = sweep.run_one(
        RunSpec(**{**sweep.spec.to_json(spec), "parameters": {"data": str(tmp_path / "absent")}})
    )
    assert record.error is not None
    assert record.error["type"] == "DataError"
    assert "absent' does not exist on" in record.error["message"]
    record = sweep.run_one(spec)
    assert (record.status, record.error is not None and record.error["type"]) == (
        "failed",
        "FileNotFoundError",
    )


def test_a_run_on_other_data_than_planned_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose copy of the data set differs: the notebook trains, but not what the sweep asked
    for.
    """
    from deim_lab.config import presets

    spec = plain_specs(tmp_path, tmp_path / "n.ipynb", 1)[0]

    def execute(notebook: str, executed: str, **_: Json) -> None:
        write_notebook(Path(executed))
        runs.Run.start(
            tmp_path,
            presets.preset("smoke"),
            seed=0,
            data={"name": "x", "fingerprint": "other"},
            fingerprint="f",
        ).finish()

    monkeypatch.setattr("papermill.execute_notebook", execute)
    record = sweep.run_one(spec)
    assert record.status == "failed"
    assert record.error is not None
    assert "was trained on other data than planned" in record.error["message"]


def test_a_kernel_that_does_not_come_up_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Json] = []

    def execute(notebook: str, executed: str, **values: Json) -> None:
        calls.append(values)
        if len(calls) < fails:
            raise RuntimeError("Kernel didn't respond in 180 seconds")
        write_notebook(Path(executed))

    monkeypatch.setattr("papermill.execute_notebook", execute)
    fails = 3
    record = sweep.run_one(plain_specs(tmp_path, tmp_path / "n.ipynb", 1)[0])
    assert (record.status, record.attempts) == ("done", 3)
    assert calls[0]["start_timeout"] >= 60
    fails = 9
    record = sweep.run_one(plain_specs(tmp_path, tmp_path / "n.ipynb", 1)[0])
    assert (record.status, record.attempts) == ("failed", 3)
    assert "Kernel didn't respond" in (record.error or {})["message"]


def test_braces_in_a_path_are_no_gaps_for_papermill_to_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import papermill.parameterize

    def execute(notebook: str, executed: str, parameters: Json, **_: Json) -> None:
        write_notebook(Path(papermill.parameterize.parameterize_path(executed, parameters)))

    monkeypatch.setattr("papermill.execute_notebook", execute)
    folder = tmp_path / "{mine} {}"
    folder.mkdir()
    record = sweep.run_one(plain_specs(folder, folder / "n.ipynb", 1)[0])
    assert (record.status, record.error) == ("done", None)


def test_a_kernel_does_not_talk_over_tcp(tmp_path: Path) -> None:
    """A kernel on TCP writes a warning about encryption into the output of every run."""
    notebook = write_notebook(tmp_path / "n.ipynb", "print(seed)")
    code = (
        "import sys\n"
        "from deim_lab.sweep import kernel\n"
        "kernel.execute(sys.argv[1], sys.argv[2], parameters={'seed': 7}, cwd='.')\n"
    )
    target = tmp_path / "executed.ipynb"
    answer = subprocess.run(
        [sys.executable, "-c", code, str(notebook), str(target)],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")},
        cwd=tmp_path,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "TCP" not in answer.stdout + answer.stderr
    assert "7" in target.read_text(encoding="utf-8")


def test_a_temporary_folder_of_a_long_name_goes_without_unix_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deim_lab.sweep import kernel

    monkeypatch.setattr("tempfile.tempdir", None)
    with kernel.private_channel() as channel:
        assert channel.transport == "ipc"
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv(kernel.FOLDER, str(long))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    with kernel.private_channel() as channel:
        assert channel.transport == "tcp"
    assert not channel.folder.exists()
    record = sweep.run_one(
        plain_specs(tmp_path, write_notebook(tmp_path / "n.ipynb", "print(seed)"), 1)[0]
    )
    assert (record.status, record.error) == ("done", None)
    assert (long / kernel.PID_FILE).exists()


@pytest.mark.slow
def test_twenty_short_runs_by_eight_workers(
    tmp_path: Path, marked: Callable[[], list[Json]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = write_notebook(tmp_path / "short.ipynb", "print(seed)")
    records = list(LocalExecutor(8).execute(plain_specs(tmp_path, notebook, 20)))
    assert sorted(record.seed for record in records) == list(range(20))
    assert {(record.status, record.attempts) for record in records} == {("done", 1)}
    assert marked() == []
