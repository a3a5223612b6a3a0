"""Figures of targets per image, read back through their artists, and the mixing of counts."""

from __future__ import annotations

import numpy as np
import pytest

from deim_lab import figures
from deim_lab.config import override, presets
from deim_lab.figures import density
from deim_lab.study import density as measuring
from drawn import bars, xs


def test_histogram_bars_hold_the_counts_of_the_table(rows: dict[str, np.ndarray]) -> None:
    fig = density.histogram(rows, variants=("plain", "both"))
    bars = fig.axes[0].containers
    edges = density.bin_edges(rows)
    for name, container in zip(("plain", "both"), bars, strict=True):
        counts = rows["targets"][rows["variant"] == name]
        for bar, low, high in zip(container, edges[:-1], edges[1:], strict=True):
            assert bar.get_x() == low
            assert bar.get_width() == high - low
            assert bar.get_height() == pytest.approx(((counts > low) & (counts < high)).mean())
        assert sum(bar.get_height() for bar in container) == pytest.approx(1)


def test_the_mean_lines_and_bars_stand_at_the_means(rows: dict[str, np.ndarray]) -> None:
    means = measuring.means(rows)
    lines = density.histogram(rows, variants=("plain", "both")).axes[0].lines
    assert [xs(line)[0] for line in lines] == pytest.approx([means["plain"], means["both"]])
    fig = density.means(rows)
    assert [bar.get_width() for bar in bars(fig.axes[0])] == pytest.approx(list(means.values()))
    table = figures.numbers(fig)
    assert table["times_plain"].tolist() == pytest.approx(
        [value / means["plain"] for value in means.values()]
    )


def test_bins_are_few_and_end_between_whole_numbers(rows: dict[str, np.ndarray]) -> None:
    crowded = rows | {"targets": rows["targets"] * 40}
    edges = density.bin_edges(crowded)
    assert len(edges) - 1 <= density.MAX_BINS
    assert edges[-1] > crowded["targets"].max()
    assert np.allclose(edges % 1, 0.5)


def test_an_unknown_variant_is_named_with_the_known_ones(rows: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"'copyblend'.*plain, mosaic, mixup, both"):
        density.histogram(rows, variants=("copyblend",))


def test_the_overview_has_a_panel_a_variant_and_one_of_means(rows: dict[str, np.ndarray]) -> None:
    fig = density.overview(rows)
    assert len(fig.axes) == 5
    shown = figures.numbers(fig)
    for name in ("plain", "mosaic", "mixup", "both"):
        assert shown[shown["panel"] == f"histogram {name}"]["images"].sum() == 300
    assert shown[shown["panel"] == "means"]["targets_per_image"].tolist() == pytest.approx(
        list(measuring.means(rows).values())
    )


def test_mixture_at_the_corners_is_what_was_measured(rows: dict[str, np.ndarray]) -> None:
    plain, mosaic = density.parts(rows)
    assert density.mixture(rows, 0, 0)[: len(plain)] == pytest.approx(plain)
    assert density.mixture(rows, 1, 0)[: len(mosaic)] == pytest.approx(mosaic)
    assert density.mixture(rows, 1, 1) == pytest.approx(np.convolve(mosaic, mosaic))


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.0), (0.5, 0.5), (0.3, 0.9), (1.0, 1.0)])
def test_mixture_is_a_distribution_with_the_stated_mean(
    rows: dict[str, np.ndarray], p: float, q: float
) -> None:
    chance = density.mixture(rows, p, q)
    plain, mosaic = (
        rows["targets"][rows["variant"] == name].mean() for name in ("plain", "mosaic")
    )
    assert chance.min() >= 0
    assert chance.sum() == pytest.approx(1)
    assert chance @ np.arange(len(chance)) == pytest.approx(
        (1 + q) * ((1 - p) * plain + p * mosaic)
    )


def test_mixture_agrees_with_throwing_the_coins(rows: dict[str, np.ndarray]) -> None:
    """The four coin outcomes, drawn a hundred thousand times, against the formula: the whole
    distribution, not just its mean.
    """
    draw, size = np.random.default_rng(1), 100_000
    plain, mosaic = (rows["targets"][rows["variant"] == name] for name in ("plain", "mosaic"))
    own, other = (
        np.where(draw.random(size) < 0.4, draw.choice(mosaic, size), draw.choice(plain, size))
        for _ in range(2)
    )
    thrown = own + np.where(draw.random(size) < 0.7, other, 0)
    expected = density.mixture(rows, 0.4, 0.7)
    found = np.bincount(thrown, minlength=len(expected)) / size
    assert (
        np.abs(np.cumsum(found) - np.cumsum(expected)).max() < 0.01
    )  # Kolmogorov's distance; chance gives 0.004


def test_mixture_agrees_with_the_pipeline_that_trains() -> None:
    """Measured at 0.5 / 0.5 on scenes with unlike numbers of targets, against the mixture of the
    parts measured apart.
    """
    torch = pytest.importorskip("torch")
    from deim_lab.structures import Scene

    scenes = [
        Scene(
            torch.zeros(3, 64, 64, dtype=torch.uint8),
            torch.arange(1 + index % 7).float().mul(7)[:, None] + torch.tensor([0, 0, 12, 12]),
            torch.zeros(1 + index % 7, dtype=torch.int64),
            (index,),
        )
        for index in range(40)
    ]
    augment = override(presets.preset("cpu_demo"), {"augment.iou_crop_prob": 0.0}).augment
    apart = measuring.measure(
        scenes, measuring.variants(augment, certain=True), (96, 96), samples=800, boxes_only=True
    )
    together = measuring.measure(
        scenes, {"dense": augment}, (96, 96), samples=1600, seed=1, boxes_only=True
    )
    chance = density.mixture(apart, augment.mosaic_prob, augment.mixup_prob)
    assert together["targets"].mean() == pytest.approx(chance @ np.arange(len(chance)), rel=0.06)


def test_mixture_refuses_what_it_can_not_mix(rows: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"mixup_prob 1\.5 is outside \[0, 1\]"):
        density.mixture(rows, 0.5, 1.5)
    only_plain = {name: column[rows["variant"] == "plain"] for name, column in rows.items()}
    with pytest.raises(ValueError, match="no Mosaic"):
        density.mixture(only_plain, 0.5, 0.5)


def test_expected_draws_the_mixture(rows: dict[str, np.ndarray]) -> None:
    fig = density.expected(rows, 0.5, 0.25)
    chance = density.mixture(rows, 0.5, 0.25)
    table = figures.numbers(fig)
    assert sum(bar.get_height() for bar in fig.axes[0].containers[0]) == pytest.approx(1)
    assert table["share"].sum() == pytest.approx(1)
    first = table.iloc[1]
    assert first["share"] == pytest.approx(
        chance[int(first["targets_from"]) : int(first["targets_to"]) + 1].sum()
    )
    assert f"{chance @ np.arange(len(chance)):.1f}" in fig.axes[0].get_title(loc="left")


def test_the_last_bar_holds_the_tail_that_the_axis_cuts() -> None:
    """One crowded Mosaic in four thousand: the axis doesn't stretch to it, and its share isn't
    lost.
    """
    rare = {
        "variant": np.repeat(["plain", "mosaic"], 4000),
        "targets": np.array([2] * 4000 + [8] * 3999 + [300]),
        "mosaic": np.repeat([False, True], 4000),
        "mixed": np.zeros(8000, dtype=bool),
    }
    fig = density.expected(rare, 1, 1)
    assert fig.axes[0].get_xlim()[1] < 20
    assert sum(bar.get_height() for bar in fig.axes[0].containers[0]) == pytest.approx(1, abs=1e-9)


def test_the_twin_shows_each_setting(rows: dict[str, np.ndarray]) -> None:
    settings = ((0, 0), (0.5, 0.5), (1, 1), (0, 1))
    fig = density.expected_grid(rows, settings)
    shown = [ax for ax in fig.axes if ax.get_visible()]
    assert len(shown) == 4
    assert figures.numbers(fig).groupby("panel").ngroups == 4
