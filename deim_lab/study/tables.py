"""Format a frame as a Markdown or LaTeX (booktabs) table, with the best values in bold.

Headings distinguish reported columns from measured ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from deim_lab.errors import ConfigError, nearest
from deim_lab.study import latex

Best = Literal["max", "min"]

ABSENT = "–"  # what a cell without a value shows
_DECIMALS = 3


def to_markdown(
    frame: pd.DataFrame,
    *,
    decimals: int | Mapping[str, int] | None = None,
    best: Mapping[str, Best] | None = None,
    kinds: Mapping[str, str] | None = None,
    signed: Collection[str] = (),
) -> str:
    """Format a GitHub-flavoured table, aligned in its source too; ends with a newline.

    Args:
        frame: one level of columns. A named index becomes the first column (several levels, several
            columns). An unnamed index is left out.
        decimals: of floats: one number, or one per column (others: 3). Whole numbers and text stay
            unchanged. NaN and None show as –.
        best: column → ``max`` or ``min``. The best values *as shown* are bold, so values that look
            equal are all bold. NaN is never best.
        kinds: column → for example ``reported`` or ``measured``, added to its heading.
        signed: columns of differences: positive numbers get a +.

    Raises:
        ConfigError: an argument that names no column (the message names the nearest one), or a
            frame with several levels of columns.
    """
    header, rows, numeric = _cells(frame, decimals, best, kinds, signed, _markdown, "**{}**")
    widths = [max(3, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(
                cell.rjust(w) if right else cell.ljust(w)
                for cell, w, right in zip(cells, widths, numeric, strict=True)
            )
            + " |"
        )

    rule = (
        "|"
        + "|".join(
            "-" * (w + 1) + (":" if right else "-")
            for w, right in zip(widths, numeric, strict=True)
        )
        + "|"
    )
    return "\n".join([line(header), rule, *map(line, rows)]) + "\n"


def to_latex(
    frame: pd.DataFrame,
    *,
    decimals: int | Mapping[str, int] | None = None,
    best: Mapping[str, Best] | None = None,
    kinds: Mapping[str, str] | None = None,
    signed: Collection[str] = (),
    caption: str | None = None,
    label: str | None = None,
    rule_at: str | None = None,
) -> str:
    """Format the same table for a paper: a ``tabular`` with booktabs' rules.

    With ``caption`` or ``label`` it is inside a ``table``. Text is escaped, so it prints as it
    reads. The preamble needs ``\\usepackage{booktabs}`` and nothing else. Raises ``ConfigError``
    for a sign that LaTeX cannot print that way, such as a Chinese one.

    Args:
        caption, label: plain text. The caption is escaped; the label is unchanged, for ``\\ref``.
        rule_at: a column; wherever its value changes, a ``\\midrule`` separates the groups.
        (the others as in ``to_markdown``)
    """
    header, rows, numeric = _cells(
        frame, decimals, best, kinds, signed, latex.escape, r"\textbf{{{}}}"
    )
    parted: set[int] = set()
    if rule_at is not None:
        _check_columns([rule_at], frame, "rule_at")
        values = _with_index(frame)[rule_at].astype(object).tolist()
        parted = {
            i
            for i in range(1, len(values))
            if values[i] != values[i - 1] and not (pd.isna(values[i]) and pd.isna(values[i - 1]))
        }
    alignment = "".join("r" if right else "l" for right in numeric)
    lines = [
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(rows):
        lines += [r"\midrule"] * (number in parted) + [" & ".join(row) + r" \\"]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption is not None or label is not None:
        heading = [rf"\caption{{{latex.escape(caption)}}}"] if caption is not None else []
        heading += [rf"\label{{{label}}}"] if label is not None else []
        lines = [r"\begin{table}[t]", r"\centering", *heading, *lines, r"\end{table}"]
    return "\n".join(lines) + "\n"


def _places(decimals: int | Mapping[str, int] | None, column: Any) -> int:
    """Decimals of a column: its own number, or the common one."""
    if isinstance(decimals, Mapping):
        return decimals.get(column, _DECIMALS)
    return _DECIMALS if decimals is None else decimals


def _cells(
    frame: pd.DataFrame,
    decimals: int | Mapping[str, int] | None,
    best: Mapping[str, Best] | None,
    kinds: Mapping[str, str] | None,
    signed: Collection[str],
    escape: Callable[[str], str],
    bold: str,
) -> tuple[list[str], list[list[str]], list[bool]]:
    """Format a frame: the header, the rows as text, and which columns are numbers."""
    best, kinds = dict(best or {}), dict(kinds or {})
    if frame.columns.nlevels > 1:
        raise ConfigError(
            f"a table has one level of columns; this frame has {frame.columns.nlevels}"
        )
    for names, argument in (
        (best, "best"),
        (kinds, "kinds"),
        (signed, "signed"),
        (decimals if isinstance(decimals, Mapping) else (), "decimals"),
    ):
        _check_columns(names, frame, argument)
    for name, way in best.items():
        if way not in ("max", "min"):
            raise ConfigError(f"best of {name!r} is {way!r}; expected 'max' or 'min'")
    table = _with_index(frame)
    columns: list[list[str]] = []
    numeric: list[bool] = []
    for position, name in enumerate(table.columns):
        values = table.iloc[:, position].astype(object).tolist()
        places = _places(decimals, name)
        shown = [_shown(value, places, name in signed) for value in values]
        columns.append(
            [
                bold.format(escape(text)) if marked else escape(text)
                for text, marked in zip(shown, _marked(values, shown, best.get(name)), strict=True)
            ]
        )
        numeric.append(
            all(_is_number(value) or _is_absent(value) for value in values)
            and any(map(_is_number, values))
        )
    header = [
        escape(f"{name} ({kinds[name]})" if name in kinds else str(name)) for name in table.columns
    ]
    return header, [list(row) for row in zip(*columns, strict=True)], numeric


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index() if any(name is not None for name in frame.index.names) else frame


def _check_columns(names: Collection[str], frame: pd.DataFrame, argument: str) -> None:
    columns = [str(name) for name in _with_index(frame).columns]
    for name in names:
        if name not in columns:
            raise ConfigError(
                f"{argument} names {name!r}, which is not a column{nearest(name, columns)}; "
                f"columns: {', '.join(columns)}"
            )


def _shown(value: Any, decimals: int, sign: bool) -> str:
    if _is_absent(value):
        return ABSENT
    if not _is_number(value):
        return ("no", "yes")[bool(value)] if isinstance(value, (bool, np.bool_)) else str(value)
    text = str(int(value)) if _is_whole(value) else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")  # no negative zero
    return f"+{text}" if sign and float(text) > 0 else text


def _marked(values: Sequence[Any], shown: Sequence[str], way: Best | None) -> list[bool]:
    """Mark the best cells of a column, as shown: values that look equal are equally good."""
    numbers = [
        float(text) if _is_number(value) else None
        for value, text in zip(values, shown, strict=True)
    ]
    present = [number for number in numbers if number is not None]
    if way is None or not present:
        return [False] * len(values)
    winner = max(present) if way == "max" else min(present)
    return [number == winner for number in numbers]


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float, np.number))
        and not isinstance(value, bool)
        and not _is_absent(value)
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer))


def _is_absent(value: Any) -> bool:
    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (not isinstance(value, (str, tuple, list, dict)) and value != value)
    )


def _markdown(text: str) -> str:
    """Escape text so that Markdown prints it literally: no cell, emphasis, code, link or tag."""
    escaped = re.sub(r"([\\|*`<\[\]])", r"\\\1", " ".join(text.split()))
    return re.sub(
        r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped
    )  # an underscore inside a name needs no escape
