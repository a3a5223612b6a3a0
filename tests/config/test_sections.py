"""Values that a section of the config derives."""

from __future__ import annotations

from deim_lab.config.presets import preset


def test_effective_gamma_and_alpha_are_the_losses_own_unless_given() -> None:
    assert preset("deim_dfine_n").loss.effective_gamma == 1.5
    assert preset("deim_dfine_n").loss.effective_alpha is None
    assert preset("deim_dfine_n", {"loss.classification": "vfl"}).loss.effective_gamma == 2.0
    assert preset("dfine_n").loss.effective_alpha == 0.75
    assert preset("dfine_n", {"loss.gamma": 1.0, "loss.alpha": 0.5}).loss.effective_gamma == 1.0
