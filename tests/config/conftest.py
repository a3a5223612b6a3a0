"""Shared by the tests of entries and plugins: tables that are left as they were found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from deim_lab import augment, detector, losses, matching
from deim_lab.config import entries

TABLES: tuple[Any, ...] = (
    losses.CLASSIFICATION,
    matching.KINDS,
    augment.OPERATIONS,
    detector.BACKBONES,
    entries.VALIDATION,
)


@pytest.fixture
def as_before() -> Iterator[None]:
    """Every test leaves the tables as it found them."""
    yield
    for table in TABLES:
        for name in [name for name in table if table.is_added(name)]:
            del table[name]
