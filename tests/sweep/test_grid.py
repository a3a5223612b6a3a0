"""Reading and checking a grid: types are kept, and whatever is wrong is said before torch is even
imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deim_lab import config as configs
from deim_lab.errors import ConfigError, DataError
from deim_lab.host import gpus
from deim_lab.sweep import cost, grid, gridfile, loop, parameters, plan, spec
from deim_lab.sweep.cost import Cost
from deim_lab.sweep.index import Index
from deim_lab.sweep.progress import Progress
from places import ROOT

Json = Any

NOTEBOOK = str(ROOT / "notebooks" / "03_train.ipynb")
ARMS = {"baseline": {}, "sharper": {"loss.gamma": 2.0}}


def a_grid(**values: Json) -> dict[str, Json]:
    return {"notebook": NOTEBOOK, "preset": "smoke", "arms": ARMS, **values}


def a_notebook(folder: Path, source: str | None, *, name: str = "small.ipynb") -> str:
    cells: list[Json] = (
        []
        if source is None
        else [
            {
                "cell_type": "code",
                "id": "a",
                "metadata": {"tags": ["parameters"]},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
        ]
    )
    path = folder / name
    path.write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}),
        encoding="utf-8",
    )
    return str(path)


OWN = "preset = ''\noverrides = {}\ndata = ''\nseed = 0\nruns_dir = ''\n"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2", -2),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("0", 0),
        ("1.0", 1.0),
        ("None", None),
        ("null", None),
        ("~", None),
        ("", None),
        ('"null"', "null"),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("'true'", "true"),
        ('"1"', "1"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("[640, 384]", [640, 384]),
        ("groups(4)", "groups(4)"),
        ("{a: [1, '1']}", {"a": [1, "1"]}),
    ],
)
def test_yaml_keeps_types(written: str, value: Json) -> None:
    found = gridfile.parse(f"key: {written}", "g.yaml")["key"]
    assert (found, type(found)) == (value, type(value))


def test_yaml_keys_are_text_and_json_reads_the_same() -> None:
    assert gridfile.parse("{1.5: 1, no: 2, null: 3}", "g.yaml") == {"1.5": 1, "no": 2, "null": 3}
    content = {
        "base": {"optim.lr": 1e-3, "data.input_size": [640, 384], "model.eval_layers": None},
        "about": "1",
    }
    assert (
        gridfile.parse(json.dumps(content), "g.json", as_json=True)
        == content
        == gridfile.parse(json.dumps(content), "g.yaml")
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' appears twice"),
        ("arms:\n  x: {loss.gamma: 1, loss.gamma: 2}", "line 2: key 'loss.gamma' appears twice"),
        ("- 1", "Expected a mapping"),
        ("", "Expected a mapping"),
        ("a: [1", "no readable YAML"),
        ("a: .inf", "not finite"),
        ("a: .nan", "not finite"),
        ("a: &x [*x]", "contains itself"),
        ("a: !!python/name:os.system x", "no readable YAML"),
        ("? [1]\n: 2", "a key must be text"),
    ],
)
def test_a_broken_file_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"g\.yaml") as caught:
        gridfile.parse(text, "g.yaml")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path: Path) -> None:
    for name in ("components", "density", "gamma"):
        (tmp_path / f"{name}.yaml").write_text("preset: smoke", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\(did you mean '[^']*components\.yaml'\?\)"):
        grid.read(tmp_path / "component.yaml")
    with pytest.raises(ConfigError, match="neither YAML nor JSON"):
        grid.read(tmp_path / "components.txt")
    with pytest.raises(ConfigError, match="appears twice"):
        gridfile.parse('{"a": 1, "a": 2}', "g.json", as_json=True)
    with pytest.raises(ConfigError, match="not finite"):
        gridfile.parse('{"a": NaN}', "g.json", as_json=True)


def test_arms_axes_base_and_what_goes_first() -> None:
    found = grid.read(
        a_grid(
            base={"train.epochs": 3, "loss.gamma": 1.0},
            axes={"augment.mosaic_prob": [0, 0.5], "train.epochs": [1, 2]},
        ),
        overrides={"data.batch_size": 2},
        seeds=[3, 1],
        name="mine",
    )
    assert list(found.arms) == [
        f"{arm}, mosaic_prob={mosaic}, epochs={epochs}"
        for arm in ARMS
        for mosaic in ("0", "0.5")
        for epochs in (1, 2)
    ]
    config = found.config("sharper, mosaic_prob=0.5, epochs=2")
    assert (
        config.loss.gamma,
        config.augment.mosaic_prob,
        config.train.epochs,
        config.data.batch_size,
    ) == (2.0, 0.5, 2, 2)
    assert found.config("baseline, mosaic_prob=0, epochs=1").loss.gamma == 1.0
    assert (found.seeds, found.baseline, found.name) == (
        (3, 1),
        "baseline, mosaic_prob=0, epochs=1",
        "mine",
    )
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_paths_are_made_absolute_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = grid.read({"preset": "smoke", "arms": ARMS, "data": "bccd"})
    assert (found.notebook, found.data) == (
        NOTEBOOK,
        str(tmp_path / "bccd"),
    )
    assert grid.read(a_grid(notebook="own/n.ipynb")).notebook == str(tmp_path / "own" / "n.ipynb")
    half = {"images": "i", "annotations": "a.json"}
    assert grid.read(a_grid(data={"train": half, "val": half, "name": "n"})).data == {
        **{
            split: {"images": str(tmp_path / "i"), "annotations": str(tmp_path / "a.json")}
            for split in ("train", "val")
        },
        "name": "n",
    }
    assert grid.read(a_grid()).data == "embedded"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arm": {}}, "unknown key 'arm' (did you mean 'arms'?)"),
        ({"arms": None}, "no arms and no axes"),
        ({"arms": {"a": 3}}, "arm 'a': 3 is not a mapping"),
        (
            {"arms": {"a": {"loss.gama": 2}}},
            "arm 'a': 'loss.gama' names no config field (did you mean 'loss.gamma'?)",
        ),
        (
            {"axes": {"loss.gama": [1, 2]}},
            "axis: 'loss.gama' names no config field (did you mean 'loss.gamma'?)",
        ),
        ({"base": {"train": {"epochs": 3}}}, "keys are dotted, e.g. train.epochs"),
        ({"axes": {"loss.alpha": 1}}, "expected a list of values"),
        ({"axes": {"loss.alpha": []}}, "expected a list of values"),
        (
            {"axes": {"loss.gamma": [1, 2]}},
            "'loss.gamma' is an axis, and arm 'sharper' sets it too",
        ),
        ({"axes": {"loss.alpha": [0.5, 0.5]}}, "resolve to the same config"),
        ({"arms": {"a": {"loss.gamma": -1}}}, "arm 'a': loss.gamma -1.0 is outside [0, 20]"),
        ({"arms": {"a": {"loss.gamma": "two"}}}, "arm 'a': loss.gamma: expected float, got 'two'"),
        (
            {"arms": {"a": {}, "b": {"loss.gamma": 1.5}}},
            "arms 'a' and 'b' resolve to the same config",
        ),
        ({"arms": {"a": {}, "b": {"train.log_every": 7}}}, "train.log_every makes no difference"),
        (
            {
                "arms": {
                    "a": {"model.backbone_weights": "timm"},
                    "b": {"model.backbone_weights": "timm"},
                }
            },
            "resolve to the same config",
        ),
        ({"parameters": {"weights": 3}}, "parameters.weights is 3 (int)"),
        (
            {
                "parameters": {"weights": "own.pt"},
                "arms": {"a": {}, "b": {"model.backbone_weights": "timm"}},
            },
            "arm 'b': model.backbone_weights='timm' and weights='own.pt' both fill the backbone",
        ),
        ({"baseline": "basline"}, "baseline 'basline' is not an arm (did you mean 'baseline'?)"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [0, 0]}, "seed 0 appears twice"),
        ({"seeds": [-1]}, "seed -1 is not a whole number"),
        ({"seeds": [True]}, "seed True is not a whole number"),
        ({"seeds": ["1"]}, "seed '1' is not a whole number"),
        ({"seeds": 3}, "expected a list"),
        ({"preset": "smok"}, "did you mean 'smoke'?"),
        ({"preset": None}, "no preset"),
        (
            {"parameters": {"seed": 3}},
            "parameters must not hold 'seed': its value comes from seeds",
        ),
        ({"parameters": {"device": "gpu"}}, "device 'gpu' is unknown"),
        ({"about": float("nan")}, "not finite"),
        ({"data": {1: 2}}, "key 1 is int"),
        ({"data": object()}, "is not a JSON value"),
    ],
)
def test_a_wrong_grid_is_refused(change: dict[str, Json], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid.read(a_grid(**change))
    assert said in str(caught.value)


def test_an_override_without_effect_and_a_name_that_is_none() -> None:
    with pytest.raises(
        ConfigError, match=r"override of loss\.gamma has no effect on arm 'sharper'"
    ):
        grid.read(a_grid(), overrides={"loss.gamma": 1.0})
    with pytest.raises(ConfigError, match="is not a folder name"):
        grid.read(a_grid(), name="../x")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "has no cells tagged 'parameters'"),
        ("preset = (", "is not valid Python"),
        (
            OWN.replace("overrides = {}\n", "overide = {}\n"),
            "has no 'overrides', which a sweep sets (did you mean 'overide'?)",
        ),
    ],
)
def test_a_notebook_that_takes_no_parameters(tmp_path: Path, source: str | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan.check(grid.read(a_grid(notebook=a_notebook(tmp_path, source))))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({"exampels": 3}, "parameter 'exampels' is not in the parameters cell"),
        ({"examples": "3"}, "'3' (str), but its default"),
        ({"examples": True}, "True (bool)"),
        ({"names": {}}, "{} (dict)"),
        ({"rate": "fast"}, "'fast' (str)"),
    ],
)
def test_parameters_are_checked_against_the_cell(
    tmp_path: Path, further: dict[str, Json], said: str
) -> None:
    notebook = a_notebook(
        tmp_path,
        OWN + "examples: int = 6\nnames = ['a']\nrate = 0.5\nanything = None\nmade = 3 * 4\n",
    )
    with pytest.raises(ConfigError) as caught:
        plan.check(grid.read(a_grid(notebook=notebook, parameters=further)))
    assert said in str(caught.value)
    plan.check(
        grid.read(
            a_grid(
                notebook=notebook,
                parameters={"examples": 3, "names": [], "rate": 1, "anything": "x", "made": "y"},
            )
        )
    )
    assert parameters.read(notebook)["names"] == ["a"]


def test_absent_notebook_and_data_and_too_many_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist \(did you mean .*03_train\.ipynb"):
        plan.check(grid.read(a_grid(notebook=NOTEBOOK.replace("03_train", "03_trian"))))
    (tmp_path / "broken.ipynb").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="can't be read as a notebook"):
        plan.check(grid.read(a_grid(notebook=str(tmp_path / "broken.ipynb"))))
    with pytest.raises(DataError, match=r"absent' does not exist on "):
        plan.check(grid.read(a_grid(data=str(tmp_path / "absent"))))
    many = grid.read(a_grid(), seeds=range(31))
    with pytest.raises(ConfigError, match=r"62 runs \(2 arms × 31 seeds\), more than 60"):
        plan.check(many)
    plan.check(many, yes=True)
    plan.check(many, max_runs=62)


def test_bad_input_is_said_on_the_command_line_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(
        json.dumps(a_grid(axes={"loss.weight_gio": [1, 2]})), encoding="utf-8"
    )
    code = (
        "import sys; from deim_lab import cli; rc = cli.main(sys.argv[1:]);"
        "print(rc, [m for m in ('torch', 'pandas', 'papermill', 'numpy') if m in sys.modules])"
    )
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "sweep",
            str(tmp_path / "g.json"),
            "--runs",
            str(tmp_path / "runs"),
        ],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert answer.stdout.strip() == "2 []"
    assert "deim-lab sweep: error:" in answer.stderr
    assert "did you mean 'loss.weight_giou'?" in answer.stderr
    assert not (tmp_path / "runs").exists()
    (tmp_path / "g.json").write_text(
        json.dumps(a_grid(data=str(tmp_path / "absent"))), encoding="utf-8"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, "sweep", str(tmp_path / "g.json")],
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd=ROOT,
    )
    assert answer.stdout.strip() == "2 []"


@pytest.mark.parametrize(
    "options",
    [
        ["--address", "x:1"],
        ["--gpus-per-run", "0.5"],
        ["--executor", "ray", "--partition", "p"],
        ["--executor", "slurm", "--gpus", "0"],
        ["--cpus", "4"],
        ["--executor", "ray", "--memory", "8"],
        ["--sbatch", "qos=long"],
        ["--executor", "ray", "--cluster", "local"],
    ],
)
def test_an_option_of_another_executor_is_refused(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from deim_lab import cli

    assert cli.main(["sweep", "any.yaml", *options]) == 2
    assert "belongs to --executor" in capsys.readouterr().err


def test_what_slurm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deim_lab import cli
    from deim_lab.sweep.on_slurm import SlurmExecutor

    seen: list[Any] = []
    result = SimpleNamespace(
        rows=[{"arm": "a", "seed": 0, "status": "done", "run": "r"}],
        done=["a"],
        failed=[],
        folder=tmp_path,
    )

    def ran(_grid: Any, _runs: Any, *, executor: Any, **_others: Any) -> Any:
        seen.append(executor)
        return result

    monkeypatch.setattr(loop, "run", ran)
    (tmp_path / "g.json").write_text(json.dumps(a_grid()), encoding="utf-8")
    words = [
        "sweep",
        str(tmp_path / "g.json"),
        "--runs",
        str(tmp_path),
        "--executor",
        "slurm",
        "--workers",
        "3",
    ]
    folder = tmp_path / "sweeps" / "g" / "slurm"
    for more in (
        [
            "--partition",
            "gpu",
            "--minutes",
            "90",
            "--cpus",
            "6",
            "--memory",
            "24.5",
            "--sbatch",
            "account=vision",
            "--sbatch",
            "nice=5",
        ],
        ["--cluster", "local"],
        [],
    ):
        assert cli.main([*words, *more]) == 0
    assert seen == [
        SlurmExecutor(
            folder,
            3,
            "gpu",
            minutes=90,
            gpus_per_run=1,
            memory_gib=24.5,
            cpus_per_run=6,
            options=(("account", "vision"), ("nice", 5)),
        ),
        SlurmExecutor(folder, 3, cluster="local"),
        SlurmExecutor(folder, 3, gpus_per_run=1),
    ]


def test_gpus_are_those_that_are_visible_and_none_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-77,-1,3")
    assert gpus.visible() == ("2", "GPU-77")
    assert loop.gpus_for(grid.read(a_grid()), None) == ("2", "GPU-77")
    assert loop.gpus_for(grid.read(a_grid(parameters={"device": "cpu"})), None) == ()
    assert loop.gpus_for(grid.read(a_grid(base={"train.device": "cpu"})), ["0"]) == ()
    with pytest.raises(ConfigError, match="device 'cuda:1' names a GPU"):
        loop.gpus_for(grid.read(a_grid(parameters={"device": "cuda:1"})), None)
    assert loop.gpus_for(grid.read(a_grid(parameters={"device": "cuda:1"})), []) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.visible() == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus.visible() == ("0", "1")
    tool.write_text("#!/bin/sh\nexit 9\n", encoding="utf-8")
    assert gpus.visible() == ()


@pytest.mark.parametrize(
    "listed",
    [
        "",
        " ",
        ",",
        "0,,1",
        "0, ",
        "0,0",
        "0, 0",
        "-1",
        "0,-1",
        "NoDevFiles",
        "0,none",
        [""],
        ["0", " "],
        ["0", "0"],
        ["-1"],
    ],
)
def test_gpus_that_name_none_are_refused(
    listed: str | list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUDA takes such an entry for no GPU, so that every run would train on the CPU."""
    from deim_lab import cli
    from deim_lab.sweep.local import LocalExecutor

    content = a_grid(parameters={"device": "cpu"})
    with pytest.raises(ConfigError, match="leave it out") as caught:
        loop.gpus_for(grid.read(content), listed)
    assert repr(listed) in str(caught.value)
    assert "`0,1`" in str(caught.value)
    with pytest.raises(ConfigError, match="leave it out"):
        loop.run(content, tmp_path / "runs", gpus=listed)
    with pytest.raises(ConfigError, match="leave it out"):
        LocalExecutor(2, listed)
    if isinstance(listed, str):
        (tmp_path / "g.json").write_text(json.dumps(a_grid()), encoding="utf-8")
        words = [
            "sweep",
            str(tmp_path / "g.json"),
            "--runs",
            str(tmp_path / "runs"),
            f"--gpus={listed}",
        ]
        for more in ([], ["--dry-run"]):
            assert cli.main([*words, *more]) == 2
            assert f"gpus {listed!r}" in capsys.readouterr().err


def test_gpus_are_listed_as_text_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from deim_lab.sweep.local import LocalExecutor

    resolved = grid.read(a_grid())
    for listed in ("0, GPU-77", ["0", "GPU-77"], (" 0 ", "GPU-77")):
        assert loop.gpus_for(resolved, listed) == ("0", "GPU-77")
        assert LocalExecutor(2, listed).gpus == ("0", "GPU-77")
    assert loop.gpus_for(resolved, "none") == loop.gpus_for(resolved, []) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # means no GPU, and is nothing to refuse
    assert loop.gpus_for(resolved, None) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,1,0")  # each GPU counts once
    assert LocalExecutor(2, loop.gpus_for(resolved, None)).gpus == ("1", "0")


def finished(
    name: str, seconds: float, *, data: str = "d", device: str = "cpu", **overrides: Json
) -> Json:
    from deim_lab.config.presets import preset

    class Finished:
        status = "done"
        config = preset(name, {key.replace("__", "."): value for key, value in overrides.items()})
        info = {"seconds": seconds, "data": {"fingerprint": data}, "device": device}  # noqa: RUF012

    return Finished()


def test_time_is_reckoned_from_the_finished_runs_that_are_most_alike_and_never_made_up() -> None:
    known = [
        finished("cpu_demo", 100, train__epochs=10),
        finished("cpu_demo", 120, train__epochs=10),
        finished("cpu_demo", 110, train__epochs=10),
        finished("cpu_demo", 999, train__epochs=10, data="other"),
        finished("cpu_demo", 5, train__epochs=10, device="cuda:0"),
        finished("smoke", 1),
    ]
    history = cost.history(known)

    def reckon(item: Json, **values: Json) -> Cost:
        return cost.estimate(
            item.config, values.pop("data", "d"), history, kind=values.pop("kind", "cpu"), **values
        )

    assert reckon(known[0]) == Cost(110, cost.SAME, 3)
    assert reckon(known[0], share=0.5) == Cost(55, cost.SAME, 3)
    assert reckon(finished("cpu_demo", 0, train__epochs=30)) == Cost(330, cost.SAME_BUT_LENGTH, 3)
    assert reckon(finished("cpu_demo", 0, train__epochs=10, loss__gamma=3.0)) == Cost(
        110, cost.ALIKE, 3
    )
    assert reckon(known[0], kind="cuda") == Cost(5, cost.SAME, 1)
    assert reckon(known[0], data="third") == Cost(None)
    assert reckon(finished("cpu_demo", 0, data__input_size=128)) == Cost(None)
    assert cost.summary([Cost(None)], workers=2) == "time unknown: no comparable run has finished"
    assert cost.summary([Cost(100, cost.SAME, 1)] * 6, workers=2).startswith(
        "about 5 min with 2 workers"
    )
    assert cost.summary([Cost(60, cost.SAME, 1), Cost(None)], workers=8).startswith(
        "about 60 s and 1 run of unknown time"
    )
    assert [cost.in_words(value) for value in (0.4, 89, 90, 5300, 5400, 200_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "88 min",
        "1 h 30 min",
        "2.3 days",
    ]


def specs(number: int) -> list[spec.RunSpec]:
    return [
        spec.RunSpec(
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


def test_time_left_takes_what_this_sweep_measures() -> None:
    now = [0.0]
    progress = Progress(
        specs(4), {0: None, 1: None, 2: None, 3: None}, workers=2, clock=lambda: now[0]
    )
    progress.start(0)
    assert progress.seconds_left() is None
    record = spec.RunRecord(index=0, arm="a", seed=0, status="done", seconds=100)
    progress.end(record)
    assert progress.line(record, "AP 0.3").startswith("[1/4] done: a s0, AP 0.3, 2 min; about")
    progress.start(1)
    now[0] = 40.0
    assert progress.seconds_left() == (60 + 100 + 100) / 2
    assert [item.index for item in progress.running] == [1]
    assert (
        progress.summary({1: (4, 6)})
        == "[1/4] running: b s1 epoch 4/6; 2 waiting; about 2 min left"
    )
    assert progress.seconds_left({1: (1, 6)}) == 40 * 5  # slower than expected
    assert progress.seconds_left({1: (0, 6)}) == progress.seconds_left()
    error = {"type": "ValueError", "message": "no\nsuch thing", "traceback": ""}
    failed = spec.RunRecord(
        index=1, arm="b", seed=1, status="failed", seconds=10, attempts=2, error=error
    )
    progress.end(failed)
    assert progress.line(failed).splitlines()[-1] == "  ValueError: no"
    assert "2 attempts" in progress.line(failed)
    for index in (2, 3):
        progress.end(spec.RunRecord(index=index, arm="a", seed=index, status="done"))
    assert progress.seconds_left() == 0


def test_specs_and_records_are_plain_json() -> None:
    one = specs(1)[0]
    assert spec.RunSpec(**json.loads(json.dumps(spec.to_json(one)))) == one
    record = spec.failed(one, spec.Failure("E", "m"), attempts=2)
    assert spec.RunRecord(**json.loads(json.dumps(spec.to_json(record)))) == record
    assert spec.identity(one) == {"fingerprint": "f", "seed": 0, "data_fingerprint": "d"}
    assert configs.fingerprint(grid.read(a_grid()).config("sharper")) != configs.fingerprint(
        grid.read(a_grid()).config("baseline")
    )


def test_weights_that_a_notebook_takes_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert grid.read(a_grid(parameters={"weights": "own.pt"})).parameters["weights"] == str(
        tmp_path / "own.pt"
    )
    assert (
        grid.read(a_grid(parameters={"weights": "user/on-the-hub"})).parameters["weights"]
        == "user/on-the-hub"
    )


def test_a_killed_sweep_leaves_no_run_that_seems_to_run(tmp_path: Path) -> None:
    first = Index(loop.prepare(a_grid(seeds=[0, 1]), tmp_path))
    first.folder.mkdir(parents=True)
    for row in first.rows.values():
        row["status"] = "running"
    first.write()
    again = Index(loop.prepare(a_grid(seeds=[1]), tmp_path))
    assert again.rows
    assert {row["status"] for row in again.rows.values()} == {"pending"}
