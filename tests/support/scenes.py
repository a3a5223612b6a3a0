"""Pictures with boxes: painted ones, in which a box has its colour, and random ones."""

from __future__ import annotations

import torch

from deim_lab.augment.pipeline import generator_of
from deim_lab.config import AugmentConfig
from deim_lab.structures import Scene

PALETTE = torch.tensor(
    [[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20]], dtype=torch.uint8
)


def painted(height: int, width: int, count: int, seed: int = 0, image_id: int = 7) -> Scene:
    """A black image with boxes in the colour of their label, on a grid so that none hides
    another.
    """
    draw = generator_of(seed, "painted")
    image = torch.zeros(height, width, 3, dtype=torch.uint8).permute(2, 0, 1)
    boxes, labels = [], []
    for cell in range(count):
        cell_height, cell_width = height // 2, width // 4
        top, left = cell // 4 * cell_height, cell % 4 * cell_width
        right, down, far = (
            int(torch.randint(low, high, (), generator=draw))
            for low, high in (
                (1, cell_width // 4),
                (1, cell_height // 4),
                (cell_width // 2, cell_width),
            )
        )
        x1, y1, x2, y2 = left + right, top + down, left + far, top + cell_height - 2
        label = int(torch.randint(len(PALETTE), (), generator=draw))
        image[:, y1:y2, x1:x2] = PALETTE[label][:, None, None]
        boxes.append([x1, y1, x2, y2])
        labels.append(label)
    return Scene(
        image,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        (image_id,),
    )


def assert_same(left: Scene, right: Scene) -> None:
    """Equal pixels, boxes and labels."""
    assert torch.equal(left.image, right.image)
    assert torch.equal(left.boxes_xyxy, right.boxes_xyxy)
    assert torch.equal(left.labels, right.labels)


OFF = AugmentConfig(
    mosaic_prob=0.0,
    mixup_prob=0.0,
    photometric_prob=0.0,
    zoom_out_prob=0.0,
    iou_crop_prob=0.0,
    flip_prob=0.0,
)


def source(
    count: int = 12,
    boxes: int | None = None,
    sizes: tuple[tuple[int, int], ...] = ((48, 64), (64, 48), (50, 120)),
) -> list[Scene]:
    """Random pictures of several sizes; ``boxes`` each, or 0 to 6 by turns."""
    items = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        draw, number = generator_of(index, "source"), index % 7 if boxes is None else boxes
        corner = torch.rand(number, 2, generator=draw) * torch.tensor([width * 0.7, height * 0.7])
        size = 4 + torch.rand(number, 2, generator=draw) * torch.tensor(
            [width * 0.3 - 4, height * 0.3 - 4]
        )
        items.append(
            Scene(
                torch.randint(
                    0, 256, (height, width, 3), generator=draw, dtype=torch.uint8
                ).permute(2, 0, 1),
                torch.cat([corner, corner + size], 1),
                torch.randint(5, (number,), generator=draw),
                (100 + index,),
            )
        )
    return items
