"""inference/latency.py: what is timed and how it is summed up; how long is not tested."""

from __future__ import annotations

import json
import time
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor, nn

from deim_lab.detector.detector import Detector
from deim_lab.errors import ConfigError
from deim_lab.inference import latency
from deim_lab.inference.latency import FORMS, in_form, machine, measure, precisions
from deim_lab.structures import Prediction


def test_a_measurement_has_a_median_inside_its_spread_and_says_what_it_is_of(
    untrained: Detector,
) -> None:
    found = measure(untrained, batch=2, size=(64, 96), repeats=4, warmup=1, with_postprocess=True)
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms
    assert found.images_per_second == pytest.approx(2000 / found.median_ms)
    assert (found.batch, found.size, found.precision, found.postprocess, found.repeats) == (
        2,
        (64, 96),
        "fp32",
        True,
        4,
    )
    assert found.device == machine("cpu")["device"]
    with pytest.raises(FrozenInstanceError):
        found.median_ms = 0.0  # type: ignore[misc]


class Watched(nn.Module):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen: list[tuple[tuple[int, ...], torch.dtype, bool, bool]] = []

    def forward(self, images: Tensor) -> Prediction:
        boxes = self.linear(images[:, :1, :5, :4].flatten(1, 2))
        self.seen.append((tuple(images.shape), boxes.dtype, self.training, torch.is_grad_enabled()))
        return Prediction(boxes, boxes)


def test_warm_up_passes_come_before_the_timed_ones_and_the_precision_is_computed_in() -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = Watched()
        assert model.training
        measure(model, batch=3, size=(32, 64), repeats=5, warmup=2, precision=precision)
        assert model.seen == [((3, 3, 32, 64), dtype, False, False)] * 7


def test_the_median_and_the_quantiles_are_those_of_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    durations = [float(value) for value in (5, 1, 2, 100, 3)]
    ticks = iter(
        [
            tick
            for number, value in enumerate(durations)
            for tick in (1000.0 * number, 1000.0 * number + value)
        ]
    )
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    found = measure(Watched(), size=(32, 32), repeats=5, warmup=0)
    assert found.median_ms == 3000.0
    assert found.low_ms == pytest.approx(1200.0)
    assert found.high_ms == pytest.approx(81000.0)


def test_forms(untrained: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_form(untrained, "train") is untrained
    deployed = in_form(untrained, "deploy")
    assert isinstance(deployed, Detector)
    assert deployed.deployed
    assert not untrained.deployed
    assert in_form(deployed, "deploy") is deployed
    compiled: list[nn.Module] = []

    def compile_(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    assert in_form(deployed, "compiled") is deployed
    assert compiled == [deployed]
    assert FORMS == ("train", "deploy", "compiled")
    with pytest.raises(ConfigError, match="did you mean 'deploy'"):
        in_form(untrained, "deployed")


def test_what_the_device_has_not_is_named() -> None:
    assert precisions("cpu") == ("fp32", "bf16")
    with pytest.raises(ConfigError, match=r"'fp16' is not available on .*fp32, bf16"):
        measure(Watched(), precision="fp16", size=(32, 32))
    with pytest.raises(ConfigError, match="did you mean 'bf16'"):
        measure(Watched(), precision="bf61", size=(32, 32))
    with pytest.raises(ConfigError, match="batch 0 is below 1"):
        measure(Watched(), batch=0)
    with pytest.raises(ConfigError, match="repeats 0 is below 1"):
        measure(Watched(), repeats=0)


def test_the_machine_is_named() -> None:
    told = machine("cpu")
    assert told["torch"] == torch.__version__
    assert told["threads"] == torch.get_num_threads()
    assert told["date"][:4].isdigit()
    json.dumps(told)


def test_a_slow_model_is_timed_for_a_while_only() -> None:
    assert measure(Watched(), size=(32, 32), repeats=40, max_seconds=0.0).repeats == latency.FEWEST
    assert measure(Watched(), size=(32, 32), repeats=7, max_seconds=60.0).repeats == 7
