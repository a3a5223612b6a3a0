"""Readers of data sets that are not in COCO's format: YOLO, Pascal VOC and CSV.

``find`` recognises a folder. ``Labels.read`` gives the content of one half in COCO's terms.
"""

from __future__ import annotations

from pathlib import Path

from deim_lab.data.formats import table, voc, yolo
from deim_lab.data.formats.content import Box, Content, Halves, Labels
from deim_lab.data.formats.table import Table

__all__ = ["LOOKED_FOR", "Box", "Content", "Halves", "Labels", "Table", "find"]

# What ``find`` looks for, for the message about a folder that no reader knows.
LOOKED_FOR = (yolo.LOOKED_FOR, voc.LOOKED_FOR, table.LOOKED_FOR)


def find(folder: Path) -> Halves:
    """The halves of a folder in the first format that fits: YOLO, Pascal VOC, then CSV.

    Returns half → (folder of pictures, labels); ``{}`` for any other folder. Raises ``DataError``
    for a folder of a known format with a fault, such as a ``data.yaml`` that names absent folders.
    """
    for module in (yolo, voc, table):
        halves: Halves = module.find(folder)
        if halves:
            return halves
    return {}
