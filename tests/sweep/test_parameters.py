"""The parameters of a grid are compared with the parameters cell of its notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

from deim_lab.errors import ConfigError
from deim_lab.sweep import grid, parameters, plan
from sweeps import Json, a_grid, write_notebook

OWN = "preset = ''\noverrides = {}\ndata = ''\nseed = 0\nruns_dir = ''\n"


def a_notebook(folder: Path, source: str | None) -> str:
    return str(write_notebook(folder / "small.ipynb", parameters=source))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "has no cells tagged 'parameters'"),
        ("preset = (", "is not valid Python"),
        (
            OWN.replace("overrides = {}\n", "overide = {}\n"),
            "has no 'overrides', which a sweep sets (did you mean 'overide'?)",
        ),
    ],
)
def test_a_notebook_that_takes_no_parameters(tmp_path: Path, source: str | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan.check(grid.read(a_grid(notebook=a_notebook(tmp_path, source))))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({"exampels": 3}, "parameter 'exampels' is not in the parameters cell"),
        ({"examples": "3"}, "'3' (str), but its default"),
        ({"examples": True}, "True (bool)"),
        ({"names": {}}, "{} (dict)"),
        ({"rate": "fast"}, "'fast' (str)"),
    ],
)
def test_parameters_are_checked_against_the_cell(
    tmp_path: Path, further: dict[str, Json], said: str
) -> None:
    notebook = a_notebook(
        tmp_path,
        OWN + "examples: int = 6\nnames = ['a']\nrate = 0.5\nanything = None\nmade = 3 * 4\n",
    )
    with pytest.raises(ConfigError) as caught:
        plan.check(grid.read(a_grid(notebook=notebook, parameters=further)))
    assert said in str(caught.value)
    plan.check(
        grid.read(
            a_grid(
                notebook=notebook,
                parameters={"examples": 3, "names": [], "rate": 1, "anything": "x", "made": "y"},
            )
        )
    )
    assert parameters.read(notebook)["names"] == ["a"]
