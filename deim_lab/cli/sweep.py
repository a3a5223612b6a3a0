"""``deim-lab sweep``: execute a grid of runs as notebooks, here or on a cluster."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.errors import ConfigError
from deim_lab.host import shipped

if TYPE_CHECKING:
    from deim_lab.sweep.grid import Grid
    from deim_lab.sweep.spec import Executor

EXECUTORS = ("local", "ray", "slurm")


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "sweep",
        parents=[shared.common, shared.data, shared.settings, shared.device, shared.runs],
        help="run an ablation grid: arms × seeds, skipping finished runs",
        allow_abbrev=False,
    )
    parser.add_argument(
        "grid",
        metavar="GRID",
        type=options.path_text,
        help=f"a ready grid ({', '.join(shipped.files('grids'))}), or a grid file, YAML or JSON",
    )
    _add_choice(parser)
    _add_start(parser)
    _add_cluster(parser)
    parser.set_defaults(run=run)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that replace values of the grid."""
    parser.add_argument("--preset", metavar="NAME", help="recipe that replaces the grid's")
    parser.add_argument(
        "--seeds", type=_seeds, metavar="0,1,2", help="seeds that replace the grid's"
    )
    parser.add_argument(
        "--name", help="name of the sweep's folder in <runs>/sweeps (default: the grid file's name)"
    )


def _add_start(parser: argparse.ArgumentParser) -> None:
    """Add the options on which runs start, how many at once, and where."""
    parser.add_argument(
        "--workers",
        type=options.positive,
        metavar="N",
        help="runs at a time (default: one per GPU, else one)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the runs, their changes, their status and an estimated time; run nothing",
    )
    parser.add_argument("--yes", action="store_true", help="confirm a grid of any number of runs")
    parser.add_argument(
        "--max-runs",
        type=options.positive,
        metavar="N",
        help="refuse a grid of more runs without --yes (default: 60)",
    )
    parser.add_argument(
        "--retry-failed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="try failed runs again",
    )
    parser.add_argument(
        "--gpus",
        metavar="0,1",
        help="GPUs to assign, one per run; 'none': assign none (default: all visible GPUs)",
    )
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="local",
        help="where the runs happen (default: local, as processes of this machine)",
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options of Ray and Slurm; ``_check_options`` refuses them for other executors."""
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="address of a running Ray cluster (default: start Ray here, for this sweep alone)",
    )
    parser.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="F",
        help="with ray or slurm: GPUs per run (ray: also a fraction; default: 1, or 0 on the CPU)",
    )
    parser.add_argument(
        "--partition", metavar="NAME", help="with slurm: partition (default: the cluster's own)"
    )
    parser.add_argument(
        "--minutes",
        type=options.positive,
        metavar="N",
        help="with slurm: time limit of a job; a job that reaches it is continued",
    )
    parser.add_argument(
        "--cpus",
        type=options.positive,
        metavar="N",
        help="with slurm: CPU cores of a job (default: 1)",
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="with slurm: main memory of a job (default: the cluster's own)",
    )
    parser.add_argument(
        "--sbatch",
        action="append",
        metavar="KEY=VALUE",
        help="with slurm: a further option of sbatch, e.g. account=vision; may be repeated",
    )
    parser.add_argument(
        "--cluster",
        choices=["local"],
        help="with slurm: run its jobs as processes of this machine, for tests without Slurm",
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; the exit code is 1 if a run failed."""
    _check_options(args)
    from deim_lab.sweep import grid as grids, loop, plan

    grid = grids.read(
        args.grid,
        preset=args.preset,
        data=options.data(args),
        overrides=configs.parse_assignments(args.assignments),
        seeds=args.seeds,
        name=args.name,
        parameters={"device": options.device_name(args)} if args.device else None,
    )
    limits = {"max_runs": args.max_runs or plan.MOST_RUNS, "yes": args.yes}
    if args.dry_run:
        prepared = loop.prepare(grid, args.runs, **limits)
        ids = loop.gpus_for(grid, args.gpus) if args.executor == "local" else ()
        options.out("\n".join(plan.describe(prepared, workers=args.workers or max(1, len(ids)))))
        return 0
    executor = None if args.executor == "local" else _cluster(args, grid)
    result = loop.run(
        grid,
        args.runs,
        workers=args.workers,
        executor=executor,
        gpus=args.gpus,
        retry_failed=args.retry_failed,
        **limits,
    )
    wide = max(len(row["arm"]) for row in result.rows)
    for row in result.rows:
        place = row["run"] or row["notebook"] or ""
        line = f"{row['arm']:<{wide}}  s{row['seed']:<3} {row['status']:<8} {place}"
        options.out(line.rstrip())
    options.out(f"{len(result.done)} done, {len(result.failed)} failed")
    options.out(str(result.folder / "index.json"))
    return 1 if len(result.done) < len(result.rows) else 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise ``ConfigError`` for an option of another executor, which would have no effect."""
    owners = {
        "address": ("ray",),
        "gpus_per_run": ("ray", "slurm"),
        "partition": ("slurm",),
        "minutes": ("slurm",),
        "gpus": ("local",),
        "cpus": ("slurm",),
        "memory": ("slurm",),
        "sbatch": ("slurm",),
        "cluster": ("slurm",),
    }
    for name, executors in owners.items():
        if getattr(args, name) is not None and args.executor not in executors:
            raise ConfigError(
                f"--{name.replace('_', '-')} belongs to --executor {' or '.join(executors)}, not "
                f"to {args.executor}"
            )


def _cluster(args: argparse.Namespace, grid: Grid) -> Executor:
    from deim_lab.host import gpus
    from deim_lab.sweep import loop

    share = args.gpus_per_run
    if share is None:  # a job without a GPU would train on the CPU without a warning
        on_cpu = args.cluster is not None or not loop.gpus_for(grid, ("any",))
        share = (
            0.0
            if on_cpu or (args.executor == "ray" and args.address is None and not gpus.visible())
            else 1.0
        )
    if args.executor == "ray":
        from deim_lab.sweep.on_ray import RayExecutor

        return RayExecutor(address=args.address, workers=args.workers or 1, gpus_per_run=share)
    from deim_lab.sweep.on_slurm import SlurmExecutor

    given = {"minutes": args.minutes, "cpus_per_run": args.cpus, "memory_gib": args.memory}
    return SlurmExecutor(
        args.runs.absolute() / "sweeps" / grid.name / "slurm",
        workers=args.workers or 1,
        partition=args.partition,
        gpus_per_run=share,
        cluster=args.cluster,
        options=tuple(configs.parse_assignments(args.sbatch or ()).items()),
        **{name: value for name, value in given.items() if value is not None},
    )


def _seeds(text: str) -> list[int]:
    return [options.seed(item) for item in text.split(",")]
