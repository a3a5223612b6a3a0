"""One table of all presets: size and cost, reported accuracy and latency, measured time.

Sizes and costs are counted here. Accuracy and latency are as reported. Times are measured on this
machine on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import torch

from deim_lab.config.presets import PRESETS, preset
from deim_lab.detector.detector import build_detector
from deim_lab.inference import latency
from deim_lab.study.paper import reported

Json = Any

COCO_CLASSES = 80
COLUMNS = (
    "preset",
    "model",
    "family",
    "backbone",
    "input_px",
    "epochs",
    "params_train_millions",
    "params_deploy_millions",
    "gflops",
    "reported_ap_percent",
    "reported_latency_ms",
    "reported_params_millions",
    "reported_gflops",
    "source",
)
TIMES = (
    "preset",
    "model",
    "device",
    "form",
    "precision",
    "batch",
    "input_px",
    "median_ms",
    "low_ms",
    "high_ms",
    "images_per_second",
    "kind",
)


def table(names: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per preset, with the columns ``COLUMNS``.

    Takes about a second per preset: models are built without memory, and nothing is computed.

    Args:
        names: presets; None: all.

    Returns:
        ``params_*`` and ``gflops`` are counted here, with COCO's 80 classes. ``gflops`` is that of
        the deploy form at the preset's own input size, as in the published numbers. ``epochs`` is
        the recipe's own. ``reported_*`` are published, with their ``source``; NaN where nothing is
        published. The presets for a CPU have no published counterpart and are not models of COCO.

    Raises:
        ConfigError: an unknown preset.
    """
    return pd.DataFrame(
        [_row(name) for name in (PRESETS if names is None else names)], columns=list(COLUMNS)
    )


def times(
    names: Iterable[str],
    *,
    overrides: Mapping[str, Json] | None = None,
    device: str = "cpu",
    form: str = "deploy",
    precision: str = "fp32",
    batch: int = 1,
    repeats: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Time the forward pass of each preset on this machine, with the columns ``TIMES``.

    The weights are random, which does not change the time.

    Args:
        overrides: for every preset's config (``{"data.input_size": 320}``).
        device, form, precision, batch, repeats: as in ``latency``.

    Raises:
        ConfigError: an unknown preset, or a form or precision that the device does not support.
    """
    # All names are checked before the first is timed.
    chosen = {name: preset(name, overrides) for name in names}
    rows = []
    for name, config in chosen.items():
        torch.manual_seed(seed)
        model = latency.in_form(build_detector(config, COCO_CLASSES), form)
        height, width = config.data.input_size
        timing = latency.measure(
            model,
            batch=batch,
            size=(height, width),
            precision=precision,
            device=device,
            repeats=repeats,
        )
        rows.append(
            {
                "preset": name,
                "model": _model(name),
                "device": timing.device,
                "form": form,
                "precision": precision,
                "batch": batch,
                "input_px": f"{height} × {width}",
                "median_ms": timing.median_ms,
                "low_ms": timing.low_ms,
                "high_ms": timing.high_ms,
                "images_per_second": timing.images_per_second,
                "kind": "measured",
            }
        )
    return pd.DataFrame(rows, columns=list(TIMES))


def _row(name: str) -> dict[str, Json]:
    config, published = preset(name), reported.of_preset(name)
    height, width = config.data.input_size
    with torch.device("meta"):
        model = build_detector(name, COCO_CLASSES).eval()
    cost = latency.count(model.deploy(), (height, width))
    return {
        "preset": name,
        "model": _model(name),
        "family": config.model.family,
        "backbone": config.model.backbone,
        "input_px": f"{height} × {width}",
        "epochs": config.train.epochs,
        "params_train_millions": sum(item.numel() for item in model.parameters()) / 1e6,
        "params_deploy_millions": cost.parameters / 1e6,
        "gflops": cost.gflops,
        "reported_ap_percent": published and published.ap_percent,
        "reported_latency_ms": published and published.latency_ms,
        "reported_params_millions": published and published.params_millions,
        "reported_gflops": published and published.gflops,
        "source": published.source if published else "",
    }


def _model(name: str) -> str:
    published = reported.of_preset(name)
    return published.model if published else name
