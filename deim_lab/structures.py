"""Data structures exchanged by the rooms: Scene, Batch, Targets, Matches, DetectorOutput.

Targets of a batch are flat: one row per target with the index of its image, never a list of dicts.
Matches are index tensors. So one indexing expression gathers the matched pairs of all images
and all decoder levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deim_lab.boxes import xyxy_to_cxcywh
from deim_lab.errors import TargetsError


@dataclass(frozen=True)
class Scene:
    """An image with its targets, before it becomes part of a batch.

    Attributes:
        image: ``[3, H, W]`` uint8 RGB, preferably a view of height-width-channel memory. A data set
            may keep it in its cache, so never change it in place. On the ``meta`` device it has a
            size but no pixels.
        boxes_xyxy: ``[n, 4]`` float32, pixels.
        labels: ``[n]`` int64 contiguous class index.
        image_ids: data set ids of the images in the scene; the id of the main image comes first.
        applied: names of the operations applied to the scene. An operation may have left the scene
            unchanged at random.
    """

    image: Tensor
    boxes_xyxy: Float[Tensor, "n 4"]
    labels: Int64[Tensor, " n"]
    image_ids: tuple[int, ...] = ()
    applied: tuple[str, ...] = ()

    @property
    def image_id(self) -> int:
        """The id of the main image."""
        return self.image_ids[0]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels, in the order of COCO files."""
        return self.size_hw[::-1]

    @property
    def boxes_cxcywh(self) -> Tensor:
        """Centre and size of each box relative to the image, in [0, 1]: ``[n, 4]``."""
        height, width = self.size_hw
        return xyxy_to_cxcywh(self.boxes_xyxy / torch.tensor([width, height, width, height]))


@dataclass(frozen=True)
class Targets:
    """The targets of a batch, flat and ordered by image.

    Attributes:
        boxes_cxcywh: ``[T, 4]`` float, centre and size relative to the image, in [0, 1].
        labels: ``[T]`` int64, contiguous class index in ``[0, num_classes)``.
        image_index: ``[T]`` int64, position of each target's image in the batch, not decreasing.
        batch_size: number of images, including images without targets.
        image_ids: data set id of each image, for error messages; for a mixed image, the id of its
            main image.
    """

    boxes_cxcywh: Float[Tensor, "T 4"]
    labels: Int64[Tensor, " T"]
    image_index: Int64[Tensor, " T"]
    batch_size: int
    image_ids: tuple[int, ...] = ()

    @classmethod
    def from_lists(
        cls, boxes_cxcywh: Sequence[Tensor], labels: Sequence[Tensor], image_ids: Sequence[int] = ()
    ) -> Targets:
        """Build targets from one ``[n, 4]`` box tensor and one ``[n]`` label tensor per image."""
        counts = torch.tensor([len(item) for item in labels], dtype=torch.int64)
        return cls(
            boxes_cxcywh=torch.cat([item.reshape(-1, 4) for item in boxes_cxcywh])
            if boxes_cxcywh
            else torch.zeros(0, 4),
            labels=torch.cat([item.reshape(-1) for item in labels]).long()
            if labels
            else torch.zeros(0, dtype=torch.int64),
            image_index=torch.repeat_interleave(torch.arange(len(counts)), counts),
            batch_size=len(counts),
            image_ids=tuple(image_ids),
        )

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @property
    def counts(self) -> Tensor:
        """Number of targets of each image, ``[B]`` int64."""
        return torch.bincount(self.image_index, minlength=self.batch_size)

    @property
    def offsets(self) -> Tensor:
        """Row of each image's first target, ``[B]`` int64."""
        counts = self.counts
        return counts.cumsum(0) - counts

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Targets:
        """The same targets on another device."""
        boxes, labels, index = (
            item.to(device, non_blocking=non_blocking)
            for item in (self.boxes_cxcywh, self.labels, self.image_index)
        )
        return Targets(boxes, labels, index, self.batch_size, self.image_ids)

    def pin_memory(self) -> Targets:
        """The same targets in page-locked memory."""
        return replace(
            self,
            boxes_cxcywh=self.boxes_cxcywh.pin_memory(),
            labels=self.labels.pin_memory(),
            image_index=self.image_index.pin_memory(),
        )

    def of_image(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes ``[n, 4]`` and labels ``[n]`` of one image."""
        mask = self.image_index == index
        return self.boxes_cxcywh[mask], self.labels[mask]

    def check(self, num_classes: int) -> None:
        """Raise ``TargetsError``, with image and value, for an invalid label or box.

        Call it on CPU tensors, before the first CUDA call. There, an invalid label would cause an
        unreadable device assert.
        """
        bad = ((self.labels < 0) | (self.labels >= num_classes)).nonzero().flatten()
        if len(bad):
            row = int(bad[0])
            raise TargetsError(
                f"label {int(self.labels[row])} of image {self._name(row)} is outside [0, "
                f"{num_classes}). The model has {num_classes} classes."
            )
        finite = self.boxes_cxcywh.isfinite().all(-1)
        inside = ((self.boxes_cxcywh >= -1e-4) & (self.boxes_cxcywh <= 1 + 1e-4)).all(-1)
        positive = (self.boxes_cxcywh[:, 2:] > 0).all(-1)
        bad = (~(finite & inside & positive)).nonzero().flatten()
        if len(bad):
            row = int(bad[0])
            raise TargetsError(
                f"box {[round(v, 5) for v in self.boxes_cxcywh[row].tolist()]} (cxcywh) of image "
                f"{self._name(row)} is not a valid box. "
                "Expected finite values in [0, 1] with width and height above 0."
            )

    def _name(self, row: int) -> str:
        index = int(self.image_index[row])
        return (
            str(self.image_ids[index])
            if index < len(self.image_ids)
            else f"at position {index} of the batch"
        )


@dataclass(frozen=True)
class Batch:
    """Training images with their targets and applied operations.

    Attributes:
        images: ``[B, 3, H, W]`` float32 in [0, 1].
        targets: flat targets with the image ids.
        applied: names of the operations of each image (``Scene.applied``), ``mixup`` last.
    """

    images: Float[Tensor, "B 3 H W"]
    targets: Targets
    applied: tuple[tuple[str, ...], ...]

    @property
    def mosaics(self) -> tuple[bool, ...]:
        """Whether each image is a Mosaic."""
        return tuple("mosaic" in names for names in self.applied)

    @property
    def mosaic_share(self) -> float:
        """Share of the images that are Mosaics."""
        return self.shares(["mosaic"])["mosaic"]

    @property
    def mixed(self) -> bool:
        """Whether MixUp was applied, always to all images of a batch or none."""
        return any("mixup" in names for names in self.applied)

    def shares(self, names: Iterable[str]) -> dict[str, float]:
        """Operation → share of the images that it was applied to."""
        return {
            name: sum(name in applied for applied in self.applied) / len(self.applied)
            for name in names
        }

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, for an asynchronous copy to the GPU."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


@dataclass(frozen=True)
class Prediction:
    """Prediction of a detector for a batch.

    ``logits [B, Q, C]`` are before the sigmoid. ``boxes_cxcywh [B, Q, 4]`` are in [0, 1].
    """

    logits: Float[Tensor, "B Q C"]
    boxes_cxcywh: Float[Tensor, "B Q 4"]


@dataclass(frozen=True)
class Matches:
    """Pairs of a query and a target: three int64 tensors of one length ``M``.

    ``target`` is the row in the flat ``Targets``. For pairs of several levels, ``level`` (also
    ``[M]``) is the index on the level axis of ``DecoderOutput``. Otherwise it is ``None``.
    """

    image: Int64[Tensor, " M"]
    query: Int64[Tensor, " M"]
    target: Int64[Tensor, " M"]
    level: Int64[Tensor, " M"] | None = None

    def __len__(self) -> int:
        return int(self.image.shape[0])

    def of_level(self, index: int) -> Matches:
        """The pairs of one level, without the level axis."""
        if self.level is None:
            raise ValueError("These matches have no level axis. Give matches of several levels.")
        mask = self.level == index
        return Matches(self.image[mask], self.query[mask], self.target[mask])


@dataclass(frozen=True)
class DecoderOutput:
    """Output for matching or denoising queries at every supervised level.

    Levels are an axis, coarse to fine. ``levels`` names them: ``encoder`` (query selection),
    ``pre`` (D-FINE's first plain regression), ``layer_0`` … ``layer_{L-1}``. Inference uses the
    last level, unless training has further layers (``model.eval_layers``).

    Attributes:
        levels: ``K`` names.
        logits: ``[K, B, Q, C]``.
        boxes_cxcywh: ``[K, B, Q, 4]``.
        corners: ``[L, B, Q, 4 * (reg_max + 1)]`` edge-distribution logits of the ``L`` decoder
            layers (the last ``L`` of the ``K`` levels; edges l, t, r, b, each ``reg_max + 1``
            bins); ``None`` for a detector without edge distributions (RT-DETRv2).
        reference_cxcywh: ``[B, Q, 4]`` reference boxes of edge distances (detached), or ``None``.
        anchors: ``[B, Q]`` int64 anchor of each query (``detector.queries``), or ``None``. The
            anchor identifies a query. The place of a query is only its rank in the selection, which
            changes with every score.
        groups: number of query groups, each of ``Q / groups`` queries, which don't see one another.
            Inference uses the first group.
    """

    levels: tuple[str, ...]
    logits: Float[Tensor, "K B Q C"]
    boxes_cxcywh: Float[Tensor, "K B Q 4"]
    corners: Float[Tensor, "L B Q bins"] | None = None
    reference_cxcywh: Float[Tensor, "B Q 4"] | None = None
    anchors: Int64[Tensor, "B Q"] | None = None
    groups: int = 1

    @property
    def num_layers(self) -> int:
        return sum(name.startswith("layer_") for name in self.levels)


@dataclass(frozen=True)
class DetectorOutput:
    """Output of a detector in training: matching queries, and denoising queries with matches.

    ``up`` and ``reg_scale`` define the distances W(n) of the bins (``detector/edges.py``). They are
    ``None`` for RT-DETRv2. ``denoising`` is ``None`` without denoising queries. ``dn_matches`` are
    the matches of the positives. ``dn_groups`` is the number of denoising groups; denoising losses
    are divided by targets × groups.
    """

    matching: DecoderOutput
    denoising: DecoderOutput | None = None
    dn_matches: Matches | None = None
    dn_groups: int = 0
    up: Tensor | None = None
    reg_scale: Tensor | None = None

    @property
    def prediction(self) -> Prediction:
        """The last level of the first group, as returned by inference.

        With ``model.eval_layers``, this holds in eval mode only.
        """
        queries = self.matching.logits.shape[2] // self.matching.groups
        return Prediction(
            self.matching.logits[-1, :, :queries], self.matching.boxes_cxcywh[-1, :, :queries]
        )


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision, from autocast, to float32; keep float32 and float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
