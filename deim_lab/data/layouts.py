"""Find the files of a data set, in a known folder layout or at given paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deim_lab.data import formats
from deim_lab.data.formats.content import Labels
from deim_lab.errors import DataError, nearest
from deim_lab.host import files

EMBEDDED = "embedded"
# Drawn once by ``synthetic.make`` and shipped, so bytes and fingerprint are equal on every machine.
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
# Names of the splits in folders, the usual one first.
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class _Layout:
    """A way to lay out COCO files: where a split's images and annotations are."""

    name: str
    images: str
    annotations: str

    def half(self, folder: Path, split: str) -> tuple[Path, Path]:
        return (
            folder / self.images.format(split=split),
            folder / self.annotations.format(split=split),
        )


_LAYOUTS = (
    _Layout("COCO", "images/{split}", "annotations/instances_{split}.json"),
    _Layout("COCO 2017", "{split}2017", "annotations/instances_{split}2017.json"),
    _Layout("COCO 2017", "images/{split}2017", "annotations/instances_{split}2017.json"),
    _Layout("Roboflow's COCO export", "{split}", "{split}/_annotations.coco.json"),
    _Layout("COCO", "{split}", "annotations/instances_{split}.json"),
    _Layout("COCO", "images/{split}", "annotations/{split}.json"),
    _Layout("COCO", "{split}", "annotations/{split}.json"),
    _Layout("COCO", "{split}", "{split}.json"),
)
# One json without halves, as annotation tools export it.
_SINGLE = (
    ("CVAT's COCO export", "annotations/instances_default.json"),
    ("Label Studio's COCO export", "result.json"),
    ("Roboflow's COCO export", "_annotations.coco.json"),
)

Half = tuple[Path, Path | Labels]


@dataclass(frozen=True)
class DataSource:
    """Location of a data set: ``(image folder, annotations)`` of each half, and a name.

    Annotations are a COCO json, or ``Labels`` of another format. ``val`` is None for a set without
    a validation half. ``layout`` says how the folder was recognised.
    """

    train: Half
    val: Half | None
    name: str
    test: Half | None = None
    layout: str = "COCO"

    def __str__(self) -> str:
        halves = {"train": self.train, "val": self.val, "test": self.test}
        places = [f"{key} {half[1]}" for key, half in halves.items() if half is not None]
        return f"{self.name}: {self.layout}; {'; '.join(places)}"


def resolve(
    data: str | Path | Mapping[str, Any] | None, *, cache_dir: str | Path | None = None
) -> DataSource:
    """Find the files of a data set; only check that they exist.

    Args:
        data: ``None`` or ``"embedded"``: the set shipped with the package. A folder: COCO in one of
            the usual layouts, Roboflow's, CVAT's and Label Studio's exports, YOLO, Pascal VOC, a
            table in CSV, or a folder of images with one json. A mapping: ``{"train": {"images":
            folder, "annotations": json}, "val": {…}}``, optionally with ``"test"`` and ``"name"``.
        cache_dir: has no effect since the embedded set is shipped; accepted until 0.3.0.

    Raises:
        DataError: names the missing files and the nearest existing name.
    """
    if data is None or data == EMBEDDED:
        halves = [_LAYOUTS[0].half(EMBEDDED_FOLDER, split) for split in ("train", "val")]
        return DataSource(halves[0], halves[1], EMBEDDED)
    if isinstance(data, Mapping):
        return _from_mapping(data)
    folder = files.user_path(data)
    if not folder.is_dir():
        names = [*map(str, files.beside(folder)), EMBEDDED]
        raise DataError(f"data folder {str(folder)!r} does not exist{nearest(str(folder), names)}.")
    for find in (_coco_splits, _other_formats, _single_json):
        source = find(folder)
        if source is not None:
            return source
    raise DataError(_layout_message(folder))


def _coco_splits(folder: Path) -> DataSource | None:
    """The first layout with a training half. A half of which one part is absent is an error."""
    for layout in _LAYOUTS:
        halves: dict[str, Half] = {}
        for key, names in _SPLITS.items():
            for name in names:
                half = layout.half(folder, name)
                if all(part.exists() for part in half):
                    halves.setdefault(key, half)
        if "train" in halves and not _is_cut(folder, layout, halves):
            name = folder.resolve().name
            return DataSource(
                halves["train"], halves.get("val"), name, halves.get("test"), layout.name
            )
    return None


def _is_cut(folder: Path, layout: _Layout, halves: Mapping[str, Half]) -> bool:
    """Whether the validation half lacks one of its two parts."""
    if "val" in halves:
        return False
    return any(part.exists() for name in _SPLITS["val"] for part in layout.half(folder, name))


def _other_formats(folder: Path) -> DataSource | None:
    halves = formats.find(folder)
    if "train" not in halves:
        return None
    return DataSource(
        halves["train"],
        halves.get("val"),
        folder.resolve().name,
        halves.get("test"),
        halves["train"][1].format,
    )


def _single_json(folder: Path) -> DataSource | None:
    """One json next to its images, without halves."""
    images = folder / "images" if (folder / "images").is_dir() else folder
    for layout, place in _SINGLE:
        if (folder / place).is_file():
            return DataSource((images, folder / place), None, folder.resolve().name, None, layout)
    listed = [*folder.glob("*.json"), *(folder / "annotations").glob("*.json")]
    if len(listed) != 1:
        return None
    return DataSource((images, listed[0]), None, folder.resolve().name, None, "COCO, one json")


def _from_mapping(data: Mapping[str, Any]) -> DataSource:
    for key in data:
        if key not in ("train", "val", "test", "name"):
            raise DataError(
                f"data: unknown key {key!r}{nearest(str(key), ['train', 'val', 'test', 'name'])}. "
                f"Expected train, val and optionally test and name."
            )
    halves: dict[str, tuple[Path, Path]] = {}
    for split in ("train", "val", "test"):
        half = data.get(split)
        if half is None and (split == "test" or (split == "val" and split not in data)):
            continue
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
        folder, json_file = (files.user_path(half[key]) for key in ("images", "annotations"))
        for path, kind in ((folder, "folder of images"), (json_file, "annotation file")):
            if not path.exists():
                beside = map(str, files.beside(path))
                raise DataError(
                    f"data: {kind} {str(path)!r} of {split!r} does not "
                    f"exist{nearest(str(path), beside)}."
                )
        halves[split] = (folder, json_file)
    name = str(data.get("name") or name_of(halves["train"][1]))
    return DataSource(halves["train"], halves.get("val"), name, halves.get("test"))


def _layout_message(folder: Path) -> str:
    """Name the files that a folder lacks for the closest layout."""

    def missing(layout: _Layout) -> list[str]:
        required = [part for split in ("train", "val") for part in layout.half(folder, split)]
        return [part.relative_to(folder).as_posix() for part in required if not part.exists()]

    absent = min((missing(layout) for layout in _LAYOUTS), key=len)
    parent = (folder / absent[0]).parent
    base = parent if parent.is_dir() else folder
    existing = [(base / item.name).relative_to(folder).as_posix() for item in base.iterdir()]
    halves = "{train,val}"
    layouts = " or ".join(
        f"{layout.images.format(split=halves)} + {layout.annotations.format(split=halves)}"
        for layout in _LAYOUTS[:4]
    )
    return (
        f"data folder {str(folder)!r} has no {', no '.join(absent)}{nearest(absent[0], existing)}. "
        f"Looked for {layouts}, for one json, and for {'; '.join(formats.LOOKED_FOR)}. "
        "For any other layout, give the image folders and json files one by one."
    )


def name_of(json_file: Path) -> str:
    parent = json_file.resolve().parent
    return parent.parent.name if parent.name == "annotations" else parent.name
