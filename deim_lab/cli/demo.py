"""The main job, end to end on the embedded set: plain D-FINE against DEIM from the same seed,
compared, drawn, explained.

Two processes of one thread each train side by side, so on two cores the demo takes as long as its
longer arm.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import queue
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.config.presets import PLAIN_RECIPE, preset
from deim_lab.errors import ConfigError, RunFailedError

Json = Any

_log = logging.getLogger(__name__)

# One override dict an arm, on top of the preset. "plain" is D-FINE's recipe at this size, "DEIM"
# adds MAL and Dense O2O.
DATA: Json = "embedded"
ARMS: dict[str, dict[str, Json]] = {"plain D-FINE": dict(PLAIN_RECIPE), "DEIM": {}}


@dataclass(frozen=True)
class Arm:
    """One trained arm: its run folder and what the demo prints of it."""

    name: str
    run: Path
    ap: float
    ap50: float
    targets_per_image: float
    seconds: float


def main(
    runs_dir: str | Path = "runs",
    *,
    preset_name: str = "cpu_demo",
    overrides: Mapping[str, Json] | None = None,
    seed: int = 0,
    notebook: str | Path | None = "notebooks/01_dense_o2o.ipynb",
    progress: bool = True,
) -> list[Arm]:
    """Train both arms, draw the comparison, execute notebook 01 and return what was measured.

    ``notebook=None`` leaves the notebook out; otherwise it is executed by papermill into
    ``<runs_dir>/demo/``. An arm that is trained already is not trained again.

    Raises:
        ConfigError: there is no such notebook (said before anything is trained).
        RunFailedError: naming the arm that failed, and why.
    """
    from deim_lab.data import coco

    if notebook is not None and not Path(notebook).exists():
        raise ConfigError(
            f"notebook {str(notebook)!r} is not here: run the demo from the repository's folder, "
            f"or leave the notebook out"
        )
    root = Path(runs_dir)
    coco.resolve(DATA, cache_dir=root / "data")  # made once, before two processes ask for it
    folders = _train_side_by_side(root, preset_name, dict(overrides or {}), seed, progress=progress)
    arms = [_measured(name, folder) for name, folder in folders.items()]
    out = root / "demo"
    out.mkdir(parents=True, exist_ok=True)
    figure_paths = _draw(folders, out)
    if notebook is not None:
        figure_paths += _execute(Path(notebook), out, preset_name, seed, root)
    report = render(arms, preset_name=preset_name, seed=seed, figure_paths=figure_paths)
    (out / "report.md").write_text(report, encoding="utf-8")
    return arms


def render(arms: list[Arm], *, preset_name: str, seed: int, figure_paths: list[Path]) -> str:
    """The table and the finding as Markdown text: what was measured, for or against."""
    rows = ["| arm | AP | AP50 | targets an image | training seconds |", "|---|---|---|---|---|"]
    rows += [
        f"| {a.name} | {a.ap:.3f} | {a.ap50:.3f} | {a.targets_per_image:.2f} | {a.seconds:.0f} |"
        for a in arms
    ]
    plain, deim = arms
    gap = deim.ap - plain.ap
    verdict = "ahead of" if gap > 0 else "behind" if gap < 0 else "level with"
    finding = (
        f"DEIM is {verdict} plain D-FINE by {abs(gap):.3f} AP here, with "
        f"{deim.targets_per_image / max(plain.targets_per_image, 1e-9):.1f} "
        f"times the targets an image over the whole run. One seed ({seed}), one small embedded "
        f"set, preset {preset_name}: "
        "a direction, not a size; docs/experiments.md has another set and more seeds."
    )
    files = [f"- {path}" for path in [*(a.run for a in arms), *figure_paths]]
    return "\n".join(["", *rows, "", finding, "", "Runs and figures:", *files, ""])


def _train_side_by_side(
    root: Path, preset_name: str, overrides: dict[str, Json], seed: int, *, progress: bool
) -> dict[str, Path]:
    """Train every arm in a process of its own; returns arm → run folder."""
    from tqdm import tqdm

    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    workers = {
        name: context.Process(
            target=_train_arm,
            args=(name, preset_name, overrides | arm, DATA, seed, str(root), events),
            daemon=False,
        )
        for name, arm in ARMS.items()
    }
    for worker in workers.values():
        worker.start()
    bars = {
        name: tqdm(
            desc=f"{name:>12}", unit="step", position=i, disable=not progress, mininterval=1.0
        )
        for i, name in enumerate(ARMS)
    }
    folders: dict[str, Path] = {}
    failures: dict[str, str] = {}
    try:
        while len(folders) + len(failures) < len(workers):
            try:
                name, event = events.get(timeout=1.0)
            except queue.Empty:
                for name, worker in workers.items():
                    if worker.exitcode not in (None, 0) and name not in folders:
                        failures.setdefault(
                            name, f"its process ended with exit code {worker.exitcode}"
                        )
                continue
            if event["kind"] == "finished":
                folders[name] = Path(event["run"])
            elif event["kind"] == "failed":
                failures[name] = event["error"]
            elif event["kind"] in ("start", "step"):
                bars[name].total = event["steps"]
                bars[name].update(event["step"] - bars[name].n)
            elif event["kind"] == "val":
                bars[name].set_postfix_str(
                    f"AP {event['AP']:.3f} AP50 {event['AP50']:.3f}", refresh=False
                )
    finally:
        for bar in bars.values():
            bar.close()
        for name, worker in workers.items():
            if name not in folders and worker.is_alive():
                worker.terminate()
            worker.join()
    if failures:
        raise RunFailedError(
            "; ".join(f"arm {name!r} failed: {error}" for name, error in failures.items())
        )
    return {name: folders[name] for name in ARMS}


def _train_arm(
    name: str,
    preset_name: str,
    overrides: dict[str, Json],
    data: Json,
    seed: int,
    runs_dir: str,
    events: Any,
) -> None:
    """Body of one arm's process."""
    last = 0.0

    def forward(event: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if event["kind"] != "step" or now - last > 0.5 or event["step"] == event["steps"]:
            last = now
            kept = ("kind", "step", "steps", "AP", "AP50")
            events.put((name, {key: event[key] for key in kept if key in event}))

    logging.basicConfig(level=logging.ERROR)
    try:
        from deim_lab.training.loop import train

        run = train(
            preset(preset_name, overrides),
            data,
            seed=seed,
            runs_dir=runs_dir,
            device="cpu",
            on_event=forward,
        )
    except Exception as error:
        events.put((name, {"kind": "failed", "error": f"{type(error).__name__}: {error}"}))
        raise
    events.put((name, {"kind": "finished", "run": str(run.folder)}))


def _measured(name: str, folder: Path) -> Arm:
    from deim_lab.runs import Run

    run = Run.open(folder)
    metrics = run.metrics()
    val, train_rows = metrics[metrics["kind"] == "val"], metrics[metrics["kind"] == "train"]
    last = val.iloc[-1]
    return Arm(
        name,
        folder,
        ap=float(last["AP"]),
        ap50=float(last["AP50"]),
        targets_per_image=float(train_rows["targets_per_image"].mean()),
        seconds=float(run.info["seconds"]),
    )


def _draw(folders: Mapping[str, Path], out: Path) -> list[Path]:
    from deim_lab import figures
    from deim_lab.runs import Run

    tables = {name: Run.open(folder).metrics() for name, folder in folders.items()}
    return list(figures.save(figures.training.side_by_side(tables), out / "plain_against_deim"))


def _execute(notebook: Path, out: Path, preset_name: str, seed: int, root: Path) -> list[Path]:
    """Run the notebook on the embedded set; returns the executed copy."""
    from deim_lab.sweep import kernel

    target = out / notebook.name
    kernel.execute(
        notebook,
        target,
        cwd=Path.cwd(),
        parameters={"preset": preset_name, "data": DATA, "seed": seed, "runs_dir": str(root)},
    )
    return [target]


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "demo",
        parents=[shared.common, shared.settings, shared.runs],
        help="train plain D-FINE and DEIM on the embedded set, compare, draw",
        allow_abbrev=False,
    )
    parser.add_argument("--preset", default="cpu_demo", metavar="NAME")
    parser.add_argument("--seed", type=options.seed, default=0)
    parser.add_argument("--no-notebook", action="store_true", help="don't execute notebook 01")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    overrides = configs.parse_assignments(args.assignments)
    preset(args.preset, overrides)  # a wrong key is said before anything starts
    chosen: dict[str, Any] = {"notebook": None} if args.no_notebook else {}
    main(args.runs, preset_name=args.preset, overrides=overrides, seed=args.seed, **chosen)
    options.out((args.runs / "demo" / "report.md").read_text(encoding="utf-8"))
