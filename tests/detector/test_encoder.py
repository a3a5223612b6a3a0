"""detector/encoder.py against the official numbers: the table of positions."""

from __future__ import annotations

import numpy as np
import pytest

from deim_lab.detector.encoder import position_embedding
from numeric import float32_tolerance
from official import unit_ops

pytestmark = pytest.mark.numeric


def test_position_embedding_parity() -> None:
    for width, height, dim in ((5, 3, 16), (4, 4, 256)):
        want = unit_ops()[f"pos_embed_w{width}_h{height}_d{dim}"]
        within = float32_tolerance(1, width)  # a sine of up to the width
        np.testing.assert_allclose(
            position_embedding(width, height, dim), want, rtol=0, atol=within
        )
