"""Lists that say which images belong to which part: `--split [NAME=]FILE`, once or more. A list is a text
with a name or an id on each line, or a table with such a column. Published results on one data set differ by
their lists, so what was used is noted for the results to say."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rarl.data.shares import SPLIT_NAMES
from rarl.data.sources import SHOWN, Labelled, LeftOut
from rarl.data.sources.tables import TABLE_SUFFIXES, column, read_table
from rarl.errors import ConfigError, DataError

FILE_COLUMNS = (
    *("file", "file_name", "filename", "file_path", "filepath", "image", "image_id", "image_num"),
    *("image_name", "image_path", "img", "img_name", "path", "id", "name"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition")

_SURROGATE = re.compile("[\ud800-\udfff]")  # can't be written to any file


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a list.

    Attributes:
        key: the image's name or id as the list has it.
        part: train, validation or test.
        where: the place to name in an error, such as "lists/test.csv line 3".
        columns: the other columns of a table's row.
    """

    key: str
    part: str
    where: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class SplitLists:
    """The entries of all lists, in order, and a note for each list: its file's name, the start of the file's
    SHA-256, and how many entries it has of each part."""

    entries: Sequence[Listed] = ()
    notes: Sequence[dict[str, Any]] = ()


def read_split_lists(given: Sequence[str]) -> SplitLists:
    """The lists of `--split`, each `FILE` or `NAME=FILE`, where NAME is train, validation (val) or test.

    Without NAME the part is that of the row where a table has a column split, set, subset or partition, and
    otherwise that of the file's name: `generic_test.jpgl` is a list of test images.

    Raises:
        ConfigError: if an option names no part, and neither does its file.
        DataError: if a file is missing or malformed, or no entry at all is of the test part.
    """
    entries: list[Listed] = []
    notes = []
    for option in given:
        part, file = _option(option)
        listed = (
            _table_entries(file, part) if file.suffix.lower() in TABLE_SUFFIXES else _list_lines(file, part)
        )
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        counts = dict(sorted(Counter(entry.part for entry in listed).items()))
        notes.append({"file": file.name, "sha256": digest, "entries": counts})
        entries += listed
    if given and all(entry.part != "test" for entry in entries):
        raise DataError("--split: no entry of these lists is of the test part; add --split test=FILE")
    return SplitLists(entries, notes)


def _option(option: str) -> tuple[str | None, Path]:
    name, equals, file = option.partition("=")
    if equals and name.strip().lower() in SPLIT_NAMES:
        return SPLIT_NAMES[name.strip().lower()], _file(file.strip(), option)
    if equals and not os.path.isfile(option):
        raise ConfigError(f"--split {option}: there is no part '{name}'; write train=, validation= or test=")
    return None, _file(option, option)


def _file(file: str, option: str) -> Path:
    if not os.path.isfile(file):
        raise DataError(f"--split {option}: {file!r} is no file; check the path")
    return Path(file)


def _named_split(file: Path) -> str:
    """The part that a file's name says, such as test for "generic_test.jpgl"."""
    words = re.findall("[a-z]+", file.stem.lower())
    parts = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    if len(parts) != 1:
        raise ConfigError(f"--split {file}: which part is it? Write --split test={file}, or train=, or val=")
    return parts.pop()


def _list_lines(file: Path, part: str | None) -> list[Listed]:
    part = part or _named_split(file)
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error
    entries = [
        Listed(_plain_path(key), part, f"{file} line {number}", {})
        for number, line in enumerate(lines, 1)
        if (key := line.strip())
    ]
    if not entries:
        raise DataError(f"{file}: no entries; write the name or id of an image on each line")
    return entries


def _table_entries(file: Path, part: str | None) -> list[Listed]:
    rows = read_table(file)
    key = column(rows, FILE_COLUMNS, "the image file", file)
    columns = {str(name).strip().lower(): name for name in rows[0][1]}
    part_key = next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)
    if part is None and part_key is None:
        part = _named_split(file)
    entries = []
    for where, row in rows:
        row_part = part or _row_split(row.get(str(part_key)), where, file)
        rest = {name: value for name, value in row.items() if name not in (key, part_key)}
        entries.append(Listed(_key(row.get(key), key, where), row_part, where, rest))
    return entries


def _row_split(value: object, where: str, file: Path) -> str:
    part = SPLIT_NAMES.get(str(value).strip().lower())
    if part is None:
        raise DataError(
            f"{where}: {value!r} is no part; it must be train, validation or test; if the whole list is one "
            f"part, write --split test={file}"
        )
    return part


def _key(value: object, name: str, where: str) -> str:
    """A name or id as text: a table may hold ids as numbers, also as 953619.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not text or _SURROGATE.search(text):
        raise DataError(f"{where}: {name} must be the name or id of an image, not {value!r}")
    return _plain_path(text)


def _plain_path(key: str) -> str:
    return key.replace("\\", "/").removeprefix("./")


_IMAGE_SUFFIXES = re.compile(r"(\.(jpe?g|png|webp|bmp|gif|chip))+$", re.IGNORECASE)


@dataclass(frozen=True)
class Division:
    """Images with their parts, what else is left out, and the entries for an image, by what it is called."""

    images: Sequence[Labelled]
    left_out: Sequence[LeftOut] = ()
    listed: dict[str, list[Listed]] = field(default_factory=dict)


def divide(
    images: Sequence[Labelled],
    lists: SplitLists,
    left_out: Iterable[LeftOut] = (),
    called: Callable[[str], str] = str,
) -> Division:
    """Gives each image the part that the lists say; without lists they stay as they are.

    A list may call an image by its name, by the end of its name ("b.jpg" for "a/b.jpg"), by a path that ends
    with its name ("/data/a/b.jpg"), and by each of these without image suffixes ("b"). Where there is a list
    of training images, an image in no list is left out; where there is none, it belongs to train. An entry
    that is no image is left out, unless it is one of `left_out` already. The same image twice in one part is
    fine.

    Args:
        left_out: of the same source, so that nothing is left out twice.
        called: what the lists are to know a name by, such as the name without its folders.

    Raises:
        DataError: if an entry fits several images, an image has two parts, or a part has none of the images.
    """
    if not lists.entries:
        return Division(images)
    names = _Names((called(image.name) for image in images), (called(each.name) for each in left_out))
    listed, missing = _listed(lists, names)
    _check_splits(lists, listed, images)
    rest = None if any(entry.part == "train" for entry in lists.entries) else "train"
    kept = []
    for image in images:
        entries = listed.get(called(image.name))
        part = entries[0].part if entries else rest
        if part is None:
            missing.append(LeftOut(image.name, "in no list of --split"))
        else:
            kept.append(replace(image, split=part))
    return Division(kept, missing, listed)


def without_suffixes(name: str) -> str:
    """The name without suffixes of images: "a" for "a.jpg.chip.jpg"."""
    return _IMAGE_SUFFIXES.sub("", name)


def _listed(lists: SplitLists, names: "_Names") -> tuple[dict[str, list[Listed]], list[LeftOut]]:
    """The entries for each image, by name, and the entries that are no image."""
    first: dict[str, Listed] = {}
    listed: dict[str, list[Listed]] = {}
    missing = []
    for entry in lists.entries:
        name = names.find(entry)
        other = first.setdefault(name or entry.key, entry)
        if other.part != entry.part:
            raise DataError(
                f"{entry.where}: {name or entry.key!r} is of {entry.part} here and of {other.part} in "
                f"{other.where}; remove one of the two"
            )
        if name in names.present:
            listed.setdefault(name, []).append(entry)
        elif name is None and other is entry:
            file = Path(entry.where).name
            missing.append(LeftOut(entry.key, f"listed, but there is no such file ({file})"))
    return listed, missing


class _Names:
    """The names of images, found by what a list calls them; `absent` are those of images left out."""

    def __init__(self, present: Iterable[str], absent: Iterable[str]) -> None:
        self.present = set(present)
        self._all = self.present.union(absent)
        self._exact = _NamesByEnd((name, name) for name in self._all)
        self._stems = _NamesByEnd((without_suffixes(name), name) for name in self._all)

    def find(self, entry: Listed) -> str | None:
        name = self._exact.find(entry.key)
        if name is None:
            name = self._stems.find(without_suffixes(entry.key))
        if name == _SEVERAL:
            stem = "/" + without_suffixes(entry.key.rpartition("/")[2])
            fitting = sorted(name for name in self._all if f"/{without_suffixes(name)}".endswith(stem))
            several = " or ".join(map(repr, fitting[:SHOWN]))
            raise DataError(f"{entry.where}: {entry.key!r} may be {several}; write the whole name")
        return name


_SEVERAL = ""


class _NamesByEnd:
    """Names by what they are called and by the ends of that, such as "b" for "a/b"; `_SEVERAL` where that
    fits several."""

    def __init__(self, called: Iterable[tuple[str, str]]) -> None:
        self._whole: dict[str, str] = {}
        self._ends: dict[str, str] = {}
        for call, name in called:
            self._whole[call] = _SEVERAL if call in self._whole else name
            for end in _path_ends(call):
                self._ends[end] = _SEVERAL if end in self._ends else name

    def find(self, key: str) -> str | None:
        for names, call in (
            (self._whole, key),
            (self._ends, key),
            *((self._whole, e) for e in _path_ends(key)),
        ):
            if call in names:
                return names[call]
        return None


def _path_ends(path: str) -> Iterator[str]:
    """ "b/c" and "c" for "a/b/c"."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _check_splits(lists: SplitLists, listed: dict[str, list[Listed]], images: Sequence[Labelled]) -> None:
    parts = {entries[0].part for entries in listed.values()}
    for entry in lists.entries:
        if entry.part not in parts:
            names = ", ".join(repr(image.name) for image in images[:SHOWN]) or "none"
            raise DataError(
                f"{entry.where}: neither {entry.key!r} nor any other entry of {entry.part} is an image that "
                f"is there, such as {names}; check that the list is one of these images"
            )
