"""Commands of ``deim-lab train`` in small, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SETTINGS = ("data.input_size=64", "train.epochs=1", "model.num_queries=20", "model.num_denoising=8")


def train_command(data: Path, folder: Path, *more: str) -> list[str]:
    settings = [part for item in SETTINGS for part in ("--set", item)]
    return [
        "train",
        "--preset",
        "smoke",
        "--data",
        str(data),
        *settings,
        "--device",
        "cpu",
        "--runs",
        str(folder),
        *more,
    ]


def the_run(folder: Path) -> Path:
    return next(item for item in folder.iterdir() if (item / "run.json").exists())


def assert_same_by_class(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The same scores in each image under each category id, but for rounding."""
    scores = []
    for rows in (one, other):
        by_class: dict[tuple[int, int], list[float]] = {}
        for row in rows:
            by_class.setdefault((row["image_id"], row["category_id"]), []).append(row["score"])
        assert len({category_id for _, category_id in by_class}) == 5
        scores.append({key: sorted(values) for key, values in by_class.items()})
    assert scores[0].keys() == scores[1].keys()
    for key, values in scores[0].items():
        assert scores[1][key] == pytest.approx(values, abs=1e-6), key
