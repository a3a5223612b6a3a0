"""detector/layers.py: the inverse sigmoid, and the cache of tables."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from deim_lab.detector.layers import TableCache, inverse_sigmoid
from official import unit_ops

pytestmark = pytest.mark.numeric


def test_inverse_sigmoid_parity() -> None:
    found = inverse_sigmoid(torch.from_numpy(unit_ops()["inverse_sigmoid.in"]))
    np.testing.assert_allclose(found, unit_ops()["inverse_sigmoid.out"], rtol=0, atol=1e-12)


def test_tables_are_made_once_a_size_and_bounded() -> None:
    cache = TableCache()
    made: list[int] = []
    for key in [*range(TableCache.LIMIT + 1), 1, 0]:
        cache.get_or_make(key, partial(made.append, key))
    assert made == [*range(TableCache.LIMIT + 1), 0]
    assert len(cache) == TableCache.LIMIT
