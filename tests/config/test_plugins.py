"""Modules of a user: loaded once, recalled without their code, refused on a clash."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deim_lab import config as configs, losses
from deim_lab.config import plugins, preset
from deim_lab.errors import ConfigError
from loss_functions import with_gamma

pytestmark = pytest.mark.usefixtures("as_before")


def test_two_modules_cannot_use_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = (
        "from deim_lab import losses\n"
        "def mine(logits, target, iou):\n    return logits\n"
        "losses.CLASSIFICATION['mine'] = losses.Term(mine)\n"
    )
    for name in ("first_ideas", "second_ideas"):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    plugins.load([str(tmp_path / "first_ideas.py")])
    with pytest.raises(ConfigError, match=r"first_ideas.*another name in second_ideas"):
        plugins.load([str(tmp_path / "second_ideas.py")])
    other = tmp_path / "other" / "first_ideas.py"
    other.parent.mkdir()
    other.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="Rename the file"):
        plugins.load([str(other)])
    plugins.load([str(tmp_path / "first_ideas.py")])  # again: nothing happens
    sys.modules.pop("first_ideas")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no_such_module_here", "there is no module 'no_such_module_here'"),
        ("nowhere/ideas.py", "'nowhere/ideas.py' does not exist"),
        ("broken.py", "importing 'broken.py' failed: ZeroDivisionError"),
    ],
)
def test_plugins_that_cannot_be_loaded(
    module: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        preset("smoke", {"train.plugins": [module]})
    assert "broken" not in sys.modules


def test_a_recalled_entry_has_no_code() -> None:
    losses.CLASSIFICATION["mine"] = losses.Term(with_gamma, label="M")
    rows = plugins.record(preset("smoke", {"loss.classification": "mine"}))
    whole = configs.fingerprint(preset("smoke", {"loss.classification": "mine"}))
    del losses.CLASSIFICATION["mine"]
    rows[0]["entry"]["of_a_later_version"] = 1
    plugins.recall(rows)
    chosen = preset("smoke", {"loss.classification": "mine"})
    assert (chosen.loss.effective_gamma, losses.CLASSIFICATION.label("mine")) == (3.0, "M")
    assert configs.fingerprint(chosen) == whole
    assert plugins.record(chosen)[0]["sha256"] == rows[0]["sha256"]
    with pytest.raises(ConfigError, match="The code of classification loss 'mine' is not loaded"):
        plugins.ready(chosen)
    losses.CLASSIFICATION["mine"] = losses.Term(with_gamma)  # defined again
    plugins.ready(chosen)


def test_the_source_is_that_of_the_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "edited_ideas.py"
    text = (
        "from deim_lab import losses\n"
        "def mine(logits, target, iou):\n    return logits\n"
        "losses.CLASSIFICATION['mine'] = losses.Term(mine)\n"
    )
    path.write_text(text, encoding="utf-8")
    chosen = preset("smoke", {"train.plugins": str(path), "loss.classification": "mine"})
    before = plugins.record(chosen)
    path.write_text(text + "# an edit while the run goes on\n", encoding="utf-8")
    assert plugins.record(chosen) == before
    sys.modules.pop("edited_ideas")
