"""The timeline draws the schedule itself, with the switches of the pipeline."""

from __future__ import annotations

import itertools

import pytest

from deim_lab import schedule as schedules
from deim_lab.config import override, presets
from deim_lab.figures import schedule
from deim_lab.schedule import Phase
from drawn import points, xs


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("deim_dfine_n", 924),
        ("deim_dfine_l", 3697),
        ("dfine_s", 500),
        ("cpu_demo", 75),
        ("smoke", 10),
    ],
)
def test_the_timeline_draws_the_schedule_itself(name: str, steps: int) -> None:
    config = presets.preset(name)
    plan = schedules.build(config, steps)
    fig = schedule.timeline(plan, config.augment)
    line = max(fig.axes[0].lines, key=lambda item: len(xs(item)))
    for epoch, factor in points(line):
        assert factor == plan.lr_factor(round(epoch * steps))
    found = list(schedule.spans(plan))
    assert found[0][1] == 0
    assert found[-1][2] == plan.epochs
    for phase, start, end in found:
        assert {plan.phase(epoch) for epoch in range(start, end)} == {phase}
    assert all(
        before[2] == after[1] and before[0] is not after[0]
        for before, after in itertools.pairwise(found)
    )


def test_the_timeline_leaves_out_what_a_run_never_does() -> None:
    plan = schedules.build(presets.preset("cpu_demo"), 75)
    assert {tick.get_text() for tick in schedule.phases(plan).axes[0].get_yticklabels()} == {
        "phase",
        *schedule.SWITCHES,
    }
    plain = override(presets.preset("cpu_demo"), presets.PLAIN_RECIPE).augment
    labels = {tick.get_text() for tick in schedule.phases(plan, plain).axes[0].get_yticklabels()}
    assert labels == {"phase", "colour, zoom-out, crop", "flip, resize"}


def test_the_switches_are_those_of_the_pipeline() -> None:
    """The chart says what the pipeline does: Mosaic where its plan has it, strong operations where
    they are in the plan.
    """
    from deim_lab.augment.pipeline import STRONG, Pipeline

    pipeline = Pipeline(augment=presets.preset("deim_dfine_s").augment, input_size=(640, 640))
    for phase in Phase:
        both = {
            *pipeline.plan(phase, mosaic=False),
            *pipeline.plan(phase, mosaic=phase is Phase.DENSE),
        }
        assert ("mosaic" in both) == (phase in schedule.SWITCHES["Mosaic"])
        assert (set(STRONG) <= both) == (phase in schedule.SWITCHES["colour, zoom-out, crop"])
        assert {"flip", "resize"} <= both
