"""Published numbers: those that are asked for are there, each has a source, and a damaged file is
named.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from deim_lab.config.presets import PRESETS
from deim_lab.errors import ConfigError, DataError
from deim_lab.study.paper import reported

MAIN = {  # model: epochs, AP, AP50, latency in ms
    "YOLOv10-X": (500, 54.4, 71.3, 10.74),
    "YOLO11-X": (500, 54.1, 70.8, 10.52),
    "D-FINE-L": (72, 54.0, 71.6, 8.07),
    "DEIM-D-FINE-L": (50, 54.7, 72.4, 8.07),
    "D-FINE-X": (72, 55.8, 73.7, 12.89),
    "DEIM-D-FINE-X": (50, 56.5, 74.0, 12.89),
}


def test_the_main_table_is_the_papers() -> None:
    assert {
        row.model: (row.epochs, row.ap_percent, row.ap50_percent, row.latency_ms)
        for row in reported.rows("main")
    } == MAIN


def test_the_ablation_adds_up() -> None:
    base, dense, mal, both = reported.gains()
    assert (base.ap_percent, dense.gain_points, mal.gain_points, both.ap_percent) == (
        54.0,
        0.4,
        0.3,
        54.7,
    )
    assert base.ap_percent is not None
    assert dense.gain_points is not None
    assert mal.gain_points is not None
    assert base.ap_percent + dense.gain_points + mal.gain_points == pytest.approx(both.ap_percent)
    assert "second-hand" in dense.note
    assert "second-hand" in mal.note


def test_every_number_has_a_source_and_says_reported() -> None:
    for table in (*reported.TABLES, "ablation"):
        frame = reported.frame(table)
        assert (frame["source"].str.len() > 5).all()
        assert set(frame["kind"]) == {"reported"}
        assert len(frame)
    both = {row.model: row.note for row in reported.rows("main") if row.note}
    assert set(both) == {"DEIM-D-FINE-L", "DEIM-D-FINE-X"}
    assert "72.2" in both["DEIM-D-FINE-L"]


def test_the_zoo_agrees_with_the_main_table_and_names_presets() -> None:
    zoo = {row.model: row for row in reported.rows("zoo")}
    assert len(zoo) == len(reported.rows("zoo")) == 28
    for row in reported.rows("main"):
        if row.preset is not None:
            assert (
                zoo[row.model].preset,
                zoo[row.model].ap_percent,
                zoo[row.model].latency_ms,
            ) == (row.preset, row.ap_percent, row.latency_ms)
    named = {row.preset for row in zoo.values()} - {None}
    official = {name for name in PRESETS if name.startswith(("deim", "dfine", "rtdetrv2"))}
    assert official <= named
    assert reported.of_preset("deim_dfine_l") == zoo["DEIM-D-FINE-L"]
    medium = reported.of_preset("deim_rtdetrv2_r50m")
    assert medium is not None
    assert medium.gflops == 100
    assert reported.of_preset("cpu_demo") is None
    for name in ("n", "s", "m", "l", "x"):  # DEIM is the better, at the same cost
        plain, deim = reported.of_preset(f"dfine_{name}"), reported.of_preset(f"deim_dfine_{name}")
        assert plain is not None
        assert deim is not None
        assert plain.ap_percent is not None
        assert deim.ap_percent is not None
        assert plain.ap_percent < deim.ap_percent
        assert plain.latency_ms == deim.latency_ms


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'main'"):
        reported.rows("mian")


HEAD = "arm,ap_percent,gain_points,source,note\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("arm,ap\nx,1\n", "expected .'arm', 'ap_percent'"),
        (HEAD + "x,fifty,,README,\n", "line 2, ap_percent: 'fifty' is not a number"),
        (HEAD + "x,nan,,README,\n", "nan is not a positive number"),
        (HEAD + "x,-1,,README,\n", "-1 is not a positive number"),
        (HEAD + "x,54,,,\n", "line 2 has no source"),
        (HEAD + "x,54\n", "line 2: expected 5 cells"),
        (HEAD + "x,54,,README,note,more\n", "line 2: expected 5 cells"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "ablation.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        reported.read(path, reported.ReportedGain)
    assert "ablation.csv" in str(caught.value)
