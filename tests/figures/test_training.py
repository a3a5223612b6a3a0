"""Curves of runs hold the scores and losses of the log."""

from __future__ import annotations

import pandas as pd

from deim_lab import figures
from deim_lab.figures import style, training
from drawn import bars, paper_figure, xs, ys


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


def test_compared_runs_show_ap50_in_the_colour_of_their_ap(short_log: pd.DataFrame) -> None:
    scored = pd.concat(
        [short_log, pd.DataFrame([{"kind": "val", "epoch": 2, "step": 30, "AP": 0.3, "AP50": 0.6}])]
    )
    ap, ap50 = training.side_by_side({"DEIM": scored}).axes[0].lines
    assert (ys(ap).tolist(), ys(ap50).tolist()) == ([0.3], [0.6])
    assert ap.get_color() == ap50.get_color() == style.COLOURS["dense"]
    assert (
        training.side_by_side({"DEIM": short_log}).axes[0].get_ylabel().startswith("AP")
    )  # not evaluated yet
