"""Dense O2O and the plain augmentations: frozen callables, ``(scene, generator) → scene``.

``single`` changes one image, ``mosaic`` joins four images, ``mixup`` blends a batch. ``pipeline``
selects the operations of each phase. Nothing here touches the global random state: the same input
and generator give the same output. ``OPERATIONS`` holds Mosaic and MixUp. To add your own
augmentation, add an entry (docs/extending.md).
"""

from __future__ import annotations

from deim_lab.config.entries import OPERATIONS, Operation

__all__ = ["OPERATIONS", "Operation"]
