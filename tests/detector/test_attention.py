"""detector/attention.py against the official numbers: deformable sampling."""

from __future__ import annotations

import pytest
import torch

from deim_lab.detector.attention import sample_and_mix
from official import unit_ops

pytestmark = pytest.mark.numeric


def test_deformable_sampling_parity() -> None:
    arrays = {
        name: torch.from_numpy(value)
        for name, value in unit_ops().items()
        if name.startswith("deform.")
    }
    values = [
        arrays["deform.value0"].reshape(2, 3, 4, 6, 5),
        arrays["deform.value1"].reshape(2, 3, 4, 3, 2),
    ]
    found = sample_and_mix(values, arrays["deform.loc"], arrays["deform.attn"], (3, 2))
    torch.testing.assert_close(found, arrays["deform.out_default"], rtol=0, atol=1e-12)
