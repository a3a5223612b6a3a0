"""evaluation/backends.py: backends by name."""

from __future__ import annotations

import pytest

from deim_lab.errors import ConfigError
from deim_lab.evaluation import (
    resolve_backend,
)


def test_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'pycocotools'"):
        resolve_backend("pycocotool")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert resolve_backend("auto") == "pycocotools"
    with pytest.raises(ConfigError, match="not installed"):
        resolve_backend("hotcoco")
