"""training/ema.py against the official trace, and its state."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from deim_lab.training.ema import Ema
from places import REFERENCE

pytestmark = pytest.mark.numeric


def test_ema_follows_the_official_trace_and_counts() -> None:
    reference = json.loads((REFERENCE / "schedules.json").read_text(encoding="utf-8"))
    trace = reference["ema_trace"]
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(trace["init_weight"], dtype=torch.float32))
        model.bias.copy_(torch.tensor(trace["init_bias"], dtype=torch.float32))
    ema = Ema(model, decay=trace["decay"], warmup_updates=trace["warmups"])
    for expected in trace["after_each_update"]:
        with torch.no_grad():
            model.weight.add_(1)
            model.bias.sub_(0.5)
        ema.update(model)
        torch.testing.assert_close(
            ema.module.weight, torch.tensor(expected["weight"]), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            ema.module.bias, torch.tensor(expected["bias"]), rtol=1e-5, atol=1e-6
        )
    for case in reference["ema"]:
        other = Ema(model, decay=case["decay"], warmup_updates=case["warmups"])
        assert [other.decay_at(k) for k in case["updates"]] == pytest.approx(case["d"], rel=1e-12)


def test_ema_state_carries_its_counter() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, decay=0.9, warmup_updates=10)
    ema.update(model)
    fresh = Ema(nn.Linear(3, 2), decay=0.9, warmup_updates=10)
    fresh.load_state_dict(ema.state_dict())
    assert fresh.updates == 1
    torch.testing.assert_close(fresh.module.weight, ema.module.weight)
