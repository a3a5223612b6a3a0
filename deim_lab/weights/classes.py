"""Match classes by name: which head rows of a checkpoint go to which classes of a model.

If names are known, rows are never matched by position: two data sets with three classes each share
only the number of classes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deim_lab.errors import nearest

Category = str | Mapping[str, Any]  # a name, or {"id": …, "name": …}

# Synonyms: names of Pascal VOC and Darknet, also in Hugging Face's COCO checkpoints → COCO's names.
_SYNONYMS = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "tvmonitor": "tv",
    "hairdryer": "hairdrier",
    "doughnut": "donut",
}


@dataclass(frozen=True)
class ClassMapping:
    """The row of a checkpoint's heads for every class of a model.

    Attributes:
        target: names of the model's classes, in class order.
        source: names of the checkpoint's classes, in row order; empty if they are unknown.
        rows: row in the checkpoint of each class of the model; None: the checkpoint lacks the name,
            and the row is re-initialised.
    """

    target: tuple[str, ...]
    source: tuple[str, ...]
    rows: tuple[int | None, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """Classes of the model that get a row of the checkpoint."""
        return tuple(
            name for name, row in zip(self.target, self.rows, strict=True) if row is not None
        )

    @property
    def reinitialised(self) -> tuple[str, ...]:
        """Classes of the model whose row is re-initialised."""
        return tuple(name for name, row in zip(self.target, self.rows, strict=True) if row is None)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Classes of the checkpoint that the model lacks."""
        return tuple(name for row, name in enumerate(self.source) if row not in self.rows)

    @property
    def identical(self) -> bool:
        """Whether every row keeps its position."""
        return self.rows == tuple(range(len(self.source)))

    def records(self) -> list[dict[str, Any]]:
        """One record per class of the model, then one per dropped class of the checkpoint.

        A record is ``{"class", "status": kept | re-initialised | dropped, "source", "row"}``.
        """
        of_model = [
            {
                "class": name,
                "status": "re-initialised" if row is None else "kept",
                "source": None if row is None else self.source[row],
                "row": row,
            }
            for name, row in zip(self.target, self.rows, strict=True)
        ]
        of_dropped = [
            {"class": None, "status": "dropped", "source": name, "row": row}
            for row, name in enumerate(self.source)
            if row not in self.rows
        ]
        return of_model + of_dropped

    def table(self) -> str:
        """``records`` as text with aligned columns."""
        cells = [
            ("class", "head row", "class of the file"),
            *(
                (
                    str(item["class"] or "-"),
                    str(item["status"]),
                    "-" if item["row"] is None else f"{item['source']} ({item['row']})",
                )
                for item in self.records()
            ),
        ]
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )

    def __str__(self) -> str:
        if not self.source:
            return (
                f"classes: all {len(self.target)} re-initialised, because the file doesn't name "
                "its classes"
            )
        parts = [
            f"{len(names)} {what} ({_some(names)})"
            for what, names in (
                ("kept", self.kept),
                ("re-initialised", self.reinitialised),
                ("dropped", self.dropped),
            )
            if names
        ]
        return f"classes: {', '.join(parts)}"

    def warning(self) -> str | None:
        """A warning if model and checkpoint have no class in common; else None."""
        if self.kept or not self.source:
            return None
        close = [text for name in self.target if (text := nearest(name, self.source))]
        return (
            f"none of the model's classes ({_some(self.target)}) is among the {len(self.source)} "
            f"classes of the file ({_some(self.source)}){(close or [''])[0]}. All score heads are "
            "re-initialised"
        )


def match_classes(target: Sequence[Category], source: Sequence[Category]) -> ClassMapping:
    """Match classes by name: first exactly, then with normalised names.

    Normalised names ignore case, spaces, hyphens, underscores and a few synonyms. A name that
    occurs twice in ``target`` or in ``source`` after normalising is not matched; its row is
    re-initialised.
    """
    targets, sources = names_of(target), names_of(source)
    exact = {name: row for row, name in enumerate(sources) if sources.count(name) == 1}
    source_counts = Counter(map(normalised, sources))
    target_counts = Counter(map(normalised, targets))
    close = {
        normalised(name): row
        for row, name in enumerate(sources)
        if source_counts[normalised(name)] == 1
    }

    def row_of(name: str) -> int | None:
        if name in exact and targets.count(name) == 1:
            return exact[name]
        return close.get(normalised(name)) if target_counts[normalised(name)] == 1 else None

    return ClassMapping(targets, sources, tuple(row_of(name) for name in targets))


def names_of(categories: Sequence[Category]) -> tuple[str, ...]:
    """The names of categories, in order."""
    return tuple(item if isinstance(item, str) else str(item["name"]) for item in categories)


def normalised(name: str) -> str:
    """A class name in lower case, without spaces, hyphens and underscores; synonyms replaced."""
    plain = re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name).casefold())
    return _SYNONYMS.get(plain, plain)


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
