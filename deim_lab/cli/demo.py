"""The demo: train plain D-FINE and DEIM on the embedded set, compare and explain them.

The demo is a sweep of two arms and one seed. The arms train next to each other, so two cores take
as long as the longer arm.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.config.presets import PLAIN_RECIPE, preset
from deim_lab.errors import ConfigError, RunFailedError
from deim_lab.host import shipped
from deim_lab.host.files import user_path

if TYPE_CHECKING:
    from deim_lab.study.ablation import Comparison
    from deim_lab.sweep import Sweep

Json = Any

DATA: Json = "embedded"
# Arm → its overrides of the preset. "DEIM" is the preset itself: MAL and Dense O2O.
ARMS: dict[str, dict[str, Json]] = {"plain D-FINE": dict(PLAIN_RECIPE), "DEIM": {}}
NOTEBOOK = "01_dense_o2o"

_log = logging.getLogger(__name__)


def main(
    runs_dir: str | Path = "runs",
    *,
    preset_name: str = "cpu_demo",
    overrides: Mapping[str, Json] | None = None,
    seed: int = 0,
    notebook: str | Path | None = NOTEBOOK,
) -> Comparison:
    """Train both arms, draw and report the comparison, execute notebook 01.

    The results are in ``<runs_dir>/demo/``. An arm that is already trained is not trained again.

    Args:
        notebook: a ready notebook's name, or a path; None: execute no notebook.

    Raises:
        ConfigError: the notebook does not exist. Nothing was trained.
        RunFailedError: an arm failed. The message names the arm and the reason.
    """
    from deim_lab.study import ablation

    source = None if notebook is None else shipped.locate("notebooks", notebook)
    if source is not None and not source.is_file():
        raise ConfigError(f"notebook {str(source)!r} does not exist")
    root = user_path(runs_dir)
    sweep = _train(root, preset_name, dict(overrides or {}), seed)
    comparison = ablation.read(root, sweep.name)
    out = root / "demo"
    out.mkdir(parents=True, exist_ok=True)
    files = _draw(comparison, out)
    if source is not None:
        _log.info("executing notebook %s", source.stem)
        files.append(_execute(source, out, preset_name, seed, root))
    report = render(comparison, preset_name=preset_name, seed=seed, figure_paths=files)
    (out / "report.md").write_text(report, encoding="utf-8")
    return comparison


def render(
    comparison: Comparison, *, preset_name: str, seed: int, figure_paths: Sequence[Path]
) -> str:
    """Write the table and the findings as Markdown text, whichever arm is ahead."""
    from deim_lab.study import ablation, tables

    targets = ablation.proof(comparison)["targets_per_image"]
    table = ablation.summary(comparison)[["arm", "AP", "AP50"]].assign(
        **{
            "targets per image": targets,
            "training minutes": ablation.price(comparison)["minutes"],
        }
    )
    decimals = {"targets per image": 2, "training minutes": 1}
    plain, deim = targets
    findings = [
        *ablation.verdicts(comparison),
        f"DEIM saw {deim / plain:.1f} times the targets per image over the entire run.",
        f"One seed ({seed}), one small data set, preset {preset_name}: a direction, not a size. "
        "docs/experiments.md has another set and more seeds.",
    ]
    runs = [comparison.folder / trial.run for arm in comparison.arms for trial in arm.trials]
    return "\n".join(
        [
            "",
            tables.to_markdown(table, decimals=decimals),
            *(f"- {finding}" for finding in findings),
            "",
            "Runs and figures:",
            "",
            *(f"- {path}" for path in [*runs, *figure_paths]),
            "",
        ]
    )


def _train(root: Path, preset_name: str, overrides: dict[str, Json], seed: int) -> Sweep:
    """Train both arms as a sweep of their own, so that any preset and seed can be next."""
    from deim_lab.sweep import loop

    identity = configs.fingerprint(preset(preset_name, overrides))
    _log.info("training %s next to each other on the CPU", " and ".join(ARMS))
    sweep = loop.run(
        {"preset": preset_name, "data": DATA, "base": overrides, "arms": ARMS, "seeds": [seed]},
        root,
        workers=len(ARMS),
        name=f"demo_{preset_name}_s{seed}_{identity}",
        parameters={"device": "cpu"},
    )
    if sweep.failed:
        raise RunFailedError(
            "; ".join(
                f"arm {row['arm']!r} failed: {row['error']['type']}: {row['error']['message']}"
                for row in sweep.failed
            )
        )
    return sweep


def _draw(comparison: Comparison, out: Path) -> list[Path]:
    from deim_lab import figures
    from deim_lab.runs import Run

    logs = {
        arm.name: Run.open(comparison.folder / arm.trials[0].run).metrics()
        for arm in comparison.arms
    }
    return list(figures.save(figures.training.side_by_side(logs), out / "plain_against_deim"))


def _execute(notebook: Path, out: Path, preset_name: str, seed: int, root: Path) -> Path:
    """Run the notebook on the embedded set; return the executed copy."""
    from deim_lab.sweep import kernel

    target = out / notebook.name
    kernel.execute(
        notebook,
        target,
        cwd=Path.cwd(),
        parameters={"preset": preset_name, "data": DATA, "seed": seed, "runs_dir": str(root)},
    )
    return target


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
    preset(args.preset, overrides)  # reports a wrong key before anything starts
    chosen: dict[str, Any] = {"notebook": None} if args.no_notebook else {}
    main(args.runs, preset_name=args.preset, overrides=overrides, seed=args.seed, **chosen)
    options.out((args.runs / "demo" / "report.md").read_text(encoding="utf-8"))
