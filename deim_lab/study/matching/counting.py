"""Count positives per image for each kind of matching, and under Dense O2O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from deim_lab.augment.mosaic import SceneSource
from deim_lab.augment.sampling import draw_positions
from deim_lab.config import AugmentConfig, Config, MatchConfig
from deim_lab.config.entries import KINDS
from deim_lab.detector.detector import Detector
from deim_lab.matching import assign
from deim_lab.schedule import Phase
from deim_lab.structures import DecoderOutput
from deim_lab.study.matching.batches import compose
from deim_lab.study.matching.checkpoints import kept_checkpoints
from deim_lab.study.matching.view import every_level
from deim_lab.weights.own import load_detector


@torch.no_grad()
def positives(
    model: Detector,
    source: SceneSource,
    config: Config,
    *,
    samples: int = 64,
    seed: int = 0,
    batch_size: int = 8,
    kinds: Sequence[str] = ("hungarian", "simota", "groups(4)"),
    composed: bool = True,
) -> pd.DataFrame:
    """Count positives at the last level for every kind of matching, and under Dense O2O.

    All kinds are counted on the same images and predictions. Each kind of ``kinds`` is counted on
    the plain images (resized only). ``composed`` adds one-to-one matching on the same images in the
    DENSE phase: as the recipe (``config.augment``) has it, with Mosaic on every image, and with
    MixUp on top. Groups repeat the model's queries. A group has a query for each target as long as
    there are enough queries, so the count does not depend on the training of the groups.

    Returns:
        ``method, image, targets, positives``, one row per image and method; ``image`` is the
        position in ``source``.
    """
    order = draw_positions(len(source), samples, seed, "positives")
    arms = [_plain_arm(config.augment, kinds)]
    if composed:
        arms += _dense_arms(config.augment)
    rows: list[tuple[str, int, int, int]] = []
    for phase, augment, methods in arms:
        counted: dict[str, list[tuple[str, int, int, int]]] = {method: [] for method in methods}
        for start in range(0, samples, batch_size):
            indices = order[start : start + batch_size]
            images, targets = compose(
                source, indices, augment, config.data.input_size, phase=phase, seed=seed
            )
            decoder = every_level(model, images)
            for method, kind in methods.items():
                match = replace(config.match, kind=kind)
                last = assign(_grouped(decoder, match.groups), targets, match).of_level(
                    len(decoder.levels) - 1
                )
                per_image = torch.bincount(last.image, minlength=targets.batch_size).tolist()
                counted[method] += [
                    (method, *row)
                    for row in zip(indices, targets.counts.tolist(), per_image, strict=True)
                ]
        rows += [row for method in counted.values() for row in method]
    return pd.DataFrame(rows, columns=["method", "image", "targets", "positives"])


# A phase, its augmentation, and method → kind of matching to count.
_CountedArm = tuple[Phase, AugmentConfig, dict[str, str]]


def _plain_arm(augment: AugmentConfig, kinds: Sequence[str]) -> _CountedArm:
    """Every kind of matching on resized images without augmentation."""
    plain = replace(augment, multiscale_repeat=None, flip_prob=0.0)
    return Phase.CLEAN, plain, {method_name(kind): kind for kind in kinds}


def _dense_arms(augment: AugmentConfig) -> list[_CountedArm]:
    """One-to-one matching under Dense O2O: the recipe's, Mosaic always, and MixUp on top."""
    recipe = (augment.mosaic_prob, augment.mixup_prob)
    return [
        (
            Phase.DENSE,
            replace(augment, multiscale_repeat=None, mosaic_prob=mosaic, mixup_prob=mixup),
            {f"Dense O2O (Mosaic {mosaic:g}, MixUp {mixup:g})": "hungarian"},
        )
        for mosaic, mixup in dict.fromkeys([recipe, (1.0, 0.0), (1.0, 1.0)])
    ]


def positives_over(
    run_folder: str | Path,
    source: SceneSource,
    config: Config,
    *,
    samples: int = 24,
    seed: int = 0,
    kinds: Sequence[str] = ("hungarian", "simota"),
) -> pd.DataFrame:
    """``summary`` of ``positives`` on plain images at each kept checkpoint.

    Columns: ``epoch, method, targets, positives, per_target, times``.
    """
    tables = [
        summary(
            positives(
                load_detector(path).model,
                source,
                config,
                samples=samples,
                seed=seed,
                kinds=kinds,
                composed=False,
            )
        ).assign(epoch=epoch)
        for epoch, path in kept_checkpoints(run_folder).items()
    ]
    return pd.concat(tables, ignore_index=True)


def method_name(kind: str) -> str:
    """Name a kind of matching for figures: ``one-to-one``, ``SimOTA``, ``4 query groups``."""
    match = MatchConfig(kind=kind)
    if match.groups > 1:
        return f"{match.groups} query groups"
    label = KINDS.label(match.name)
    return label if match.argument is None else f"{label} ({match.argument})"


def summary(counted: pd.DataFrame) -> pd.DataFrame:
    """Summarize ``positives``, one row per method.

    Columns: ``targets`` and ``positives`` per image, ``per_target``, and ``times`` the first
    method's positives.
    """
    means = counted.groupby("method", sort=False)[["targets", "positives"]].mean()
    return means.assign(
        per_target=means["positives"] / means["targets"],
        times=means["positives"] / means["positives"].iloc[0],
    ).reset_index()


def claims(counted: pd.DataFrame) -> str:
    """Compare two numbers of the paper with those of ``positives``: one line per measurement.

    The numbers are SimOTA's 10 positives per target and Dense O2O's 4 times the positives. "About"
    means within 20 %.
    """
    rows = {str(row["method"]): row for row in summary(counted).to_dict("records")}
    sentences = []
    if "SimOTA" in rows:
        per_target = float(rows["SimOTA"]["per_target"])
        sentences.append(
            f"SimOTA gives {per_target:.1f} positives per target here, {_against(per_target, 10)}. "
            "SimOTA adds up IoUs, so the number depends on how many queries fit a target and how "
            "well."
        )
    dense = {
        name: float(row["times"]) for name, row in rows.items() if name.startswith("Dense O2O")
    }
    sentences += [
        f"{name}: {times:.1f} times the positives per image of plain images, {_against(times, 4)}."
        for name, times in dense.items()
    ]
    if dense:
        sentences.append("With Dense O2O, each target still has one query.")
    return "\n".join(sentences)


def _against(measured: float, claimed: float) -> str:
    ratio = measured / claimed
    if 0.8 <= ratio <= 1.2:
        return f"about the claimed {claimed:g}"
    side = "fewer" if ratio < 0.8 else "more"
    return f"{side} than the claimed {claimed:g}"


def _grouped(decoder: DecoderOutput, groups: int) -> DecoderOutput:
    """Repeat the first group's queries ``groups`` times."""
    queries = decoder.logits.shape[2] // decoder.groups
    return replace(
        decoder,
        logits=decoder.logits[:, :, :queries].repeat(1, 1, groups, 1),
        groups=groups,
        corners=None,
        anchors=None,
        boxes_cxcywh=decoder.boxes_cxcywh[:, :, :queries].repeat(1, 1, groups, 1),
        reference_cxcywh=None,
    )
