"""Read Pascal VOC data sets: one xml per picture, lists of names in ``ImageSets/Main``.

VOC counts pixels from 1 and includes the last one: ``x = xmin - 1``, ``width = xmax - xmin + 1``.
Objects marked as difficult become crowd regions: never targets, ignored by the evaluator, as in
VOC's own evaluation. The xml must not have a DTD, so no entity is ever expanded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deim_lab.data.formats.content import (
    SPLITS,
    Box,
    Content,
    Halves,
    Labelled,
    Pictures,
    build,
    counted,
    files_under,
    read_text,
    shown_size,
    split_of,
)
from deim_lab.data.formats.voc_xml import Document, parse
from deim_lab.errors import DataError, first_few, nearest

FORMAT = "Pascal VOC"
LOOKED_FOR = (
    "Pascal VOC: Annotations/*.xml with JPEGImages and ImageSets/Main/{train,val,test}.txt, or "
    "train, valid and test with an xml next to each picture"
)

_XML_FOLDERS = ("Annotations", "annotations")
_PICTURE_FOLDERS = ("JPEGImages", "images", "Images")
_CLASS_FILES = ("classes.txt", "labelmap.txt")  # the second is CVAT's


@dataclass(frozen=True)
class VocLabels:
    """Pascal VOC labels of one half.

    Attributes:
        path: the list of this half, or the folder of its xml files.
        xml_dir: folder of the xml files.
        images_dir: folder of the pictures. A picture and its xml have the same relative name.
        list_file: names of this half, one a line; None: every xml and every picture.
        all_xml_dirs: folders of all halves; the classes are the names in all of them, sorted.
        class_file: names of the classes in order, one a line; None: there is no such file.
    """

    path: Path
    xml_dir: Path
    images_dir: Path
    list_file: Path | None = None
    all_xml_dirs: tuple[Path, ...] = ()
    class_file: Path | None = None
    format: str = field(default=FORMAT, init=False)

    def read(self) -> Content:
        """Read the xml files of this half. A picture without an xml has no boxes."""
        documents = {
            folder: {_stem(name): parse(folder / name) for name in _xml_names(folder)}
            for folder in dict.fromkeys((self.xml_dir, *self.all_xml_dirs))
        }
        categories = self._categories(documents)
        ids = {name: category_id for category_id, name in categories.items()}
        counts = _Counts([], [], [])
        pictures: list[Labelled] = []
        for file_name, stem in self._pairs(documents[self.xml_dir]):
            document = Document((0, 0), "", ())
            if stem is None:
                counts.no_xml.append(file_name)
            else:
                document = documents[self.xml_dir][stem]
                counts.add(f"{stem}.xml", document)
            size = document.size_wh
            if 0 in size:
                size = shown_size(self.images_dir / file_name)
            boxes = [Box(ids[item.name], item.xywh, item.difficult) for item in document.objects]
            pictures.append(Labelled(file_name, size, boxes))
        return build(self.images_dir, pictures, categories, counts.notices())

    def _categories(self, documents: dict[Path, dict[str, Document]]) -> dict[int, str]:
        """Class ids from 1: in the order of the class file, else by name."""
        first_place: dict[str, Path] = {}
        for folder, by_name in documents.items():
            for stem, document in by_name.items():
                for item in document.objects:
                    first_place.setdefault(item.name, folder / f"{stem}.xml")
        if self.class_file is None:
            return dict(enumerate(sorted(first_place), 1))
        names = _class_names(self.class_file)
        if "background" not in first_place and self.class_file.name == "labelmap.txt":
            names = [name for name in names if name != "background"]
        for name, path in first_place.items():
            if name not in names:
                raise DataError(
                    f"{path}: class {name!r} is not in {self.class_file.name}"
                    f"{nearest(name, names)}. Correct the xml or add the class."
                )
        return dict(enumerate(names, 1))

    def _pairs(self, documents: dict[str, Document]) -> list[tuple[str, str | None]]:
        """Each picture of this half and its xml."""
        pictures = Pictures(self.images_dir)
        by_stem: dict[str, list[str]] = {}
        for name in pictures.names:
            by_stem.setdefault(_stem(name), []).append(name)
        stems = list(documents)
        if self.list_file is not None:
            stems = list(dict.fromkeys(_listed(self.list_file, by_stem, documents)))
        pairs: dict[str, str | None] = {}
        absent: list[str] = []
        for stem in stems:
            file_name = self._picture(stem, by_stem, documents.get(stem), pictures)
            if file_name is None:
                absent.append(stem)
            elif file_name in pairs:
                raise DataError(
                    f"{self.xml_dir}: {stem}.xml and {pairs[file_name]}.xml are of one picture, "
                    f"{file_name}. Name each xml after its picture."
                )
            else:
                pairs[file_name] = stem if stem in documents else None
        if absent:
            hint = nearest(absent[0], list(by_stem)[:2000])
            raise DataError(
                f"{self.path}: {len(absent)} of {len(stems)} pictures are not in "
                f"{self.images_dir}: {first_few(absent, 3)}{hint}. Restore them, or remove their "
                f"xml files and their lines."
            )
        if self.list_file is None:
            for name in pictures.names:
                pairs.setdefault(name, None)
        if not pairs:
            raise DataError(f"{self.path}: this half has no picture. Add at least one.")
        return list(pairs.items())

    def _picture(
        self,
        stem: str,
        by_stem: dict[str, list[str]],
        document: Document | None,
        pictures: Pictures,
    ) -> str | None:
        """The picture of an xml: of the same name, else the one that the xml names."""
        candidates = by_stem.get(stem, [])
        stated = "" if document is None else document.file_name
        if len(candidates) > 1:
            exact = [name for name in candidates if PurePosixPath(name).name == stated]
            if len(exact) != 1:
                raise DataError(
                    f"{self.images_dir}: {' and '.join(candidates)} have one xml, {stem}.xml. "
                    f"Rename one of the pictures."
                )
            return exact[0]
        if candidates:
            return candidates[0]
        located = pictures.locate(stem) or pictures.locate(stated)
        folder = PurePosixPath(stem).parent
        same_folder = [name for name in located if PurePosixPath(name).parent == folder]
        located = same_folder or located
        return located[0] if len(located) == 1 else None


class _Counts(NamedTuple):
    """Files of each thing that a notice counts."""

    difficult: list[str]
    from_zero: list[str]
    no_xml: list[str]

    def add(self, xml_name: str, document: Document) -> None:
        self.difficult.extend(xml_name for item in document.objects if item.difficult)
        self.from_zero.extend(xml_name for item in document.objects if item.from_zero)

    def notices(self) -> list[str]:
        return [
            *counted(
                "voc-difficult",
                "difficult objects are crowd regions: no targets, ignored in evaluation",
                self.difficult,
            ),
            *counted(
                "voc-from-zero",
                "boxes start at pixel 0, but VOC counts from 1; boxes may be off by one pixel",
                self.from_zero,
            ),
            *counted(
                "voc-no-xml",
                "pictures have no xml file; read as pictures without boxes",
                self.no_xml,
            ),
        ]


# ---- finding --------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A folder of xml files and its folder of pictures."""

    xml_dir: Path
    images_dir: Path


def find(folder: Path) -> Halves:
    """The halves of a Pascal VOC data set: name → (folder of pictures, labels); or ``{}``.

    Raises ``DataError`` for a folder that holds several VOC data sets.
    """
    folder = _unpacked(folder)
    class_file = next((folder / name for name in _CLASS_FILES if (folder / name).is_file()), None)
    halves: dict[str, tuple[Path, _Place, Path | None]] = {}  # path, place, list
    place = _place(folder)
    if place is not None:
        lists = _lists(folder)
        halves = {split: (path, place, path) for split, path in lists.items()}
        if not halves:
            split_places = _split_places(place.xml_dir, place.images_dir)
            halves = {split: (item.xml_dir, item, None) for split, item in split_places.items()}
        if not halves:
            halves = {"train": (place.xml_dir, place, None)}
    else:
        for base in (folder, folder / "images"):
            split_places = {} if halves else _split_places(base, base)
            halves |= {split: (item.xml_dir, item, None) for split, item in split_places.items()}
    all_xml_dirs = tuple(dict.fromkeys(item.xml_dir for _, item, _ in halves.values()))
    return {
        split: (
            item.images_dir,
            VocLabels(path, item.xml_dir, item.images_dir, list_file, all_xml_dirs, class_file),
        )
        for split, (path, item, list_file) in halves.items()
    }


def _unpacked(folder: Path) -> Path:
    """The folder with ``Annotations``: itself, or the only one in it, as in ``VOCdevkit``."""
    if not folder.is_dir() or _place(folder) is not None:
        return folder
    inner = [
        path.parent
        for pattern in ("*/Annotations", "VOCdevkit/*/Annotations")
        for path in sorted(folder.glob(pattern))
        if (path.parent / "JPEGImages").is_dir() and split_of(path.parent.name) is None
    ]
    if len(inner) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in inner)
        raise DataError(f"{folder} holds several VOC data sets: {names}. Give one of them.")
    return inner[0] if inner else folder


def _place(folder: Path) -> _Place | None:
    """Folders of xml files and pictures below a folder, or the folder itself for both."""
    for name in _XML_FOLDERS:
        if _has_xml(folder / name, deep=True):
            pictures = (folder / item for item in _PICTURE_FOLDERS)
            images_dir = next((item for item in pictures if item.is_dir()), folder / name)
            return _Place(folder / name, images_dir)
    return _Place(folder, folder) if _has_xml(folder) else None


def _split_places(xml_dir: Path, images_dir: Path) -> dict[str, _Place]:
    """Halves in sub-folders named train, val and test."""
    places: dict[str, _Place] = {}
    for split, names in SPLITS.items():
        for name in names:
            if split in places:
                continue
            if xml_dir != images_dir:
                if _has_xml(xml_dir / name, deep=True) and (images_dir / name).is_dir():
                    places[split] = _Place(xml_dir / name, images_dir / name)
            else:
                place = _place(xml_dir / name)
                if place is not None:
                    places[split] = place
    return places


def _has_xml(folder: Path, *, deep: bool = False) -> bool:
    if not folder.is_dir():
        return False
    return next(folder.glob("**/*.xml" if deep else "*.xml"), None) is not None


def _lists(folder: Path) -> dict[str, Path]:
    """Lists of the halves; ``trainval`` is the training half if there is no ``train``."""
    for base in (folder / "ImageSets" / "Main", folder / "ImageSets"):
        lists = {
            split: base / f"{name}.txt"
            for split, names in SPLITS.items()
            for name in reversed(names)
            if (base / f"{name}.txt").is_file()
        }
        if "train" not in lists and (base / "trainval.txt").is_file():
            lists = {"train": base / "trainval.txt", **lists}
        if lists:
            return lists
    return {}


def _xml_names(folder: Path) -> list[str]:
    return sorted(name for name in files_under(folder) if name.lower().endswith(".xml"))


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _listed(
    path: Path, by_stem: dict[str, list[str]], documents: dict[str, Document]
) -> Iterator[str]:
    """Names of a list. A name may be followed by -1, 0 or 1, as in VOC's lists of one class."""
    for line in read_text(path).splitlines():
        stem = line.strip()
        name, _, flag = stem.rpartition(" ")
        as_it_stands = stem in by_stem or stem in documents
        if not as_it_stands and flag in ("-1", "0", "1"):
            stem = name.strip()
        if stem:
            yield stem


def _class_names(path: Path) -> list[str]:
    lines = (line.strip() for line in read_text(path).splitlines())
    if path.name == "labelmap.txt":  # name:colour:parts:actions
        lines = (line.partition(":")[0] for line in lines if not line.startswith("#"))
    names = list(dict.fromkeys(line for line in lines if line))
    if not names:
        raise DataError(f"{path} has no class names. Write one a line, or remove the file.")
    return names
