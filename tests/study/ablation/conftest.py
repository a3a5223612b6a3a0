"""Shared by the tests of the ablation: runs are written without asking git."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three git processes a run are most of the time that these tests would take."""
    monkeypatch.setattr(
        "deim_lab.runs.record.git_commit", lambda: {"commit": "c" * 40, "dirty": False}
    )
