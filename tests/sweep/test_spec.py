"""Specifications and records of runs are plain JSON."""

from __future__ import annotations

import json

from deim_lab import config as configs
from deim_lab.sweep import grid, spec
from sweeps import a_grid, two_arm_specs


def test_specs_and_records_are_plain_json() -> None:
    one = two_arm_specs(1)[0]
    assert spec.RunSpec(**json.loads(json.dumps(spec.to_json(one)))) == one
    record = spec.failed(one, spec.Failure("E", "m"), attempts=2)
    assert spec.RunRecord(**json.loads(json.dumps(spec.to_json(record)))) == record
    assert spec.identity(one) == {"fingerprint": "f", "seed": 0, "data_fingerprint": "d"}
    assert configs.fingerprint(grid.read(a_grid()).config("sharper")) != configs.fingerprint(
        grid.read(a_grid()).config("baseline")
    )
