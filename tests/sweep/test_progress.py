"""The time left of a sweep, from the times of its runs so far."""

from __future__ import annotations

from deim_lab.sweep import spec
from deim_lab.sweep.progress import Progress
from sweeps import two_arm_specs


def test_time_left_takes_what_this_sweep_measures() -> None:
    now = [0.0]
    progress = Progress(
        two_arm_specs(4), {0: None, 1: None, 2: None, 3: None}, workers=2, clock=lambda: now[0]
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
