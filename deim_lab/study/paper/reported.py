"""What papers and READMEs publish, each number with its source. Nothing measured is ever in here,
and nothing here is ever measured.

Four tables, a CSV file each: ``main`` (the DEIM paper's main table), ``ablation`` (its components
on D-FINE-L), ``zoo`` (the official READMEs' accuracy and cost of each size), ``elsewhere`` (the
same models, evaluated or trained by others). All AP are on COCO val2017, in percent as published.
Latencies are of one image on a T4 with TensorRT in FP16. A note says what is in doubt.
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
        model: its name there.
        preset: this lab's preset of the same model; None: there is none.
        epochs: of training on COCO.
        ap_percent, ap50_percent: COCO val2017, percent.
        params_millions, latency_ms, gflops: as published.
        source: where the number was read. Never empty.
        note: what is in doubt, or empty.
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
    """One arm of the paper's ablation on D-FINE-L: the AP (percent), or the gain (points) where
    only that is printed.
    """

    arm: str
    ap_percent: float | None
    gain_points: float | None
    source: str
    note: str


def rows(table: str) -> tuple[Reported, ...]:
    """The rows of ``main``, ``zoo`` or ``elsewhere``, in the source's order. Raises ``ConfigError``
    for another name.
    """
    if table not in TABLES:
        raise ConfigError(
            f"unknown table of reported numbers {table!r}{nearest(table, TABLES)}; known: "
            f"{', '.join(TABLES)} (and gains())"
        )
    return _rows(table)


def gains() -> tuple[ReportedGain, ...]:
    """The paper's ablation: baseline, + Dense O2O, + MAL, both."""
    return tuple(ReportedGain(**row) for row in read(FOLDER / "ablation.csv", ReportedGain))


def of_preset(name: str) -> Reported | None:
    """What the official README reports for the model of a preset; None where it reports nothing."""
    return next((row for row in _rows("zoo") if row.preset == name), None)


def frame(table: str) -> pd.DataFrame:
    """``rows(table)``, or the ablation, as a frame with a column ``kind`` that says ``reported``;
    what a source doesn't give is NaN.
    """
    import pandas as pd

    found = gains() if table == "ablation" else rows(table)
    kind = ReportedGain if table == "ablation" else Reported
    result = pd.DataFrame(
        [vars(row) for row in found], columns=[item.name for item in fields(kind)]
    )
    numbers = [item.name for item in fields(kind) if "float" in str(item.type)]
    result[numbers] = result[numbers].astype(float)
    if "epochs" in result:
        result["epochs"] = result["epochs"].astype("Int64")
    return result.assign(kind=KIND)


def read(path: Path, kind: type[Reported] | type[ReportedGain]) -> list[dict[str, Any]]:
    """A CSV file's rows with the types of ``kind``'s fields.

    Raises:
        DataError: naming file, line and column: other columns than the fields, a number that is
            none or not positive, no source.
    """
    wanted = {item.name: str(item.type) for item in fields(kind)}
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if list(reader.fieldnames or ()) != list(wanted):
            raise DataError(f"{path} has the columns {reader.fieldnames}; expected {list(wanted)}")
        found = []
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(wanted)} cells were expected"
                )
            where = f"{path}, line {reader.line_num}"
            found.append(
                {
                    name: _value(row[name], annotation, f"{where}, {name}")
                    for name, annotation in wanted.items()
                }
            )
            if not row["source"].strip():
                raise DataError(
                    f"{where} has no source: a reported number without one can't be checked"
                )
    return found


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
        raise DataError(f"{where}: {text!r} is no number") from error
    if not (math.isfinite(number) and number > 0):
        raise DataError(f"{where}: {text} is not a positive number")
    return number
