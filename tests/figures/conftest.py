"""Shared by the tests of figures: measured densities, logs of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="session")
def rows() -> dict[str, np.ndarray]:
    """Plain images with 1 to 8 targets, Mosaics with more, and both mixed."""
    draw = np.random.default_rng(0)
    plain, mosaic = draw.integers(1, 9, 300), draw.integers(4, 24, 300)
    counts = {
        "plain": plain,
        "mosaic": mosaic,
        "mixup": plain + draw.permutation(plain),
        "both": mosaic + draw.permutation(mosaic),
    }
    return {
        "variant": np.repeat(list(counts), 300),
        "targets": np.concatenate(list(counts.values())),
        "mosaic": np.repeat([False, True, False, True], 300),
        "mixed": np.repeat([False, False, True, True], 300),
    }


@pytest.fixture(scope="session")
def log() -> pd.DataFrame:
    """Six epochs of a run as its log has them: two dense, evaluated every second one."""
    rows: list[dict[str, object]] = []
    for epoch, phase in enumerate(("warm_up", "dense", "dense", "plain", "plain", "clean")):
        dense = phase == "dense"
        rows.append(
            {
                "kind": "train",
                "epoch": epoch,
                "step": 10 * (epoch + 1),
                "phase": phase,
                "loss": 20.0 - epoch,
                "loss/class/layer_0": 2.0,
                "loss/class/layer_1": 1.0 + epoch,
                "loss/l1/layer_0": 0.5,
                "loss/dn_class/layer_0": 3.0,
                "loss/dn_l1/layer_0": 4.0,
                "loss/total": 20.0,
                "targets_per_image": 9.0 if dense else 3.0,
                "positives_per_image": 8.5 if dense else 3.0,
                "mosaic_share": 0.5 * dense,
                "mixup_share": 0.0,
                "matched_iou": 0.1 * epoch,
                "matched_iou_histogram": [float(epoch == index) * 7 + 1 for index in range(20)],
            }
        )
        if epoch % 2:
            rows.append(
                {
                    "kind": "val",
                    "epoch": epoch,
                    "step": 10 * (epoch + 1),
                    "AP": (0.1, 0.5, 0.4)[epoch // 2],
                    "AP50": 0.6,
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def short_log() -> pd.DataFrame:
    """Three epochs as the log has them, the second one dense."""
    phases, shares = ("warm_up", "dense", "plain"), ((0.0, 0.0), (0.48, 0.55), (0.0, 0.0))
    return pd.DataFrame(
        [
            {
                "kind": "train",
                "epoch": epoch,
                "step": 10 * (epoch + 1),
                "phase": phase,
                "targets_per_image": 3.0,
                "matched_iou": 0.5,
                "mosaic_share": mosaic,
                "mixup_share": mixup,
                "seconds/data": 0.01,
                "seconds/forward": 0.03 * (epoch + 1),
                "seconds/backward": 0.05,
            }
            for epoch, (phase, (mosaic, mixup)) in enumerate(zip(phases, shares, strict=True))
        ]
    )
