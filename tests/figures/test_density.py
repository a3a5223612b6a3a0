"""Figures, read back through their artists: what is drawn is what the table says, and ``save``
keeps picture and numbers.
"""

from __future__ import annotations

import gc
import itertools
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from deim_lab import figures, palette, schedule as schedules
from deim_lab.config import override, presets
from deim_lab.figures import density, schedule, style
from deim_lab.schedule import Phase
from deim_lab.study import density as measuring
from drawn import bars, paper_figure, points, values, xs, ys


@pytest.fixture(scope="module")
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


# --- density
# --------------------------------------------------------------------------------------------------


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


# --- mixing distributions
# --------------------------------------------------------------------------------------------------


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


# --- schedule
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("deim_dfine_n", 924),
        ("deim_dfine_l", 3697),
        ("dfine_s", 500),
        ("cpu_demo", 75),
        ("smoke", 10),
    ],
)
def test_the_timeline_draws_the_schedule_itself(name: str, steps: int) -> None:
    config = presets.preset(name)
    plan = schedules.build(config, steps)
    fig = schedule.timeline(plan, config.augment)
    line = max(fig.axes[0].lines, key=lambda item: len(xs(item)))
    for epoch, factor in points(line):
        assert factor == plan.lr_factor(round(epoch * steps))
    found = list(schedule.spans(plan))
    assert found[0][1] == 0
    assert found[-1][2] == plan.epochs
    for phase, start, end in found:
        assert {plan.phase(epoch) for epoch in range(start, end)} == {phase}
    assert all(
        before[2] == after[1] and before[0] is not after[0]
        for before, after in itertools.pairwise(found)
    )


def test_the_timeline_leaves_out_what_a_run_never_does() -> None:
    plan = schedules.build(presets.preset("cpu_demo"), 75)
    assert {tick.get_text() for tick in schedule.phases(plan).axes[0].get_yticklabels()} == {
        "phase",
        *schedule.SWITCHES,
    }
    plain = override(presets.preset("cpu_demo"), presets.PLAIN_RECIPE).augment
    labels = {tick.get_text() for tick in schedule.phases(plan, plain).axes[0].get_yticklabels()}
    assert labels == {"phase", "colour, zoom-out, crop", "flip, resize"}


def test_the_switches_are_those_of_the_pipeline() -> None:
    """The chart says what the pipeline does: Mosaic where its plan has it, strong operations where
    they are in the plan.
    """
    from deim_lab.augment.pipeline import STRONG, Pipeline

    pipeline = Pipeline(augment=presets.preset("deim_dfine_s").augment, input_size=(640, 640))
    for phase in Phase:
        both = {
            *pipeline.plan(phase, mosaic=False),
            *pipeline.plan(phase, mosaic=phase is Phase.DENSE),
        }
        assert ("mosaic" in both) == (phase in schedule.SWITCHES["Mosaic"])
        assert (set(STRONG) <= both) == (phase in schedule.SWITCHES["colour, zoom-out, crop"])
        assert {"flip", "resize"} <= both


# --- style and saving
# --------------------------------------------------------------------------------------------------


def test_save_writes_picture_and_numbers(rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    fig = density.means(rows)
    paths = figures.save(fig, tmp_path / "deep" / "means")
    assert [path.suffix for path in paths] == [".png", ".svg", ".pdf", ".csv"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in paths[1].read_bytes()
    assert paths[2].read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(
        path.name for path in paths
    )  # nothing half-written stays
    pd.testing.assert_frame_equal(pd.read_csv(paths[3]), figures.numbers(fig))


def test_the_pdf_embeds_its_fonts_as_outlines_that_editors_keep(
    rows: dict[str, np.ndarray], tmp_path: Path
) -> None:
    content = figures.save(density.means(rows), tmp_path / "means")[2].read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content.replace(b" ", b"")  # fonttype 3 is what many publishers refuse


def test_saving_twice_gives_the_same_bytes(rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    first, second = (figures.save(density.means(rows), tmp_path / name) for name in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix


def test_save_refuses_a_suffix_and_a_figure_without_numbers(
    tmp_path: Path, rows: dict[str, np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=r"means\.png"):
        figures.save(density.means(rows), tmp_path / "means.png")
    with pytest.raises(ValueError, match="no numbers"):
        figures.save(style.figure(), tmp_path / "empty")
    assert not list(tmp_path.iterdir())


def test_given_axes_are_drawn_on_and_keep_the_numbers(rows: dict[str, np.ndarray]) -> None:
    with style.context():
        fig = style.figure(style.DOUBLE)
        left, right = fig.subplots(1, 2)
    assert density.means(rows, ax=right) is fig
    assert right.patches
    assert not left.patches
    assert len(figures.numbers(fig)) == 4


def test_the_style_ends_with_the_figure(rows: dict[str, np.ndarray]) -> None:
    before = dict(matplotlib.rcParams)
    density.overview(rows)
    assert dict(matplotlib.rcParams) == before


def test_no_pyplot_and_no_figure_is_kept(rows: dict[str, np.ndarray]) -> None:
    had_pyplot = "matplotlib.pyplot" in sys.modules
    paper_figure(density.means(rows))._repr_png_()
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
    gc.collect()
    before = sum(type(item) is style.PaperFigure for item in gc.get_objects())
    for _ in range(3):
        density.means(rows)
    gc.collect()
    assert sum(type(item) is style.PaperFigure for item in gc.get_objects()) == before


def test_a_figure_shows_itself_in_a_notebook(rows: dict[str, np.ndarray]) -> None:
    both = paper_figure(density.means(rows))._repr_png_()
    assert both is not None
    shown, size = both
    assert shown.startswith(b"\x89PNG")
    assert len(shown) < 100_000
    assert size["width"] > 300


def test_colours_stand_in_the_palette_alone() -> None:
    package = Path(figures.__file__).parents[1]
    elsewhere = [
        f"{path.relative_to(package)}: {found}"
        for path in sorted(package.rglob("*.py"))
        if path.name != "palette.py"
        for found in re.findall(r"#[0-9A-Fa-f]{6}\b", path.read_text(encoding="utf-8"))
    ]
    assert elsewhere == []


def test_ink_can_be_read_on_every_class() -> None:
    """A contrast of at least 3, which WCAG asks of large text."""

    def luminance(tint: str) -> float:
        parts = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in matplotlib.colors.to_rgb(tint)
        ]
        return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))

    for ground in palette.CLASSES:
        low, high = sorted((luminance(ground), luminance(palette.ink_on(ground))))
        assert (high + 0.05) / (low + 0.05) > 3, ground
    assert palette.ink_on(palette.YELLOW) == "black"
    assert palette.ink_on(palette.BLUE) == "white"


def test_each_phase_has_a_colour() -> None:
    assert set(palette.PHASES) == set(Phase)
    assert {phase: tint for phase, (_, tint) in schedule.PHASES.items()} == palette.PHASES


def test_one_colour_a_method_everywhere() -> None:
    assert style.colour("both") == style.colour("DEIM") == style.colour("dense")
    assert style.colour("plain D-FINE") == style.colour("plain")
    named = list(style.COLOURS.values())
    assert len(set(named)) == len(named)
    several = style.colours(["DEIM", "my arm", "plain", "another"])
    assert len(set(several.values())) == 4


# --- training
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
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


def test_curves_hold_the_scores_of_the_log(log: pd.DataFrame) -> None:
    fig = figures.training.average_precision(log)
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    assert xs(lines["AP"]).tolist() == [2, 4, 6]
    assert ys(lines["AP"]).tolist() == [0.1, 0.5, 0.4]
    ring = [line for line in fig.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert (xs(ring[0])[0], ys(ring[0])[0]) == (4, 0.5)  # the best, not the last
    assert "0.500" in [text.get_text() for text in fig.axes[0].texts]


def test_loss_terms_are_summed_over_levels_and_denoising_is_one(log: pd.DataFrame) -> None:
    found = figures.training.terms(log)
    assert found["class"].tolist() == [3.0 + epoch for epoch in range(6)]
    assert found["l1"].tolist() == [0.5] * 6
    assert found["denoising"].tolist() == [7.0] * 6
    lines = {line.get_label(): line for line in figures.training.loss_terms(log).axes[0].lines}
    assert set(lines) == {"class", "l1", "denoising"}
    assert ys(lines["class"]).tolist() == found["class"].tolist()


def test_the_iou_heatmap_holds_the_share_of_each_bin(log: pd.DataFrame) -> None:
    fig = figures.training.iou_histogram(log)
    share = values(fig.axes[0].collections[0]).reshape(20, 6)
    assert share.sum(0) == pytest.approx(np.ones(6))
    for epoch in range(6):
        assert share[epoch, epoch] == pytest.approx(8 / 27)
    assert figures.numbers(fig)["pairs"].sum() == 6 * 27


def test_two_runs_side_by_side(log: pd.DataFrame) -> None:
    plain = log.assign(mosaic_share=0.0, targets_per_image=3.0, AP=log["AP"] / 2)
    fig = figures.training.side_by_side({"plain D-FINE": plain, "DEIM": log})
    scores, targets = fig.axes[0].lines, fig.axes[1].lines
    assert ys(scores[0]).tolist() == [0.05, 0.25, 0.2]
    assert ys(scores[1]).tolist() == [0.1, 0.5, 0.4]
    assert [line.get_color() for line in scores[:2]] == [
        style.COLOURS["plain"],
        style.COLOURS["dense"],
    ]
    assert ys(targets[1]).tolist() == [3, 9, 9, 3, 3, 3]
    shaded = [patch for patch in bars(fig.axes[1]) if patch.get_x() == 1 and patch.get_width() == 2]
    assert len(shaded) == 1  # where the dense arm was dense, once
    assert set(figures.numbers(fig)["arm"]) == {"plain D-FINE", "DEIM"}


def test_a_plain_run_is_not_shaded_as_dense(log: pd.DataFrame) -> None:
    """Its schedule has the phase, but with both probabilities at 0 nothing dense happens in it."""
    plain = log.assign(mosaic_share=0.0)
    assert not figures.training.side_by_side({"plain": plain}).axes[0].patches


def test_a_run_that_has_just_begun_draws_empty_panels(log: pd.DataFrame) -> None:
    for table in (pd.DataFrame(), log.iloc[:1]):
        for draw in (figures.training.curves, figures.training.iou_histogram):
            assert paper_figure(draw(table))._repr_png_() is not None
    assert any(
        "nothing logged" in text.get_text()
        for text in figures.training.curves(pd.DataFrame()).axes[0].texts
    )
