"""Numbers that papers and READMEs publish, each with its source. None is measured here.

Four tables, one CSV file each: ``main`` (the DEIM paper's main table), ``ablation`` (its components
on D-FINE-L), ``zoo`` (the official READMEs' accuracy and cost of each size), ``elsewhere`` (the
same models, evaluated or trained by others). All AP are on COCO val2017, in percent as published.
Latencies are for one image on a T4 with TensorRT in FP16. A note states any doubt about a number.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deim_lab.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent
TABLES = ("main", "zoo", "elsewhere")
KIND = "reported"
PROTOCOL = (
    "COCO val2017, 5,000 images squashed to the input size, the 300 best of queries × classes "
    "an image, EMA weights, COCO's evaluator"
)


@dataclass(frozen=True)
class Reported:
    """One model's published numbers; None where the source gives none.

    Attributes:
        model: its name in the source.
        preset: this lab's preset of the same model, or None.
        epochs: of training on COCO.
        ap_percent, ap50_percent: COCO val2017, percent.
        params_millions, latency_ms, gflops: as published.
        source: where the number was read. Never empty.
        note: doubts about the numbers, or empty.
    """

    model: str
    preset: str | None
    epochs: int | None
    ap_percent: float | None
    ap50_percent: float | None
    params_millions: float | None
    latency_ms: float | None
    gflops: float | None
    source: str
    note: str


@dataclass(frozen=True)
class ReportedGain:
    """One arm of the paper's ablation on D-FINE-L: its AP (percent) or its gain (points).

    The gain is given where the paper prints no AP.
    """

    arm: str
    ap_percent: float | None
    gain_points: float | None
    source: str
    note: str


def rows(table: str) -> tuple[Reported, ...]:
    """The rows of ``main``, ``zoo`` or ``elsewhere``, in the source's order.

    Raises ``ConfigError`` for another name.
    """
    if table not in TABLES:
        raise ConfigError(
            f"unknown table of reported numbers {table!r}{nearest(table, TABLES)}; expected one of "
            f"{', '.join(TABLES)} (the ablation is gains())"
        )
    return _rows(table)


def gains() -> tuple[ReportedGain, ...]:
    """The paper's ablation: baseline, + Dense O2O, + MAL, both."""
    return tuple(ReportedGain(**row) for row in read(FOLDER / "ablation.csv", ReportedGain))


def of_preset(name: str) -> Reported | None:
    """The official README's numbers for the model of a preset; None if it reports nothing."""
    return next((row for row in _rows("zoo") if row.preset == name), None)


def frame(table: str) -> pd.DataFrame:
    """``rows(table)``, or the ablation, as a frame with a column ``kind`` = ``reported``.

    Values that a source does not give are NaN.
    """
    import pandas as pd

    entries = gains() if table == "ablation" else rows(table)
    kind = ReportedGain if table == "ablation" else Reported
    result = pd.DataFrame(
        [vars(row) for row in entries], columns=[item.name for item in fields(kind)]
    )
    numbers = [item.name for item in fields(kind) if "float" in str(item.type)]
    result[numbers] = result[numbers].astype(float)
    if "epochs" in result:
        result["epochs"] = result["epochs"].astype("Int64")
    return result.assign(kind=KIND)


def read(path: Path, kind: type[Reported] | type[ReportedGain]) -> list[dict[str, Any]]:
    """Read a CSV file's rows with the types of ``kind``'s fields.

    Raises:
        DataError: columns other than the fields, an invalid or non-positive number, or no source.
            The message names file, line and column.
    """
    types = {item.name: str(item.type) for item in fields(kind)}
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if list(reader.fieldnames or ()) != list(types):
            raise DataError(f"{path} has the columns {reader.fieldnames}; expected {list(types)}")
        records = []
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, line {reader.line_num}: expected {len(types)} cells")
            where = f"{path}, line {reader.line_num}"
            records.append(
                {
                    name: _value(row[name], annotation, f"{where}, {name}")
                    for name, annotation in types.items()
                }
            )
            if not row["source"].strip():
                raise DataError(f"{where} has no source. Every reported number needs one")
    return records


@cache
def _rows(table: str) -> tuple[Reported, ...]:
    return tuple(Reported(**row) for row in read(FOLDER / f"{table}.csv", Reported))


def _value(text: str, annotation: str, where: str) -> Any:
    if annotation == "str":
        return text
    if not text:
        return None
    if "str" in annotation:
        return text
    try:
        number: float = int(text) if "int" in annotation else float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is not a number") from error
    if not (math.isfinite(number) and number > 0):
        raise DataError(f"{where}: {text} is not a positive number")
    return number
