"""COCO 2017 and COCO-ReM as the paper's counting task: how many of a category are in an image. Training is
from train2017, evaluation on val2017. Annotations are counted as the files list them; nothing is mended."""

import os
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rarl.data.collection import ListedFolder
from rarl.data.sources import SHOWN, Labelled, LeftOut, Source, existing_folder
from rarl.data.sources.json_lists import read_lists
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import COUNT

KINDS = {
    "COCO-ReM": {"train": "instances_trainrem.json", "test": "instances_valrem.json"},
    "COCO": {"train": "instances_train2017.json", "test": "instances_val2017.json"},
}

IMAGES = {"train": "train2017", "test": "val2017"}

ANNOTATION_FOLDERS = (".", "annotations", "coco_rem", "coco", "coco/annotations", "../coco_rem")

IMAGE_FOLDERS = (".", "coco", "images", "../coco")

LONGEST_NAME = 1000  # bytes

COCO_LISTS = ("images", "categories", "annotations")

Pair = tuple[int, int]
"""The ids of an image and of a category."""


@dataclass(frozen=True)
class Annotations:
    """What one file says.

    Attributes:
        file: the file.
        images: the file name of each image id.
        categories: the name of each category id; no name occurs twice, and none has a "#" in it.
        counts: annotations of each pair that are no crowd; a pair that isn't there has none.
        crowds: crowd annotations of each pair, likewise.
        left_out: annotations with an id again, or of an image or category that is not in the file.
    """

    file: Path
    images: dict[int, str] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    counts: Counter[Pair] = field(default_factory=Counter)
    crowds: Counter[Pair] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)

    def pairs(self) -> list[Pair]:
        """Every pair with an annotation of either kind, in the order of the ids."""
        return sorted(self.counts.keys() | self.crowds.keys())


@dataclass(frozen=True)
class _Part:
    """The annotations of a split and the images they are of: each image id has its name in the folder, and
    its file, or None where that is missing."""

    split: str
    annotations: Annotations
    images: dict[int, tuple[str, Path | None]]

    def category(self, pair: Pair) -> str:
        return self.annotations.categories[pair[1]]

    def row(self, pair: Pair, value: int) -> Labelled | None:
        """None if the image is missing."""
        name, path = self.images[pair[0]]
        category = self.category(pair)
        row_id = f"{name}#{category}"
        number = COUNT.check(value, f"{self.annotations.file}: {row_id}")
        if path is None:
            return None
        return Labelled(path, name, number, row_id, f"number of {category}", self.split)


def read_coco(
    raw: Path,
    categories: Sequence[str] = (),
    zeros: bool = False,
    crowds: bool = False,
    annotations: Path | None = None,
) -> Source:
    """A row for each image and category in it: how many there are, with the rule "number of {category}".

    Args:
        raw: the folder that has `train2017` and `val2017` in it, or `coco` and `coco_rem`.
        categories: by name; all of them if empty.
        zeros: also rows of the value 0, from images where the category isn't annotated at all. For each
            category and split they are as many as there are rows of its most common count, drawn at random
            with a fixed seed.
        crowds: also the pairs of image and category that have a crowd annotation, which stands for many of
            them: it is not counted itself, and these values are too low. Without one that is no crowd, the
            pair stays left out.
        annotations: the folder with the annotation files, where they are neither in `raw` nor beside it.

    Raises:
        DataError: if a file or folder is missing or malformed, a file name leads out of its folder or occurs
            twice, or a count is above the task's range.
        ConfigError: if there is no such category; it names the nearest.
    """
    try:
        kind, files = annotation_files(raw, annotations)
        folders = {split: image_folder(raw, name) for split, name in IMAGES.items()}
        parts = [_split_files(split, read_annotations(files[split]), folders[split]) for split in files]
    except OSError as error:
        raise DataError(f"{error.filename or raw}: can't be read ({error.strerror or error})") from error
    _check_names(parts)
    chosen = _chosen(categories, parts)
    rows: list[Labelled] = []
    left_out: list[LeftOut] = []
    notes: dict[str, Any] = {"annotations": kind, "crowd pairs kept": crowds}
    for part in parts:
        found, lost = _counted(part, chosen, crowds)
        drawn = _zeros(part, found) if zeros else []
        rows += sorted(found + drawn, key=lambda row: row.id)
        left_out += [*part.annotations.left_out, *lost]
        notes[part.split] = {
            "file": "/".join(part.annotations.file.parts[-2:]),
            "images": "/".join(folders[part.split].path.parts[-2:]),
            "pairs": len(found),
            "crowd pairs": sum(part.category(pair) in chosen for pair in part.annotations.crowds),
            "zeros": len(drawn),
        }
    return Source(COUNT, rows, left_out, notes)


def _split_files(split: str, annotations: Annotations, folder: ListedFolder) -> _Part:
    images: dict[int, tuple[str, Path | None]] = {}
    for image, file_name in annotations.images.items():
        where = f"{annotations.file}: image {image}"
        name, path = file_name, folder.find(file_name, where)
        while path is None and "/" in name:  # such as "train2017/000000000009.jpg"
            name = name.partition("/")[2]
            path = folder.find(name, where)
        images[image] = (name, path)
    return _Part(split, annotations, images)


def _check_names(parts: Iterable[_Part]) -> None:
    """An image that is there twice would be in training and test, or have two counts for one rule."""
    places: dict[str, str] = {}
    for part in parts:
        for image, (name, _) in part.images.items():
            where = f"{part.annotations.file}: image {image}"
            if places.setdefault(name, where) != where:
                raise DataError(f"{where}: the name {name!r} is that of {places[name]} too; keep one of them")


def _chosen(categories: Sequence[str], parts: Iterable[_Part]) -> set[str]:
    known = dict.fromkeys(name for part in parts for name in part.annotations.categories.values())
    for name in categories:
        if name not in known:
            near = get_close_matches(name, known, n=SHOWN, cutoff=0.5) or list(known)[:SHOWN]
            raise ConfigError(f"unknown category {name!r}; the nearest are {', '.join(near)}")
    return set(categories or known)


def _counted(part: _Part, chosen: Collection[str], crowds: bool) -> tuple[list[Labelled], list[LeftOut]]:
    rows: list[Labelled] = []
    left_out: list[LeftOut] = []
    missing: dict[str, None] = {}
    for pair in part.annotations.pairs():
        name, category = part.images[pair[0]][0], part.category(pair)
        count = part.annotations.counts[pair]
        if category not in chosen:
            continue
        if pair in part.annotations.crowds and not (crowds and count):
            left_out.append(LeftOut(f"{name}#{category}", "a crowd annotation: the number is not known"))
        elif (row := part.row(pair, count)) is not None:
            rows.append(row)
        else:
            missing[name] = None
    left_out += [LeftOut(name, f"no such image in the folder of {IMAGES[part.split]}") for name in missing]
    if not rows:
        raise DataError(
            f"{part.annotations.file}: none of its images in {IMAGES[part.split]} has a count; "
            f"{len(missing)} are missing and {len(left_out) - len(missing)} pairs are crowds"
        )
    return rows, left_out


def _zeros(part: _Part, rows: Iterable[Labelled]) -> list[Labelled]:
    """Rows of the value 0 for the rules of `rows`."""
    values: dict[str | None, Counter[float]] = {}
    for row in rows:
        values.setdefault(row.rule, Counter())[row.value] += 1
    annotated = set(part.annotations.pairs())
    images = sorted((name, image) for image, (name, path) in part.images.items() if path is not None)
    drawn: list[Labelled | None] = []
    for category, name in part.annotations.categories.items():
        wanted = max(values.get(f"number of {name}", Counter()).values(), default=0)
        if wanted:
            empty = [(image, category) for _, image in images if (image, category) not in annotated]
            generator = random.Random(f"zeros:{part.split}:{name}")
            pairs = generator.sample(empty, min(wanted, len(empty)))
            drawn += [part.row(pair, 0) for pair in pairs]
    return [row for row in drawn if row is not None]


def annotation_files(raw: Path, annotations: Path | None = None) -> tuple[str, dict[str, Path]]:
    """The kind of annotations and the file of each split; COCO-ReM's, where there are any of them.

    Args:
        raw: looked through, with its usual sub-folders and the folder `coco_rem` beside it.
        annotations: looked through instead.

    Raises:
        DataError: if there are none, or only those of one split: the two kinds are never mixed.
    """
    existing_folder(raw, "it must have train2017 and val2017 in it")
    folders = [_inside(raw, name) for name in ANNOTATION_FOLDERS]
    if annotations is not None:
        folders = [existing_folder(annotations, "it must have the annotation files in it")]
    for kind, names in KINDS.items():
        found = {split: file for split, name in names.items() if (file := _first_existing(folders, name))}
        if len(found) == len(names):
            return kind, found
        for file in found.values():
            [missing] = (name for split, name in names.items() if split not in found)
            raise DataError(
                f"{file}: there is no {missing} to go with it; training is from train2017 and evaluation on "
                "val2017: add it, or name the folder that has both"
            )
    wanted = ", or ".join(" and ".join(names.values()) for names in KINDS.values())
    raise DataError(
        f"{folders[0]}: no annotations; there must be {wanted}; looked in {', '.join(map(str, folders))}"
    )


def image_folder(raw: Path, name: str) -> ListedFolder:
    """The folder of images called `name`, which may be a link.

    Raises:
        DataError: if there is none.
    """
    folders = [_inside(raw, folder) / name for folder in IMAGE_FOLDERS]
    for folder in folders:
        if folder.is_dir():
            return ListedFolder(folder)
    raise DataError(
        f"{folders[0]}: no such folder; the images of {name} go there or into {folders[1]}, all of them"
    )


def _first_existing(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _inside(raw: Path, name: str) -> Path:
    return Path(os.path.normpath(os.path.abspath(raw) + "/" + name))


def read_annotations(file: Path) -> Annotations:
    """The counts of a file such as `instances_val2017.json`; `iscrowd` may be absent, and is 0 then.

    Raises:
        DataError: if the file is malformed; it names the list and the entry.
    """
    read = Annotations(file)
    ids: set[int] = set()
    for key, number, entry in read_lists(file, COCO_LISTS):
        where = f"{file}: {key} entry {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: must be an object, not {_short(entry)}")
        if key == "images":
            _add_image(read, entry, where)
        elif key == "categories":
            _add_category(read, entry, where)
        else:
            _add_annotation(read, entry, where, ids)
    _leave_out_strangers(read)
    return read


def _add_image(read: Annotations, entry: Mapping[str, Any], where: str) -> None:
    image = _whole_number(entry, "id", where)
    if image in read.images:
        raise DataError(f"{where}: id {image} is there twice; give each image an id of its own")
    read.images[image] = _name_field(entry, "file_name", where)


def _add_category(read: Annotations, entry: Mapping[str, Any], where: str) -> None:
    category, name = _whole_number(entry, "id", where), _name_field(entry, "name", where)
    if "#" in name or not name.isprintable():
        raise DataError(f"{where}: name {name!r} must be printable and without '#': it goes into ids")
    if category in read.categories or name in read.categories.values():
        raise DataError(f"{where}: id {category} or name {name!r} is there twice; give each its own")
    read.categories[category] = name


def _add_annotation(read: Annotations, entry: Mapping[str, Any], where: str, ids: set[int]) -> None:
    number = _whole_number(entry, "id", where)
    pair = _whole_number(entry, "image_id", where), _whole_number(entry, "category_id", where)
    crowd = entry.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise DataError(f"{where}: 'iscrowd' must be 0 or 1, not {_short(crowd)}")
    if number in ids:
        reason = f"id {number} again; an id counts once"
        read.left_out.append(LeftOut(f"{read.file.name} annotations {where.rpartition(' ')[2]}", reason))
        return
    ids.add(number)
    (read.crowds if crowd else read.counts)[pair] += 1


def _leave_out_strangers(read: Annotations) -> None:
    strangers: Counter[str] = Counter()
    for counter in (read.counts, read.crowds):
        for image, category in list(counter):
            if image not in read.images:
                strangers[f"image_id {image}"] += counter.pop((image, category))
            elif category not in read.categories:
                strangers[f"category_id {category}"] += counter.pop((image, category))
    for name, count in strangers.items():
        reason = f"not in the file, and has {count} annotation{'s' if count > 1 else ''}"
        read.left_out.append(LeftOut(f"{read.file.name} {name}", reason))


def _whole_number(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = _value(entry, key, where)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where}: '{key}' must be a whole number, not {_short(value)}")
    return value


def _name_field(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = _value(entry, key, where)
    try:
        if isinstance(value, str) and value.strip() and len(value.encode()) <= LONGEST_NAME:
            return value.strip()
    except UnicodeEncodeError:
        pass  # half of a surrogate pair: it could not be written to any file
    raise DataError(f"{where}: '{key}' must be a text, neither empty nor long, not {_short(value)}")


def _value(entry: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise DataError(f"{where}: no '{key}'; the keys there are {_short(', '.join(entry)) or 'none'}")
    return entry[key]


def _short(value: object) -> str:
    """A value as it stands in a message: hostile ones are long."""
    shown = value if isinstance(value, str) else ascii(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
