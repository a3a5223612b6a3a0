"""Find the files of a YOLO data set: ``data.yaml``, folders of pictures, names of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from deim_lab.data.formats.content import SPLITS, Json, is_picture, read_text
from deim_lab.data.images import SUFFIXES
from deim_lab.errors import DataError, first_few, nearest

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")  # one class name a line

Names = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class YoloFiles:
    """Files of a YOLO data set.

    Attributes:
        path: the yaml, or the folder if it has none.
        sources: half → folders of pictures, or text files that list pictures.
        names: half → class numbers and names; None: the classes have no names.
        keypoint_numbers: numbers of a line that follow the box.
    """

    path: Path
    sources: dict[str, list[Path]]
    names: dict[str, Names | None]
    keypoint_numbers: int = 0


def find_files(folder: Path) -> YoloFiles:
    """Find the halves of a YOLO data set. ``sources`` is empty for any other folder.

    Raises ``DataError`` for a ``data.yaml`` that is faulty or names absent folders.
    """
    yaml_file, content = _data_yaml(folder)
    if yaml_file is None:
        by_name = _sources_by_name(folder)
        return YoloFiles(
            folder, by_name, {split: _names_beside(folder, by_name[split]) for split in by_name}
        )
    sources = _stated_sources(folder, yaml_file, content) or _sources_by_name(folder)
    if not sources:
        return YoloFiles(yaml_file, {}, {})
    names = _class_names(yaml_file, content)
    by_half = {split: names or _names_beside(folder, sources[split]) for split in sources}
    return YoloFiles(yaml_file, sources, by_half, _keypoint_numbers(yaml_file, content))


def label_of(picture: Path, root: Path) -> Path:
    """The label file of a picture: ``images`` becomes ``labels``, else next to the picture.

    As in Ultralytics, the last folder named ``images`` counts. Only folders below ``root`` do.
    """
    base, parts = Path(), picture.parts
    if picture.is_relative_to(root):
        base, parts = root, picture.relative_to(root).parts
    name = PurePosixPath(parts[-1]).stem + ".txt"
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            return base.joinpath(*parts[:place], "labels", *parts[place + 1 : -1], name)
    return picture.with_name(name)


def _data_yaml(folder: Path) -> tuple[Path | None, dict[str, Json]]:
    """``data.yaml``, or the only yaml of the folder that has ``names``."""
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return folder / name, _load(folder / name)
    candidates: dict[Path, dict[str, Json]] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            content = _load(path)
        except DataError:  # any other file of the folder
            continue
        if "names" in content and ("train" in content or _sources_by_name(folder)):
            candidates[path] = content
    if len(candidates) > 1:
        raise DataError(
            f"{folder} has {len(candidates)} yaml files with class names: "
            f"{', '.join(path.name for path in candidates)}. Name the right one data.yaml."
        )
    for path, content in candidates.items():
        return path, content
    return None, {}


def _load(path: Path) -> dict[str, Json]:
    """Content of a yaml with every value as text, because YAML turns the name ``no`` to False."""
    try:
        content = yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise DataError(f"{path}{line}: {error.problem}. Expected YAML.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{path}: {type(error).__name__}. Expected YAML.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected keys such as names, train and val.")
    return content


def _stated_sources(
    folder: Path, yaml_file: Path, content: dict[str, Json]
) -> dict[str, list[Path]]:
    """Folders and lists that the yaml names under train, val and test."""
    halves: dict[str, list[Path]] = {}
    for split, keys in SPLITS.items():
        for key in keys:
            if content.get(key) and split not in halves:
                sources = _sources(folder, yaml_file, content, split, content[key])
                if sources:
                    halves[split] = sources
    return halves


def _class_names(yaml_file: Path, content: dict[str, Json]) -> Names | None:
    names = content.get("names")
    if isinstance(names, dict):
        wrong = [key for key in names if not _is_count(key)]
        if wrong:
            raise DataError(
                f"{yaml_file}: names has the key {str(wrong[0])!r}. Expected class numbers 0, 1, …"
            )
        pairs = sorted((int(key), name) for key, name in names.items())
    elif isinstance(names, list):
        pairs = list(enumerate(names))
    elif names is None or names == "":
        pairs = []
    else:
        raise DataError(f"{yaml_file}: names is {names!r}. Expected a list of class names.")
    for number, name in pairs:
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{yaml_file}: the name of class {number} is a {type(name).__name__} or empty. "
                f"Expected text."
            )
    count = content.get("nc")
    if count is None:
        return tuple(pairs) or None
    if not _is_count(count):
        raise DataError(f"{yaml_file}: nc is {str(count)[:40]!r}. Expected the number of classes.")
    if pairs and len(pairs) != int(count):
        raise DataError(
            f"{yaml_file}: nc is {count}, but names has {len(pairs)} classes. Correct one of them."
        )
    return tuple(pairs) or tuple((number, str(number)) for number in range(int(count))) or None


def _is_count(value: Json) -> bool:
    return isinstance(value, str) and value.isdecimal() and len(value) < 7


def _keypoint_numbers(yaml_file: Path, content: dict[str, Json]) -> int:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise DataError(f"{yaml_file}: kpt_shape is not a list of numbers such as [17, 3].")
    return math.prod(int(item) for item in shape)


def _sources(
    folder: Path, yaml_file: Path, content: dict[str, Json], split: str, entry: Json
) -> list[Path]:
    """Folders or lists of a half. An absent ``test`` is left out: exports name it anyway."""
    entries = entry if isinstance(entry, list) else [entry]
    sources: list[Path] = []
    for item in entries:
        if not isinstance(item, str):
            raise DataError(f"{yaml_file}: {split} is not a folder, a list of folders or a .txt.")
        tried = list(dict.fromkeys(_candidates(folder, str(content.get("path") or ""), item)))
        source = next((path for path in tried if path.is_dir() or _is_list(path)), None)
        if source is not None:
            sources.append(source)
        elif split != "test":
            below = [path.relative_to(folder).as_posix() for path in folder.glob("*/")]
            raise DataError(
                f"{yaml_file}: {split} {item!r} does not exist{nearest(item, below)}. Looked for "
                f"{first_few(tried, 4)}. Correct the path; it is relative to the yaml."
            )
    return sources


def _is_list(path: Path) -> bool:
    return path.suffix == ".txt" and path.is_file()


def _candidates(folder: Path, stated_path: str, entry: str) -> Iterator[Path]:
    """Places of a yaml's entry, in the order of the search; inside the folder come first.

    Roboflow writes ``../train/images`` for ``train/images``. Exports of other machines have
    absolute paths. Therefore the end of an entry is looked for below the folder.
    """
    entry, stated_path = entry.replace("\\", "/"), stated_path.replace("\\", "/")
    bases = [folder]
    if stated_path:
        outside = Path(stated_path).expanduser().is_absolute()
        bases.insert(1 if outside else 0, folder / Path(stated_path).expanduser())
    parts = [part for part in PurePosixPath(entry).parts if part != "/"]
    plain = not PurePosixPath(entry).is_absolute() and ".." not in parts
    if plain:
        yield from (base / entry for base in bases)
    inside = [part for part in parts if part != ".."]
    for start in range(len(inside)):
        if inside[start:] != ["images"] or start == 0:
            yield folder.joinpath(*inside[start:])
    if not plain:
        yield from (base / entry for base in bases)


def _sources_by_name(folder: Path) -> dict[str, list[Path]]:
    """Folders or lists of pictures of each half, by the usual names."""
    halves: dict[str, list[Path]] = {}
    for split, names in SPLITS.items():
        for name in names:
            source = _source_by_name(folder, name)
            if source is not None and split not in halves:
                halves[split] = [source]
    if halves:
        return halves
    if _has_text(folder / "labels") and (folder / "images").is_dir():
        return {"train": [folder / "images"]}
    return {"train": [folder]} if _labelled_beside(folder) else {}


def _source_by_name(folder: Path, name: str) -> Path | None:
    candidates: list[tuple[Path, Callable[[], bool]]] = [
        (folder / "images" / name, lambda: _has_text(folder / "labels" / name)),
        (folder / name / "images", lambda: _has_text(folder / name / "labels")),
        (folder / name, lambda: _labelled_beside(folder / name)),
        (folder / f"{name}.txt", lambda: _lists_pictures(folder / f"{name}.txt")),
    ]
    for path, is_yolo in candidates:
        if path.exists() and is_yolo():
            return path
    return None


def _has_text(folder: Path) -> bool:
    return folder.is_dir() and next(folder.rglob("*.txt"), None) is not None


def _labelled_beside(folder: Path) -> bool:
    """Whether a picture of the folder has a text file of its name next to it."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    stems = (PurePosixPath(name).stem for name in names if is_picture(name))
    return any(f"{stem}.txt" in names for stem in stems)


def _lists_pictures(path: Path) -> bool:
    try:
        lines = read_text(path).split("\n")
    except DataError:
        return False
    first = next((line.strip() for line in lines if line.strip()), "")
    return PurePosixPath(first.replace("\\", "/")).suffix.lower() in SUFFIXES


def _names_beside(folder: Path, sources: Sequence[Path]) -> Names | None:
    """Class names of a text file next to the labels, one a line."""
    places = [folder, folder / "labels"]
    for source in sources:
        if source.is_dir():
            label_folder = label_of(source / "x.jpg", folder).parent
            places += [source, source.parent, label_folder]
    for place in places:
        for name in NAME_FILES:
            if (place / name).is_file():
                lines = read_text(place / name).splitlines()
                names = [line.strip() for line in lines if line.strip()]
                return tuple(enumerate(names)) or None
    return None
