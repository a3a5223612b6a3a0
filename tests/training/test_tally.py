"""training/tally.py: a tally of an older checkpoint."""

from __future__ import annotations

import pytest

from deim_lab.training.tally import Tally


def test_a_tally_of_an_older_checkpoint_continues() -> None:
    older = {"steps": 1, "iou_histogram": [0.0] * 10 + [4.0] + [0.0] * 9}
    assert Tally(older).matched_iou == pytest.approx(0.525)
