"""The text of a grid file: types are kept, and a broken file is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deim_lab.errors import ConfigError
from deim_lab.sweep import grid, gridfile
from sweeps import Json


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2", -2),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("0", 0),
        ("1.0", 1.0),
        ("None", None),
        ("null", None),
        ("~", None),
        ("", None),
        ('"null"', "null"),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("'true'", "true"),
        ('"1"', "1"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("[640, 384]", [640, 384]),
        ("groups(4)", "groups(4)"),
        ("{a: [1, '1']}", {"a": [1, "1"]}),
    ],
)
def test_yaml_keeps_types(written: str, value: Json) -> None:
    found = gridfile.parse(f"key: {written}", "g.yaml")["key"]
    assert (found, type(found)) == (value, type(value))


def test_yaml_keys_are_text_and_json_reads_the_same() -> None:
    assert gridfile.parse("{1.5: 1, no: 2, null: 3}", "g.yaml") == {"1.5": 1, "no": 2, "null": 3}
    content = {
        "base": {"optim.lr": 1e-3, "data.input_size": [640, 384], "model.eval_layers": None},
        "about": "1",
    }
    assert (
        gridfile.parse(json.dumps(content), "g.json", as_json=True)
        == content
        == gridfile.parse(json.dumps(content), "g.yaml")
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' appears twice"),
        ("arms:\n  x: {loss.gamma: 1, loss.gamma: 2}", "line 2: key 'loss.gamma' appears twice"),
        ("- 1", "Expected a mapping"),
        ("", "Expected a mapping"),
        ("a: [1", "no readable YAML"),
        ("a: .inf", "not finite"),
        ("a: .nan", "not finite"),
        ("a: &x [*x]", "contains itself"),
        ("a: !!python/name:os.system x", "no readable YAML"),
        ("? [1]\n: 2", "a key must be text"),
    ],
)
def test_a_broken_file_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"g\.yaml") as caught:
        gridfile.parse(text, "g.yaml")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path: Path) -> None:
    for name in ("components", "density", "gamma"):
        (tmp_path / f"{name}.yaml").write_text("preset: smoke", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\(did you mean '[^']*components\.yaml'\?\)"):
        grid.read(tmp_path / "component.yaml")
    with pytest.raises(ConfigError, match="neither YAML nor JSON"):
        grid.read(tmp_path / "components.txt")
    with pytest.raises(ConfigError, match="appears twice"):
        gridfile.parse('{"a": 1, "a": 2}', "g.json", as_json=True)
    with pytest.raises(ConfigError, match="not finite"):
        gridfile.parse('{"a": NaN}', "g.json", as_json=True)
