"""The section ``data`` of a config: batches, loader, and how a data set is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deim_lab.config.values import at_least
from deim_lab.errors import ConfigError

BoxFormat = Literal[
    "auto",
    "xywh",
    "xyxy",
    "cxcywh",
    "normalised-xywh",
    "normalised-xyxy",
    "normalised-cxcywh",
]
# Ways to write a box as four numbers; COCO's is the first.
BOX_FORMATS = (
    "xywh",
    "xyxy",
    "cxcywh",
    "normalised-xywh",
    "normalised-xyxy",
    "normalised-cxcywh",
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Batch and loader settings. The data set itself is not part of the config (``--data``)."""

    batch_size: int = 32  # images per step and process
    eval_batch_size: int | None = None  # None: twice batch_size
    # height, width; multiples of 32 (one number means a square)
    input_size: tuple[int, int] = (640, 640)
    workers: int = 4  # loader processes; 0 loads in the training process
    cache: bool = False  # keep decoded images in memory
    # what the four numbers of a box are in the annotations; auto: COCO's xywh, and an error if
    # another format fits better
    boxes: BoxFormat = "auto"
    # a picture that can't be decoded stops the run before step 1, or is left out and named
    on_bad_image: Literal["error", "skip"] = "error"
    # share of the training images to validate on, for a data set without a validation half
    val_share: float | None = None
    val_seed: int = 0  # of that split; the same for all training seeds

    def _check(self) -> None:
        at_least("data.batch_size", self.batch_size, 1)
        if self.eval_batch_size is not None:
            at_least("data.eval_batch_size", self.eval_batch_size, 1)
        at_least("data.workers", self.workers, 0)
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise ConfigError(
                f"data.val_share {self.val_share} must be above 0 and below 1, such as 0.2."
            )
        for side in self.input_size:
            if side < 32 or side % 32:
                lower = max(32, side // 32 * 32)
                raise ConfigError(
                    f"data.input_size {list(self.input_size)}: {side} is not a multiple of 32. "
                    f"Use {lower} or {lower + 32}."
                )
