"""``deim-lab latency``: print parameters, FLOPs and forward times, and write them as JSON."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab import config as configs
from deim_lab.cli import options
from deim_lab.config.presets import preset
from deim_lab.errors import ConfigError, WeightsError
from deim_lab.host.files import user_path

if TYPE_CHECKING:
    import torch

    from deim_lab.detector.detector import Detector
    from deim_lab.inference.latency import Latency


_HEADER = (
    f"  {'form':<9} {'precision':<9} {'batch':>5}  {'model ms (5-95 %)':>28}  "
    f"{'with post-processing':>28}  {'images/s':>8}"
)


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "latency",
        parents=[shared.common, shared.settings, shared.device],
        help="measure parameters, FLOPs and time of a forward pass",
        allow_abbrev=False,
    )
    _add_models(parser)
    _add_timing(parser)
    parser.add_argument(
        "--out",
        metavar="JSON",
        type=user_path,
        default=Path("latency.json"),
        help="(default: latency.json)",
    )
    parser.set_defaults(run=run, refuse=parser.error)


def _add_models(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the models."""
    parser.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        default=[],
        help="untrained models with 80 classes (weights do not change the time)",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="RUN_OR_WEIGHTS",
        type=options.path_text,
        default=[],
        help="models of runs or weights files of this lab",
    )
    parser.add_argument(
        "--size",
        type=options.positive,
        nargs=2,
        metavar=("H", "W"),
        help="input size in pixels (default: each config's)",
    )


def _add_timing(parser: argparse.ArgumentParser) -> None:
    """Add the options for forms, precisions and duration."""
    parser.add_argument(
        "--batch",
        type=options.positive,
        nargs="+",
        metavar="N",
        default=[1, 8],
        help="batch sizes (default: 1 8)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        metavar="P",
        help="fp32, bf16, fp16 (default: all that the device supports)",
    )
    parser.add_argument(
        "--form",
        nargs="+",
        metavar="F",
        default=["train", "deploy"],
        help="train, deploy, compiled (default: train deploy)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="also the compiled deploy form (torch.compile)"
    )
    parser.add_argument(
        "--repeats",
        type=options.positive,
        default=50,
        metavar="N",
        help="timed passes per line (default: 50)",
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="time limit per line, after at least 5 passes (default: 10)",
    )


@dataclass(frozen=True)
class Timing:
    """What to time of each model, and how long."""

    forms: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    device: torch.device
    repeats: int
    max_seconds: float


def run(args: argparse.Namespace) -> int:
    """Run the verb; the exit code is 1 if a form could not be timed."""
    if not args.preset and not args.weights:
        args.refuse("nothing to time: give --preset NAME or --weights RUN_OR_WEIGHTS")
    size = {} if args.size is None else {"data.input_size": args.size}
    overrides = configs.parse_assignments(args.assignments) | size
    # Wrong names are reported before anything is timed.
    chosen = {name: preset(name, overrides) for name in args.preset}
    from deim_lab.host.files import write_json
    from deim_lab.inference import latency

    timing = _timing(args)
    machine = latency.machine(timing.device)
    options.out(_machine_line(machine))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    models: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    code = 0
    for name, config, model in _models(args, chosen, overrides):
        models.append(_model_row(name, config, model, latency))
        options.out(_model_line(models[-1]))
        options.out(_HEADER)
        for form, precision, batch, pair in _measured(name, config, model, timing):
            if pair is None:
                code = 1
                continue
            times += [{"model": name, "form": form} | latency.row(item) for item in pair]
            options.out(_time_line(form, precision, batch, pair))
        # Written after each model, because a later one may fail.
        write_json(args.out, {"machine": machine, "models": models, "times": times})
    options.out(str(args.out))
    return code


def _timing(args: argparse.Namespace) -> Timing:
    """Read the options as a ``Timing``; ``ConfigError`` for an unknown form or precision."""
    from deim_lab.inference import latency

    device = options.device(args)
    precisions = args.precision or latency.precisions(device)
    forms = [*args.form]
    if args.compile and "compiled" not in forms:
        forms.append("compiled")
    _check(forms, precisions, latency, device)
    return Timing(
        forms=tuple(forms),
        precisions=tuple(precisions),
        batches=tuple(args.batch),
        device=device,
        repeats=args.repeats,
        max_seconds=args.max_seconds,
    )


def _measured(
    name: str, config: configs.Config, model: Detector, timing: Timing
) -> Iterator[tuple[str, str, int, list[Latency] | None]]:
    """Time every form, precision and batch, without and with post-processing.

    The times are None for a model that cannot be compiled here; the reason is printed.
    """
    from deim_lab.inference import latency

    for form in timing.forms:
        shaped = latency.in_form(model, form)
        for precision, batch in itertools.product(timing.precisions, timing.batches):
            pair = None
            try:
                pair = [
                    latency.measure(
                        shaped,
                        batch=batch,
                        size=config.data.input_size,
                        precision=precision,
                        device=timing.device,
                        repeats=timing.repeats,
                        max_seconds=timing.max_seconds,
                        with_postprocess=post,
                        top_k=config.eval.top_k,
                    )
                    for post in (False, True)
                ]
            except Exception as error:
                # torch.compile fails in many ways, e.g. without a C++ compiler.
                if form != "compiled":
                    raise
                reason = next(iter(str(error).strip().splitlines()), "")
                options.say(
                    f"{name} cannot be compiled here ({precision}, batch {batch}): "
                    f"{type(error).__name__}: {reason}"
                )
            yield form, precision, batch, pair


def _check(forms: Sequence[str], precisions: Sequence[str], latency: Any, device: Any) -> None:
    """Raise ``ConfigError`` for a wrong form or precision before anything is timed."""
    from deim_lab.errors import nearest

    for kind, given, available in (
        ("form", forms, latency.FORMS),
        ("precision", precisions, latency.precisions(device)),
    ):
        for name in given:
            if name not in available:
                raise ConfigError(
                    f"{kind} {name!r} is not available here; known: "
                    f"{', '.join(available)}{nearest(name, available)}"
                )


def _models(
    args: argparse.Namespace, chosen: dict[str, Any], overrides: dict[str, Any]
) -> Iterator[tuple[str, configs.Config, Detector]]:
    """Yield name, config and model one by one, built on demand."""
    from deim_lab.detector.detector import build_detector
    from deim_lab.weights.own import load_detector

    for name, config in chosen.items():
        yield name, config, build_detector(config, 80).eval()
    for path in args.weights:
        try:
            loaded = load_detector(path)
        except WeightsError as error:
            raise WeightsError(
                f"{str(error).removesuffix('.')}. (Weights do not change the time: --preset NAME "
                f"times an official model)"
            ) from error
        yield (
            Path(path).name,
            options.override_trained(loaded.config, overrides, path),
            loaded.model,
        )


def _model_row(name: str, config: configs.Config, model: Detector, latency: Any) -> dict[str, Any]:
    train, deploy = (
        latency.count(form, config.data.input_size)
        for form in (model, latency.in_form(model, "deploy"))
    )
    return {
        "model": name,
        "preset": config.preset,
        "size": list(config.data.input_size),
        "parameters_train": train.parameters,
        "parameters_deploy": deploy.parameters,
        "gflops": deploy.gflops,
        "gmacs": deploy.gmacs,
        "spared_gflops": deploy.spared_gflops,
    }


def _machine_line(machine: dict[str, Any]) -> str:
    threads = f", {machine['threads']} threads" if machine["threads"] else ""
    return f"{machine['device']}, torch {machine['torch']}{threads}, {machine['date']}"


def _time_line(form: str, precision: str, batch: int, pair: Sequence[Latency]) -> str:
    spread = "  ".join(
        f"{item.median_ms:>10.2f} ({item.low_ms:.2f}-{item.high_ms:.2f})".rjust(28) for item in pair
    )
    return f"  {form:<9} {precision:<9} {batch:>5}  {spread}  {pair[0].images_per_second:>8.1f}"


def _model_line(row: dict[str, Any]) -> str:
    spared = (
        f" ({row['spared_gflops']:.2f} of them are not spent here)" if row["spared_gflops"] else ""
    )
    return (
        f"\n{row['model']}: {row['parameters_train'] / 1e6:.3f} M parameters, "
        f"{row['parameters_deploy'] / 1e6:.3f} M deployed, "
        f"{row['gflops']:.2f} GFLOPs at {row['size'][0]} × {row['size'][1]}{spared}"
    )
