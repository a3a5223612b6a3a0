"""detector/lite_encoder.py: two levels of one map, and bad input."""

from __future__ import annotations

import pytest
import torch

from deim_lab.detector.lite_encoder import LiteEncoder
from deim_lab.errors import ConfigError

pytestmark = pytest.mark.numeric


def test_lite_encoder_makes_two_levels_of_one_map() -> None:
    encoder = LiteEncoder((24,), hidden_dim=16, expansion=0.5, depth_mult=0.5).eval()
    fine, coarse = encoder([torch.randn(2, 24, 4, 6)])
    assert fine.shape == (2, 16, 4, 6)
    assert coarse.shape == (2, 16, 2, 3)
    with pytest.raises(ConfigError, match=r"names 2\. For several maps"):
        LiteEncoder((24, 48), hidden_dim=16, expansion=0.5, depth_mult=0.5)
