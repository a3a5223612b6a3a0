"""Dense O2O and the plain augmentations: frozen callables, ``(scene, generator) → scene``.

``single`` changes one image, ``mosaic`` joins four, ``mixup`` blends a batch, ``pipeline`` says
which of them a phase runs. Nothing here touches the global random state: same input and generator,
same output. ``OPERATIONS`` names Mosaic and MixUp; an augmentation of your own is one more entry
(docs/extending.md).
"""

from __future__ import annotations

from deim_lab.config.entries import OPERATIONS, Operation

__all__ = ["OPERATIONS", "Operation"]
