"""Read Pascal VOC data sets: one xml per picture, lists of names in ``ImageSets/Main``.

VOC counts pixels from 1 and includes the last one: ``x = xmin - 1``, ``width = xmax - xmin + 1``.
Objects marked as difficult become crowd regions: never targets, ignored by the evaluator, as in
VOC's own evaluation. The xml must not have a DTD, so no entity is ever expanded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

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
from deim_lab.errors import DataError, first_few, nearest

FORMAT = "Pascal VOC"
LOOKED_FOR = (
    "Pascal VOC: Annotations/*.xml with JPEGImages and ImageSets/Main/{train,val,test}.txt, or "
    "train, valid and test with an xml next to each picture"
)

_XML_FOLDERS = ("Annotations", "annotations")
_PICTURE_FOLDERS = ("JPEGImages", "images", "Images")
_CLASS_FILES = ("classes.txt", "labelmap.txt")  # the second is CVAT's
_SIDES = ("xmin", "ymin", "xmax", "ymax")


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
            folder: {name: parse(folder / name) for name in _xml_names(folder)}
            for folder in dict.fromkeys((self.xml_dir, *self.all_xml_dirs))
        }
        categories = self._categories(documents)
        ids = {name: category_id for category_id, name in categories.items()}
        counts = _Counts([], [], [])
        pictures: list[Labelled] = []
        for file_name, xml_name in self._pairs(documents[self.xml_dir]):
            document = _Document((0, 0), "", ())
            if xml_name is None:
                counts.no_xml.append(file_name)
            else:
                document = documents[self.xml_dir][xml_name]
                counts.add(xml_name, document)
            size = document.size_wh
            if 0 in size:
                size = shown_size(self.images_dir / file_name)
            boxes = [Box(ids[item.name], item.xywh, item.difficult) for item in document.objects]
            pictures.append(Labelled(file_name, size, boxes))
        return build(self.images_dir, pictures, categories, counts.notices())

    def _categories(self, documents: dict[Path, dict[str, _Document]]) -> dict[int, str]:
        """Class ids from 1: in the order of the class file, else by name."""
        first_place: dict[str, Path] = {}
        for folder, by_name in documents.items():
            for xml_name, document in by_name.items():
                for item in document.objects:
                    first_place.setdefault(item.name, folder / xml_name)
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

    def _pairs(self, documents: dict[str, _Document]) -> list[tuple[str, str | None]]:
        """Each picture of this half and its xml."""
        pictures = Pictures(self.images_dir)
        by_stem: dict[str, list[str]] = {}
        for name in pictures.names:
            by_stem.setdefault(_stem(name), []).append(name)
        if self.list_file is None:
            stems = [_stem(name) for name in documents]
            with_xml = set(stems)
        else:
            stems = list(_listed(self.list_file, by_stem, documents))
            with_xml = {stem for stem in stems if f"{stem}.xml" in documents}
        pairs: dict[str, str | None] = {}
        absent: list[str] = []
        for stem in dict.fromkeys(stems):
            xml_name = f"{stem}.xml" if stem in with_xml else None
            file_name = self._picture(stem, by_stem, documents.get(f"{stem}.xml"), pictures)
            if file_name is None:
                absent.append(stem)
            else:
                pairs[file_name] = xml_name
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
        document: _Document | None,
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
        located = pictures.locate(stated) if stated else []
        folder = PurePosixPath(stem).parent
        same_folder = [name for name in located if PurePosixPath(name).parent == folder]
        located = same_folder or located
        return located[0] if len(located) == 1 else None


class _Object(NamedTuple):
    name: str
    xywh: tuple[float, float, float, float]
    difficult: bool
    from_zero: bool


class _Document(NamedTuple):
    """Content of one xml file. ``size_wh`` has a 0 if the file states no size."""

    size_wh: tuple[int, int]
    file_name: str
    objects: tuple[_Object, ...]


class _Counts(NamedTuple):
    """Files of each thing that a notice counts."""

    difficult: list[str]
    from_zero: list[str]
    no_xml: list[str]

    def add(self, xml_name: str, document: _Document) -> None:
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


# ---- reading --------------------------------------------------------------------------------


def _xml_names(folder: Path) -> list[str]:
    return sorted(name for name in files_under(folder) if name.lower().endswith(".xml"))


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _listed(
    path: Path, by_stem: dict[str, list[str]], documents: dict[str, _Document]
) -> Iterator[str]:
    """Names of a list. A name may be followed by -1, 0 or 1, as in VOC's lists of one class."""
    for line in read_text(path).splitlines():
        stem = line.strip()
        name, _, flag = stem.rpartition(" ")
        as_it_stands = stem in by_stem or f"{stem}.xml" in documents
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


def parse(path: Path) -> _Document:
    """Read one xml file. Raises ``DataError`` with the file, the object and the value."""
    root = _tree(path)
    if root.tag != "annotation":
        raise DataError(
            f"{path}: the root is <{root.tag[:40]}>. Expected <annotation>, as Pascal VOC has. "
            f"Export the labels as COCO, YOLO or Pascal VOC."
        )
    size = root.find("size")
    size_wh = (0, 0)
    if size is not None:
        size_wh = (_side(size, "width", path), _side(size, "height", path))
    objects = [
        _object(item, f"{path}, object {number}")
        for number, item in enumerate(root.iterfind("object"), 1)
    ]
    return _Document(size_wh, (root.findtext("filename") or "").strip(), tuple(objects))


def _tree(path: Path) -> Element:
    """The elements of an xml file. A DTD is refused, since entities in it can grow without end."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise DataError(
            f"{path}, line {parser.CurrentLineNumber}: the xml has a DTD or entities. "
            f"Remove the <!DOCTYPE …> part; labels need none."
        )

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except DataError:
        raise
    except expat.ExpatError as error:
        raise DataError(
            f"{path}, line {error.lineno}: {expat.ErrorString(error.code)}. Expected complete XML. "
            f"Write the file again."
        ) from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, LookupError, AssertionError) as error:  # encodings that expat lacks
        raise DataError(f"{path}: {error}. Save the file as UTF-8.") from error


def _side(size: Element, key: str, path: Path) -> int:
    """A stated width or height; 0 if it is absent or empty, as some tools write."""
    text = (size.findtext(key) or "").strip() or "0"
    value = _float(text)
    if value != value or value < 0 or value != int(value):
        raise DataError(f"{path}: {key} {text!r} of <size> is not a whole number of pixels.")
    return int(value)


def _object(item: Element, where: str) -> _Object:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where} has no <name>. Every object needs the name of its class.")
    where = f"{where} ({name!r})"
    box = item.find("bndbox")
    if box is None:
        raise DataError(f"{where} has no <bndbox>. Expected {', '.join(_SIDES)} in pixels.")
    xmin, ymin, xmax, ymax = (_coordinate(box, key, where) for key in _SIDES)
    if xmax < xmin or ymax < ymin:
        raise DataError(
            f"{where}: the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g} has xmax < xmin or "
            f"ymax < ymin. Expected {', '.join(_SIDES)}. Exchange the corners."
        )
    return _Object(
        name,
        (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1),
        _flag(item, "difficult", where),
        xmin == 0 or ymin == 0,
    )


def _coordinate(box: Element, key: str, where: str) -> float:
    text = box.findtext(key)
    if text is None:
        raise DataError(
            f"{where}: <bndbox> has no <{key}>{nearest(key, [item.tag for item in box])}. "
            f"Expected {', '.join(_SIDES)}."
        )
    value = _float(text)
    if value != value:
        raise DataError(f"{where}: {key} {text.strip()[:40]!r} is not a number of pixels.")
    return value


def _flag(item: Element, key: str, where: str) -> bool:
    text = (item.findtext(key) or "").strip().casefold() or "0"
    if text not in ("0", "1", "false", "true"):
        raise DataError(f"{where}: {key} {text[:40]!r} is not 0 or 1.")
    return text in ("1", "true")


def _float(text: str) -> float:
    """The finite number that a text stands for; NaN for any other text."""
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
