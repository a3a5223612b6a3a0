"""The time of a run is estimated from finished runs that are most alike."""

from __future__ import annotations

from deim_lab.sweep import cost
from deim_lab.sweep.cost import Cost
from sweeps import Json


def finished(
    name: str, seconds: float, *, data: str = "d", device: str = "cpu", **overrides: Json
) -> Json:
    from deim_lab.config.presets import preset

    class Finished:
        status = "done"
        config = preset(name, {key.replace("__", "."): value for key, value in overrides.items()})
        info = {"seconds": seconds, "data": {"fingerprint": data}, "device": device}  # noqa: RUF012

    return Finished()


def test_time_is_reckoned_from_the_finished_runs_that_are_most_alike_and_never_made_up() -> None:
    known = [
        finished("cpu_demo", 100, train__epochs=10),
        finished("cpu_demo", 120, train__epochs=10),
        finished("cpu_demo", 110, train__epochs=10),
        finished("cpu_demo", 999, train__epochs=10, data="other"),
        finished("cpu_demo", 5, train__epochs=10, device="cuda:0"),
        finished("smoke", 1),
    ]
    history = cost.history(known)

    def reckon(item: Json, **values: Json) -> Cost:
        return cost.estimate(
            item.config, values.pop("data", "d"), history, kind=values.pop("kind", "cpu"), **values
        )

    assert reckon(known[0]) == Cost(110, cost.SAME, 3)
    assert reckon(known[0], share=0.5) == Cost(55, cost.SAME, 3)
    assert reckon(finished("cpu_demo", 0, train__epochs=30)) == Cost(330, cost.SAME_BUT_LENGTH, 3)
    assert reckon(finished("cpu_demo", 0, train__epochs=10, loss__gamma=3.0)) == Cost(
        110, cost.ALIKE, 3
    )
    assert reckon(known[0], kind="cuda") == Cost(5, cost.SAME, 1)
    assert reckon(known[0], data="third") == Cost(None)
    assert reckon(finished("cpu_demo", 0, data__input_size=128)) == Cost(None)
    assert cost.summary([Cost(None)], workers=2) == "time unknown: no comparable run has finished"
    assert cost.summary([Cost(100, cost.SAME, 1)] * 6, workers=2).startswith(
        "about 5 min with 2 workers"
    )
    assert cost.summary([Cost(60, cost.SAME, 1), Cost(None)], workers=8).startswith(
        "about 60 s and 1 run of unknown time"
    )
    assert [cost.in_words(value) for value in (0.4, 89, 90, 5300, 5400, 200_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "88 min",
        "1 h 30 min",
        "2.3 days",
    ]
