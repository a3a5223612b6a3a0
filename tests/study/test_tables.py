"""Tables as text: what is escaped, what is bold, what is left out, and LaTeX that LaTeX could
read.
"""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from deim_lab import study
from deim_lab.errors import ConfigError
from deim_lab.study.tables import ABSENT, to_latex, to_markdown


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": ["D-FINE_L", "a|b & 50%", None],
            "epochs": pd.array([72, 50, None], dtype="Int64"),
            "AP": [0.54, 0.5471, np.nan],
            "ms": [8.07, 8.071, 12.9],
        }
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_a_cell_a_value_and_bold_where_it_is_best(frame: pd.DataFrame) -> None:
    lines = to_markdown(
        frame, decimals={"ms": 2}, best={"AP": "max", "ms": "min"}, kinds={"AP": "reported"}
    ).splitlines()
    assert cells(lines[0]) == ["model", "epochs", "AP (reported)", "ms"]
    assert re.fullmatch(r"\|-+\|-+:\|-+:\|-+:\|", lines[1])
    assert cells(lines[2]) == ["D-FINE_L", "72", "0.540", "**8.07**"]
    assert cells(lines[3]) == [
        r"a\|b & 50%",
        "50",
        "**0.547**",
        "**8.07**",
    ]  # 8.071 shows as 8.07: equally good
    assert cells(lines[4]) == [ABSENT, ABSENT, ABSENT, "12.90"]
    assert len({len(line) for line in lines}) == 1


def test_latex_is_booktabs_and_escaped(frame: pd.DataFrame) -> None:
    text = to_latex(frame, decimals=2, best={"AP": "max"}, caption="AP & 100 %", label="tab:ap")
    assert text.startswith(
        "\\begin{table}[t]\n\\centering\n\\caption{AP \\& 100 "
        "\\%}\n\\label{tab:ap}\n\\begin{tabular}{lrrr}\n\\toprule\n"
    )
    assert text.endswith("\\bottomrule\n\\end{tabular}\n\\end{table}\n")
    assert r"D-FINE\_L & 72 & 0.54 & 8.07 \\" in text
    assert r"a\textbar{}b \& 50\% & 50 & \textbf{0.55} & 8.07 \\" in text
    assert r"-- & -- & -- & 12.90 \\" in text


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("\\", r"\textbackslash{}"),
        ("{x}", r"\{x\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("0.5 ± 0.1", r"0.5 $\pm$ 0.1"),
        ("γ−1", r"$\gamma$$-$1"),
        ("[a]*", "{[}a]{*}"),
        ("$#", r"\$\#"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_of_special_signs(plain: str, escaped: str) -> None:
    body = to_latex(pd.DataFrame({"x": [plain]})).splitlines()
    assert body[-3] == rf"{escaped} \\"


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("a*b*", r"a\*b\*"),
        ("_run_", r"\_run\_"),
        ("deim_dfine_n", "deim_dfine_n"),
        ("<b>`[x]", r"\<b>\`\[x\]"),
        ("c:\\d", r"c:\\d"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_of_special_signs(plain: str, escaped: str) -> None:
    assert cells(to_markdown(pd.DataFrame({"x": [plain]})).splitlines()[2]) == [escaped]


def test_signs_no_negative_zero_and_kinds_of_values() -> None:
    table = pd.DataFrame(
        {
            "d": [0.4, -0.0001, -0.3],
            "n": [1, 2, 3],
            "b": [True, False, True],
            "f": np.asarray([0.1, 2, 3], dtype=np.float32),
        }
    )
    lines = to_markdown(table, decimals=1, signed=("d",)).splitlines()
    assert [cells(line) for line in lines[2:]] == [
        ["+0.4", "1", "yes", "0.1"],
        ["0.0", "2", "no", "2.0"],
        ["-0.3", "3", "yes", "3.0"],
    ]
    assert cells(to_markdown(table, decimals=1, best={"d": "max"}).splitlines()[2])[0] == "**0.4**"


def test_an_index_with_a_name_is_a_column_and_groups_are_parted() -> None:
    table = pd.DataFrame(
        {"data": ["a", "a", "b", None, None], "AP": [1.0, 2, 3, 4, 5]},
        index=pd.Index(list("vwxyz"), name="arm"),
    )
    lines = to_latex(table, rule_at="data", decimals=0).splitlines()
    assert lines[2] == r"arm & data & AP \\"
    assert [number for number, line in enumerate(lines) if line == r"\midrule"] == [3, 6, 8]
    assert cells(to_markdown(table.reset_index(drop=True)).splitlines()[0]) == ["data", "AP"]


def test_an_empty_table_keeps_its_head() -> None:
    empty = pd.DataFrame(columns=["model", "AP"])
    assert cells(to_markdown(empty, best={"AP": "max"}).splitlines()[0]) == ["model", "AP"]
    assert len(to_markdown(empty).splitlines()) == 2
    assert r"model & AP \\" in to_latex(empty)


@pytest.mark.parametrize(
    "options",
    [
        {"best": {"AP5": "max"}},
        {"kinds": {"APP": "reported"}},
        {"signed": ("APs",)},
        {"decimals": {"AP_": 1}},
        {"best": {"AP": "highest"}},
    ],
)
def test_arguments_that_fit_no_column_are_named(frame: pd.DataFrame, options: dict) -> None:
    with pytest.raises(ConfigError, match=r"'AP'|expected 'max' or 'min'"):
        to_markdown(frame, **options)
    with pytest.raises(ConfigError, match=r"rule_at names 'modell'.*did you mean 'model'"):
        to_latex(frame, rule_at="modell")
    with pytest.raises(ConfigError, match="this frame has 2"):
        to_markdown(pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])))


def test_the_rooms_of_the_study_are_loaded_on_first_use() -> None:
    """In a process of its own a small room brings no torch. Each room is found by its name."""
    code = (
        "import sys; from deim_lab import study; "
        "print(study.tables.to_markdown.__name__, 'torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert answer.stdout.splitlines() == ["to_markdown False"]
    assert [name for name in study.__all__ if not study.__getattr__(name)] == []
