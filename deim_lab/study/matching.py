"""One-to-one matching under the microscope: costs, matches and IoU of every level, who changed
between checkpoints, positives per image.

The model is looked at as inference has it (EMA weights, norms' running statistics) but at every
level and with the matching that trains it (``matching.assign``). Nothing here draws: tables and
arrays for ``figures.matching``.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from deim_lab.augment.mosaic import SceneSource
from deim_lab.augment.pipeline import Pipeline, generator_of
from deim_lab.augment.sampling import draw_positions
from deim_lab.boxes import cxcywh_to_xyxy, paired_iou
from deim_lab.config import AugmentConfig, Config, MatchConfig
from deim_lab.detector.detector import Detector
from deim_lab.errors import DataError
from deim_lab.matching import assign, hungarian
from deim_lab.schedule import Phase
from deim_lab.structures import DecoderOutput, Matches, Targets
from deim_lab.weights.own import load_detector

_log = logging.getLogger(__name__)

LOW_QUALITY = 0.5  # a match below this IoU is of low quality (DEIM, section 3.2)


@dataclass(frozen=True)
class View:
    """What one model makes of some images: every level's predictions, costs and matches, on the
    CPU.

    Attributes:
        levels: ``K`` names, coarse to fine.
        costs: ``class``, ``l1``, ``giou`` → ``[K, T, Q]``, the parts of the one-to-one cost with
            their weights in it.
        matches: of all levels, by the kind of matching that was asked for.
        iou: ``[M]`` of the matched pairs.
        boxes_cxcywh: ``[K, B, Q, 4]``.
        scores: ``[K, B, Q, C]`` in [0, 1].
        names: ``[B, Q]`` int64 who each query is: its anchor, and its group.
        targets: of the images.
        groups: query groups; the first ``Q / groups`` queries are those of inference.
    """

    levels: tuple[str, ...]
    costs: dict[str, Tensor]
    matches: Matches
    iou: Tensor
    boxes_cxcywh: Tensor
    scores: Tensor
    names: Tensor
    targets: Targets
    groups: int = 1

    def pairs(self) -> pd.DataFrame:
        """One row a matched pair: ``level, image, query, target, iou, score`` (of the target's
        class), ``target`` counted in its image.
        """
        matches, targets = self.matches, self.targets
        assert matches.level is not None
        score = self.scores[
            matches.level, matches.image, matches.query, targets.labels[matches.target]
        ]
        return pd.DataFrame(
            {
                "level": [self.levels[index] for index in matches.level.tolist()],
                "image": matches.image.numpy(),
                "query": matches.query.numpy(),
                "target": (matches.target - targets.offsets[matches.image]).numpy(),
                "iou": self.iou.numpy(),
                "score": score.numpy(),
            }
        )

    def of_image(self, image: int, size_wh: tuple[int, int]) -> pd.DataFrame:
        """The pairs of one image with both boxes in pixels (columns as ``figures.matching`` draws
        them); a row without a query, its box NaN, for each target that has none at that level.
        """
        scale = torch.tensor([*size_wh, *size_wh])
        wanted = cxcywh_to_xyxy(self.targets.of_image(image)[0]) * scale
        pairs = self.pairs()
        pairs = pairs[pairs["image"] == image]
        every = pd.MultiIndex.from_product(
            [self.levels, range(len(wanted))], names=["level", "target"]
        ).to_frame(index=False)
        table = every.merge(pairs, how="left", on=["level", "target"])
        level = torch.tensor(
            [self.levels.index(name) for name in table["level"]], dtype=torch.int64
        )
        query = torch.from_numpy(table["query"].fillna(-1).to_numpy(dtype="int64", copy=True))
        found = cxcywh_to_xyxy(self.boxes_cxcywh[level, image, query]) * scale
        found[query < 0] = torch.nan
        sides = ("x1", "y1", "x2", "y2")
        table[[f"query_{side}" for side in sides]] = found.numpy()
        table[[f"target_{side}" for side in sides]] = wanted[
            torch.from_numpy(table["target"].to_numpy(copy=True))
        ].numpy()
        return table

    def costs_of(self, image: int, level: str) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        """Parts of the cost ``[n, Q]`` of one image at one level, and its assigned
        ``(query, target)``, targets counted in the image.
        """
        index = self.levels.index(level)
        rows = self.targets.image_index == image
        pairs = self.pairs()
        pairs = pairs[(pairs["image"] == image) & (pairs["level"] == level)]
        return {name: part[index, rows] for name, part in self.costs.items()}, list(
            zip(pairs["query"], pairs["target"], strict=True)
        )


@torch.no_grad()
def inspect(
    model: Detector, images: Tensor, targets: Targets, match: MatchConfig | None = None
) -> View:
    """Run ``model`` (which is put into eval mode) on ``images [B, 3, H, W]`` and match every level.

    ``match``: kind and costs; None: the official one-to-one matching. ``ConfigError`` if the model
    has other query groups than it asks for.
    """
    match = match or MatchConfig()
    decoder = _look(model, images)
    targets = targets.to("cpu")
    matches = assign(decoder, targets, match)
    parts = hungarian.cost_parts(
        decoder.logits, decoder.boxes_cxcywh, targets, alpha=match.alpha, gamma=match.gamma
    )
    weights = {"class": match.cost_class, "l1": match.cost_l1, "giou": match.cost_giou}
    wanted = cxcywh_to_xyxy(targets.boxes_cxcywh[matches.target])
    found = cxcywh_to_xyxy(decoder.boxes_cxcywh[matches.level, matches.image, matches.query])
    assert decoder.anchors is not None
    group = torch.arange(decoder.anchors.shape[1]) // (decoder.anchors.shape[1] // decoder.groups)
    return View(
        decoder.levels,
        {name: weight * part for (name, weight), part in zip(weights.items(), parts, strict=True)},
        matches,
        paired_iou(found, wanted),
        decoder.boxes_cxcywh,
        decoder.logits.sigmoid(),
        decoder.anchors * decoder.groups + group,
        targets,
        decoder.groups,
    )


def look_back(run_folder: str | Path, images: Tensor, targets: Targets) -> dict[int, View]:
    """Epoch → view, for every checkpoint that a run kept (``train.keep_checkpoints=all``), by the
    run's own kind of matching.

    A run that kept none is seen at its best and its last checkpoint, with a warning that says so.

    Raises:
        DataError: there is no checkpoint. WeightsError: one can't be read.
    """
    views: dict[int, View] = {}
    for epoch, path in kept_checkpoints(run_folder).items():
        loaded = load_detector(path)
        views[epoch] = inspect(loaded.model, images, targets, loaded.config.match)
    return views


def kept_checkpoints(run_folder: str | Path) -> dict[int, Path]:
    """Epoch → file, in order: those of each epoch, or else best and last (see ``look_back``)."""
    folder = Path(run_folder) / "checkpoints"
    paths = {
        int(path.stem.removeprefix("epoch_")): path for path in sorted(folder.glob("epoch_*.pt"))
    }
    if paths:
        return paths
    others = [folder / name for name in ("best.pt", "last.pt") if (folder / name).is_file()]
    if not others:
        raise DataError(f"{folder} holds no checkpoint: was this run started, and saved?")
    _log.warning(
        "%s kept no checkpoint of each epoch (train.keep_checkpoints=all does); looking at %s",
        run_folder,
        " and ".join(path.name for path in others),
    )
    for path in others:
        epoch = int(torch.load(path, map_location="cpu", weights_only=True)["epoch"])
        paths[epoch - (path.name == "last.pt")] = (
            path  # the last checkpoint says which epoch comes next
        )
    return dict(sorted(paths.items()))


def pairs_over(views: Mapping[int, View]) -> pd.DataFrame:
    """``View.pairs`` of several checkpoints under one another, with the column ``epoch``."""
    return pd.concat(
        [view.pairs().assign(epoch=epoch) for epoch, view in views.items()], ignore_index=True
    )


def low_quality(pairs: pd.DataFrame) -> pd.DataFrame:
    """``epoch, level, share, pairs``: share of the matched pairs with an IoU below
    ``LOW_QUALITY``.
    """
    grouped = pairs.assign(share=pairs["iou"] < LOW_QUALITY).groupby(
        ["epoch", "level"], sort=False
    )["share"]
    return grouped.agg(share="mean", pairs="size").reset_index()


def stability(previous: View, current: View) -> dict[str, float]:
    """Level → share of targets whose query (of several: any of them) is another one in ``current``,
    of those matched in both.

    A query is known by its anchor, not by its rank in the selection (compare the instability of
    DN-DETR, Li et al. 2022, section 3.1, of queries that keep their place). NaN where no target is
    matched in both.

    Raises:
        ValueError: the views are of different targets or levels.
    """
    if previous.levels != current.levels or not torch.equal(
        previous.targets.boxes_cxcywh, current.targets.boxes_cxcywh
    ):
        raise ValueError(
            f"views of other images or levels can't be compared: {len(previous.targets)} targets "
            f"at {', '.join(previous.levels)}, "
            f"and {len(current.targets)} at {', '.join(current.levels)}"
        )
    result = {}
    for index, level in enumerate(current.levels):
        before, after = _queries_of_targets(previous, index), _queries_of_targets(current, index)
        shared = before.keys() & after.keys()
        result[level] = (
            sum(before[target] != after[target] for target in shared) / len(shared)
            if shared
            else float("nan")
        )
    return result


def stability_over(views: Mapping[int, View]) -> pd.DataFrame:
    """``epoch, level, changed``: ``stability`` of each checkpoint against the one before it."""
    epochs = list(views)
    rows = [
        (epoch, level, share)
        for before, epoch in itertools.pairwise(epochs)
        for level, share in stability(views[before], views[epoch]).items()
    ]
    return pd.DataFrame(rows, columns=["epoch", "level", "changed"])


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
    """Positives at the last level, counted on the same images and the same predictions for every
    kind of matching; and under Dense O2O.

    Each kind of ``kinds`` on the plain images (resized, nothing else). With ``composed``,
    one-to-one matching also on what the DENSE phase makes of the same images: as the recipe
    (``config.augment``) has it, with Mosaic on every image, and with MixUp on top. Groups repeat
    the model's queries: a group has a query for each target as long as it has enough, so their
    number doesn't depend on what else it learnt.

    Returns:
        ``method, image, targets, positives``, a row an image and method; ``image`` is its position
        in ``source``.
    """
    order = draw_positions(len(source), samples, seed, "positives")
    dense = replace(config.augment, multiscale_repeat=None)
    arms = [
        (Phase.CLEAN, replace(dense, flip_prob=0.0), {method_name(kind): kind for kind in kinds})
    ]
    if composed:
        chances = dict.fromkeys([(dense.mosaic_prob, dense.mixup_prob), (1.0, 0.0), (1.0, 1.0)])
        arms += [
            (
                Phase.DENSE,
                replace(dense, mosaic_prob=mosaic, mixup_prob=mixup),
                {f"Dense O2O (Mosaic {mosaic:g}, MixUp {mixup:g})": "hungarian"},
            )
            for mosaic, mixup in chances
        ]
    rows: list[tuple[str, int, int, int]] = []
    for phase, augment, methods in arms:
        counted: dict[str, list[tuple[str, int, int, int]]] = {method: [] for method in methods}
        for start in range(0, samples, batch_size):
            indices = order[start : start + batch_size]
            images, targets = compose(
                source, indices, augment, config.data.input_size, phase=phase, seed=seed
            )
            decoder = _look(model, images)
            for method, kind in methods.items():
                match = replace(config.match, kind=kind)
                last = assign(_grouped(decoder, match.groups), targets, match).of_level(
                    len(decoder.levels) - 1
                )
                found = torch.bincount(last.image, minlength=targets.batch_size).tolist()
                counted[method] += [
                    (method, *row)
                    for row in zip(indices, targets.counts.tolist(), found, strict=True)
                ]
        rows += [row for method in counted.values() for row in method]
    return pd.DataFrame(rows, columns=["method", "image", "targets", "positives"])


def positives_over(
    run_folder: str | Path,
    source: SceneSource,
    config: Config,
    *,
    samples: int = 24,
    seed: int = 0,
    kinds: Sequence[str] = ("hungarian", "simota"),
) -> pd.DataFrame:
    """``epoch, method, targets, positives, per_target, times``: ``summary`` of ``positives`` on
    plain images at each kept checkpoint.
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
    """A kind of matching as figures name it: ``one-to-one``, ``SimOTA``, ``4 query groups``."""
    groups = MatchConfig(kind=kind).groups
    return (
        f"{groups} query groups"
        if groups > 1
        else {"hungarian": "one-to-one", "simota": "SimOTA"}[kind]
    )


def summary(counted: pd.DataFrame) -> pd.DataFrame:
    """Of ``positives``: a row a method with ``targets`` and ``positives`` an image, ``per_target``,
    and ``times`` the first method's positives.
    """
    means = counted.groupby("method", sort=False)[["targets", "positives"]].mean()
    return means.assign(
        per_target=means["positives"] / means["targets"],
        times=means["positives"] / means["positives"].iloc[0],
    ).reset_index()


def claims(counted: pd.DataFrame) -> str:
    """The paper's two numbers, SimOTA's 10 positives a target and Dense O2O's 4 times the
    positives, against those of ``positives``.

    "About" is within a fifth.
    """
    rows = {str(row["method"]): row for row in summary(counted).to_dict("records")}
    sentences = []
    if "SimOTA" in rows:
        per_target = float(rows["SimOTA"]["per_target"])
        sentences.append(
            f"SimOTA gives {per_target:.1f} positives a target here, {_against(per_target, 10)}; "
            f"it adds up IoUs, so the number "
            "follows how many queries fit a target and how well."
        )
    dense = {
        name.removeprefix("Dense O2O "): float(row["times"])
        for name, row in rows.items()
        if name.startswith("Dense O2O")
    }
    if dense:
        sentences.append(
            "Dense O2O gives "
            + ", ".join(f"{times:.1f} times {setting}" for setting, times in dense.items())
            + " the positives an image of one-to-one matching: "
            + ", ".join(_against(times, 4) for times in dense.values())
            + "; a target keeps its one query."
        )
    return " ".join(sentences)


def _against(found: float, claimed: float) -> str:
    ratio = found / claimed
    return (
        f"{'about' if 0.8 <= ratio <= 1.2 else 'fewer than' if ratio < 0.8 else 'more than'} "
        f"the claimed {claimed:g}"
    )


def duplicates(
    view: View, *, thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.5), iou: float = 0.5
) -> pd.DataFrame:
    """How many queries of the last level detect each target, with its class above a score threshold
    and at ``iou`` or more.

    One-to-one training leaves about one; one-to-many training leaves several, of which all but one
    count as false.

    Returns:
        ``threshold``, ``found`` (share of the targets that are detected), ``detections`` (mean of
        those), ``spare`` (share of the detections
        that are not a target's first; NaN where nothing is detected).
    """
    targets, queries = view.targets, view.names.shape[1] // view.groups
    scores = view.scores[-1, :, :queries][targets.image_index, :, targets.labels]  # [T, Q]
    boxes = view.boxes_cxcywh[-1, targets.image_index, :queries]
    overlap = paired_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes_cxcywh)[:, None])
    rows = []
    for threshold in thresholds:
        count = ((scores >= threshold) & (overlap >= iou)).sum(-1)
        found, total = int((count > 0).sum()), int(count.sum())
        rows.append(
            (
                threshold,
                found / max(len(targets), 1),
                total / found if found else float("nan"),
                (total - found) / total if total else float("nan"),
            )
        )
    return pd.DataFrame(rows, columns=["threshold", "found", "detections", "spare"])


def fixed_batch(
    source: SceneSource, indices: Sequence[int], config: Config
) -> tuple[Tensor, Targets]:
    """``source[indices]`` as inference sees them: resized, nothing else."""
    return compose(source, indices, replace(config.augment, flip_prob=0.0), config.data.input_size)


def compose(
    source: SceneSource,
    indices: Sequence[int],
    augment: AugmentConfig,
    input_size: tuple[int, int],
    *,
    phase: Phase = Phase.CLEAN,
    seed: int = 0,
) -> tuple[Tensor, Targets]:
    """``source[indices]`` as a batch of the training pipeline: images ``[B, 3, H, W]`` and targets,
    always the same for a seed.
    """
    batch = Pipeline(augment=augment, input_size=input_size).batch(
        source,
        indices,
        phase,
        [generator_of(seed, "microscope", index) for index in indices],
        generator_of(seed, "microscope", "batch", *indices),
    )
    return batch.images, batch.targets


def _queries_of_targets(view: View, level: int) -> dict[int, frozenset[int]]:
    matches = view.matches.of_level(level)
    found: dict[int, set[int]] = {}
    for target, name in zip(
        matches.target.tolist(), view.names[matches.image, matches.query].tolist(), strict=True
    ):
        found.setdefault(target, set()).add(name)
    return {target: frozenset(names) for target, names in found.items()}


def _grouped(decoder: DecoderOutput, groups: int) -> DecoderOutput:
    """The first group's queries, ``groups`` times."""
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


def _look(model: Detector, images: Tensor) -> DecoderOutput:
    """Every level's predictions in eval mode, on the CPU."""
    device = next(model.parameters()).device
    decoder = model.eval().every_level(images.to(device)).matching
    return replace(
        decoder,
        logits=decoder.logits.float().cpu(),
        boxes_cxcywh=decoder.boxes_cxcywh.float().cpu(),
        anchors=None if decoder.anchors is None else decoder.anchors.cpu(),
        corners=None,
        reference_cxcywh=None,
    )
