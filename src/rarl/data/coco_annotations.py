"""A file of annotations in COCO's format, read as counts: how many of each category are in each image. Masks
and boxes are passed over, so that a file of several GB takes little memory."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rarl.data.json_lists import read_lists
from rarl.data.sources import LeftOut
from rarl.errors import DataError

LONGEST_NAME = 1000  # bytes
LISTS = ("images", "categories", "annotations")

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


def read_annotations(file: Path) -> Annotations:
    """The counts of a file such as `instances_val2017.json`; `iscrowd` may be absent, and is 0 then.

    Raises:
        DataError: if the file is malformed; it names the list and the entry.
    """
    read = Annotations(file)
    ids: set[int] = set()
    for key, number, entry in read_lists(file, LISTS):
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
    read.images[image] = _text(entry, "file_name", where)


def _add_category(read: Annotations, entry: Mapping[str, Any], where: str) -> None:
    category, name = _whole_number(entry, "id", where), _text(entry, "name", where)
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


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
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
