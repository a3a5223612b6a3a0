"""Find the files of a data set, in a known folder layout or at given paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deim_lab.errors import DataError, nearest
from deim_lab.host import files

EMBEDDED = "embedded"
# Drawn once by ``synthetic.make`` and shipped, so bytes and fingerprint are equal on every machine.
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
# (images of a split, its annotations): the layout of this lab, then the two usual ways to unpack
# COCO 2017.
_LAYOUTS = (
    ("images/{split}", "annotations/instances_{split}.json"),
    ("{split}2017", "annotations/instances_{split}2017.json"),
    ("images/{split}2017", "annotations/instances_{split}2017.json"),
)


@dataclass(frozen=True)
class DataSource:
    """Location of a data set: ``(image folder, annotation json)`` of each half, and a name."""

    train: tuple[Path, Path]
    val: tuple[Path, Path]
    name: str


def resolve(
    data: str | Path | Mapping[str, Any] | None, *, cache_dir: str | Path | None = None
) -> DataSource:
    """Find the files of a data set; only check that they exist.

    Args:
        data: ``None`` or ``"embedded"``: the set shipped with the package. A folder: in the
            lab's layout (``images/{train,val}``, ``annotations/instances_{train,val}.json``) or
            COCO 2017's layout (``train2017``, …). A mapping: ``{"train": {"images": folder,
            "annotations": json}, "val": {…}}``, optionally with ``"name"``.
        cache_dir: has no effect since the embedded set is shipped; accepted until 0.3.0.

    Raises:
        DataError: names the missing files and the nearest existing name.
    """
    if data is None or data == EMBEDDED:
        return _from_mapping({**_in_layout(EMBEDDED_FOLDER, _LAYOUTS[0]), "name": EMBEDDED})
    if isinstance(data, Mapping):
        return _from_mapping(data)
    folder = Path(data)
    if not folder.is_dir():
        names = [*map(str, files.beside(folder)), EMBEDDED]
        raise DataError(f"data folder {str(folder)!r} does not exist{nearest(str(folder), names)}.")
    for layout in _LAYOUTS:
        if all(
            (folder / part.format(split=split)).exists()
            for part in layout
            for split in ("train", "val")
        ):
            return _from_mapping({**_in_layout(folder, layout), "name": folder.resolve().name})
    raise DataError(_layout_message(folder))


def _in_layout(folder: Path, layout: tuple[str, str]) -> dict[str, dict[str, Path]]:
    return {
        split: {
            "images": folder / layout[0].format(split=split),
            "annotations": folder / layout[1].format(split=split),
        }
        for split in ("train", "val")
    }


def _from_mapping(data: Mapping[str, Any]) -> DataSource:
    for key in data:
        if key not in ("train", "val", "name"):
            raise DataError(
                f"data: unknown key {key!r}{nearest(str(key), ['train', 'val', 'name'])}. "
                f"Expected train, val and optionally name."
            )
    halves: dict[str, tuple[Path, Path]] = {}
    for split in ("train", "val"):
        half = data.get(split)
        if not isinstance(half, Mapping) or set(half) != {"images", "annotations"}:
            actual = (
                f"has {', '.join(map(str, half)) or 'nothing'}"
                if isinstance(half, Mapping)
                else f"is {half!r}"
            )
            raise DataError(
                f"data: {split!r} {actual}. "
                f"Expected {{'images': folder, 'annotations': json file}}."
            )
        folder, json_file = Path(half["images"]), Path(half["annotations"])
        for path, kind in ((folder, "folder of images"), (json_file, "annotation file")):
            if not path.exists():
                beside = map(str, files.beside(path))
                raise DataError(
                    f"data: {kind} {str(path)!r} of {split!r} does not "
                    f"exist{nearest(str(path), beside)}."
                )
        halves[split] = (folder, json_file)
    return DataSource(
        halves["train"], halves["val"], str(data.get("name") or name_of(halves["train"][1]))
    )


def _layout_message(folder: Path) -> str:
    """Name the files that a folder lacks for the closest layout."""

    def missing(layout: tuple[str, str]) -> list[str]:
        required = [part.format(split=split) for split in ("train", "val") for part in layout]
        return [part for part in required if not (folder / part).exists()]

    absent = min((missing(layout) for layout in _LAYOUTS), key=len)
    parent = (folder / absent[0]).parent
    base = parent if parent.is_dir() else folder
    existing = [(base / item.name).relative_to(folder).as_posix() for item in base.iterdir()]
    layouts = " or ".join(
        f"{pictures.format(split='{train,val}')} + {file.format(split='{train,val}')}"
        for pictures, file in _LAYOUTS
    )
    return (
        f"data folder {str(folder)!r} has no {', no '.join(absent)}{nearest(absent[0], existing)}. "
        f"Looked for {layouts}. "
        "For any other layout, give the image folders and json files one by one."
    )


def name_of(json_file: Path) -> str:
    parent = json_file.resolve().parent
    return parent.parent.name if parent.name == "annotations" else parent.name
