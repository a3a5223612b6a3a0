"""Classes by name: which rows of a checkpoint's heads serve which classes of a model.

Rows are never taken by position where names are known: two data sets of three classes each have
nothing in common but the number.
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

# One thing under two names: Pascal VOC's and Darknet's words (Hugging Face's COCO checkpoints have
# them too) → COCO's.
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
    """For every class of a model the row of the checkpoint that it takes.

    Attributes:
        target: names of the model's classes, in class order.
        source: names of the checkpoint's classes, in row order; empty where the checkpoint doesn't
            say and nobody else did.
        rows: of each class of the model its row in the checkpoint; None: no such name, the row is
            re-initialised.
    """

    target: tuple[str, ...]
    source: tuple[str, ...]
    rows: tuple[int | None, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """Classes of the model that take a row of the checkpoint."""
        return tuple(
            name for name, row in zip(self.target, self.rows, strict=True) if row is not None
        )

    @property
    def reinitialised(self) -> tuple[str, ...]:
        """Classes of the model that start anew."""
        return tuple(name for name, row in zip(self.target, self.rows, strict=True) if row is None)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Classes of the checkpoint that the model hasn't."""
        return tuple(name for row, name in enumerate(self.source) if row not in self.rows)

    @property
    def identical(self) -> bool:
        """Whether every row stays where it is."""
        return self.rows == tuple(range(len(self.source)))

    def records(self) -> list[dict[str, Any]]:
        """One row a class of either side:
        ``{"class", "status": kept | re-initialised | dropped, "source", "row"}``.
        """
        mine = [
            {
                "class": name,
                "status": "re-initialised" if row is None else "kept",
                "source": None if row is None else self.source[row],
                "row": row,
            }
            for name, row in zip(self.target, self.rows, strict=True)
        ]
        gone = [
            {"class": None, "status": "dropped", "source": name, "row": row}
            for row, name in enumerate(self.source)
            if row not in self.rows
        ]
        return mine + gone

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
                f"classes: all {len(self.target)} re-initialised, since the file doesn't name "
                "its own"
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
        """What deserves more than a table: no class in common. None: nothing."""
        if self.kept or not self.source:
            return None
        close = [text for name in self.target if (text := nearest(name, self.source))]
        return (
            f"none of the classes ({_some(self.target)}) is among the {len(self.source)} of the "
            f"file ({_some(self.source)}){(close or [''])[0]}: "
            "every score head starts anew"
        )


def match_classes(target: Sequence[Category], source: Sequence[Category]) -> ClassMapping:
    """Classes of equal names, exactly equal ones first, then but for case, spaces, hyphens,
    underscores and a few known synonyms.

    A name that stands twice, after that, on either side is nobody's: it is re-initialised.
    """
    mine, theirs = names_of(target), names_of(source)
    exact = {name: row for row, name in enumerate(theirs) if theirs.count(name) == 1}
    often, often_mine = Counter(map(normalised, theirs)), Counter(map(normalised, mine))
    close = {
        normalised(name): row for row, name in enumerate(theirs) if often[normalised(name)] == 1
    }

    def row_of(name: str) -> int | None:
        if name in exact and mine.count(name) == 1:
            return exact[name]
        return close.get(normalised(name)) if often_mine[normalised(name)] == 1 else None

    return ClassMapping(mine, theirs, tuple(row_of(name) for name in mine))


def names_of(categories: Sequence[Category]) -> tuple[str, ...]:
    """Names alone, in order."""
    return tuple(item if isinstance(item, str) else str(item["name"]) for item in categories)


def normalised(name: str) -> str:
    """What of a name counts: letters and digits, whatever their case; a synonym as its first
    form.
    """
    plain = re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name).casefold())
    return _SYNONYMS.get(plain, plain)


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
