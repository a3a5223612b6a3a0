"""Apply the augmentations of a training phase to images and batches.

Training and the density figure share this order of augmentations. ``augment.extra`` names your own
augmentations, which are entries of ``augment.OPERATIONS``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from deim_lab.augment import mixup, single
from deim_lab.augment.mosaic import Mosaic, SceneSource
from deim_lab.augment.single import coin
from deim_lab.config import AugmentConfig
from deim_lab.config.entries import OPERATIONS
from deim_lab.errors import ConfigError
from deim_lab.schedule import Phase, multiscale_sizes
from deim_lab.structures import Batch, Scene, Targets

STRONG = ("photometric", "zoom_out", "iou_crop")
BASE = ("sanitise", "flip", "resize", "sanitise")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Compose, mix and rescale images according to the phase of the schedule.

    ``input_size`` is (height, width) in pixels.
    """

    augment: AugmentConfig
    input_size: tuple[int, int]

    def plan(self, phase: Phase, *, mosaic: bool = False) -> tuple[str, ...]:
        """Names of the operations on one image, in order.

        ``mosaic``: whether a Mosaic was drawn in the DENSE phase.
        """
        if phase in (Phase.WARM_UP, Phase.CLEAN):
            return BASE
        if phase is Phase.DENSE and mosaic:
            return ("mosaic", "photometric", *BASE)
        return (*STRONG, *BASE)

    def batch(
        self,
        source: SceneSource,
        indices: Sequence[int],
        phase: Phase,
        generators: Sequence[Generator],
        batch_generator: Generator,
    ) -> Batch:
        """Make a training batch.

        Each image has its own generator. ``batch_generator`` draws MixUp and the multi-scale size.
        """
        scenes = [
            self.compose(source, index, phase, generator)
            for index, generator in zip(indices, generators, strict=True)
        ]
        images = stack([scene.image for scene in scenes])
        targets = Targets.from_lists(
            [scene.boxes_cxcywh for scene in scenes],
            [scene.labels for scene in scenes],
            [scene.image_id for scene in scenes],
        )
        images, targets, mixed = self.mix(images, targets, phase, batch_generator)
        of_batch: tuple[str, ...] = ("mixup",) if mixed else ()
        for name in self._extra("batch", phase, batch_generator):
            images, targets = self._mixed_by(name, images, targets, batch_generator)
            of_batch += (name,)
        images = self.multiscale(images, phase, batch_generator)
        return Batch(images, targets, tuple(scene.applied + of_batch for scene in scenes))

    def compose(self, source: SceneSource, index: int, phase: Phase, generator: Generator) -> Scene:
        """Make the training image of ``source[index]``, at the input size.

        A Mosaic also uses three other images.
        """
        mosaic = phase is Phase.DENSE and coin(self.augment.mosaic_prob, generator)
        plan = self.plan(phase, mosaic=mosaic)
        scene = self._mosaic(source, index, generator) if mosaic else source[index]
        extra = self._extra("image", phase, generator)
        for name in extra:
            scene = self._changed_by(name, scene, generator)
        for name in plan:
            if name != "mosaic":
                scene = self._singles[name](scene, generator)
        start = int(mosaic)  # added operations come right after Mosaic
        return replace(scene, applied=(*plan[:start], *extra, *plan[start:]))

    def mix(
        self, images: Tensor, targets: Targets, phase: Phase, generator: Generator
    ) -> tuple[Tensor, Targets, bool]:
        """Apply MixUp by its probability in the DENSE phase; return whether the batch was mixed.

        In other phases the batch is returned unchanged.
        """
        if phase is not Phase.DENSE or self.augment.mixup_prob == 0:
            return images, targets, False
        if len(images) < 2:
            mixup.note_single_image()
            return images, targets, False
        if not coin(self.augment.mixup_prob, generator):
            return images, targets, False
        ratio = mixup.draw_ratio(self.augment.mixup_ratio, generator)
        return mixup.mix_images(images, ratio), mixup.mix_targets(targets), True

    def multiscale(self, images: Tensor, phase: Phase, generator: Generator) -> Tensor:
        """Resize images ``[B, 3, H, W]`` to a random size, with nearest pixels as official.

        Off in the CLEAN phase and without ``multiscale_repeat``. The size is drawn for the shorter
        side. The longer side changes by the same factor, in multiples of 32.
        """
        repeat = self.augment.multiscale_repeat
        if repeat is None or phase is Phase.CLEAN:
            return images
        shorter = min(self.input_size)
        sizes = multiscale_sizes(shorter, repeat)
        factor = sizes[int(torch.randint(len(sizes), (), generator=generator))] / shorter
        size_hw = tuple(max(32, round(side * factor / 32) * 32) for side in self.input_size)
        return (
            images
            if size_hw == tuple(images.shape[-2:])
            else torch.nn.functional.interpolate(images, size=size_hw)
        )

    def _extra(self, of: str, phase: Phase, generator: Generator) -> tuple[str, ...]:
        """Draw the operations of ``augment.extra`` to apply, in their order.

        Nothing is drawn for an operation that is off in this phase.
        """
        names = []
        for name in self.augment.extra:
            entry = OPERATIONS[name]
            if entry.of != of or phase not in entry.phases:
                continue
            prob = entry.prob if self.augment.extra_prob is None else self.augment.extra_prob
            if coin(prob, generator):
                names.append(name)
        return tuple(names)

    def _changed_by(self, name: str, scene: Scene, generator: Generator) -> Scene:
        """Apply an added operation to a scene and check the result."""
        changed = OPERATIONS.callable(name)(scene, generator)
        if not isinstance(changed, Scene) or len(changed.boxes_xyxy) != len(changed.labels):
            raise ConfigError(
                f"augment.OPERATIONS[{name!r}] returned {type(changed).__name__}. Expected a Scene "
                f"with one label for each box."
            )
        return changed

    def _mixed_by(
        self, name: str, images: Tensor, targets: Targets, generator: Generator
    ) -> tuple[Tensor, Targets]:
        """Apply an added operation to a batch and check the result."""
        mixed = OPERATIONS.callable(name)(images, targets, generator)
        if not isinstance(mixed, tuple) or len(mixed) != 2 or mixed[0].shape != images.shape:
            raise ConfigError(
                f"augment.OPERATIONS[{name!r}] returned {type(mixed).__name__}. Expected images of "
                f"the shape {list(images.shape)} and Targets."
            )
        return mixed[0], mixed[1]

    @cached_property
    def _mosaic(self) -> Mosaic:
        values = self.augment
        tile_px = (
            values.mosaic_tile_px
            if values.mosaic_tile_px is not None
            else min(self.input_size) // 2
        )
        return Mosaic(
            tile_px=tile_px,
            rotation_deg=values.mosaic_rotation_deg,
            translate=values.mosaic_translate,
            scale=values.mosaic_scale,
        )

    @cached_property
    def _singles(self) -> dict[str, Callable[[Scene, Generator], Scene]]:
        values = self.augment
        return {
            "photometric": single.Photometric(prob=values.photometric_prob),
            "zoom_out": single.ZoomOut(prob=values.zoom_out_prob, max_ratio=values.zoom_out_max),
            "iou_crop": single.IouCrop(prob=values.iou_crop_prob),
            "sanitise": single.Sanitise(min_px=values.min_box_px),
            "flip": single.Flip(prob=values.flip_prob),
            "resize": single.Resize(size_hw=self.input_size),
        }


def stack(images: Sequence[Tensor]) -> Tensor:
    """Stack uint8 images ``[3, H, W]`` of one size → ``[B, 3, H, W]`` float32 in [0, 1].

    Reads the pixels once, in any memory layout.
    """
    batch = torch.empty(len(images), *images[0].shape, device=images[0].device)
    for row, image in zip(batch, images, strict=True):
        row.copy_(image)
    return batch.div_(255)


def generator_of(*key: int | str) -> Generator:
    """A CPU generator that depends only on ``key``, e.g. ``(seed, epoch, position)``.

    Neighbouring keys give unrelated streams.
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=4).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little"))
