"""Lists that say which images belong to which split: `--split [NAME=]FILE`, once or more. A list is a text
with a name or an id on each line, or a table with such a column. Published results on the same data set use
different lists, so those that were used are noted."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rarl.data import SPLIT_NAMES
from rarl.data.names import Matches, match_names
from rarl.data.sources import SHOWN, Labelled, LeftOut
from rarl.data.sources.tables import TABLE_SUFFIXES, column, encoding_of, read_table
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
        key: the image's name or id, as the list has it.
        split: train, validation or test.
        where: its place, for errors, such as "lists/test.csv line 3".
        columns: the other columns of its row, if the list is a table.
    """

    key: str
    split: str
    where: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class SplitLists:
    """The entries of all lists, in order, and a note about each list: the name of its file, the start of the
    file's SHA-256, and its number of entries for each split."""

    entries: Sequence[Listed] = ()
    notes: Sequence[dict[str, Any]] = ()


def read_split_lists(given: Sequence[str]) -> SplitLists:
    """The lists of `--split`, each `FILE` or `NAME=FILE`, where NAME is train, validation (val) or test.

    Without NAME, each row of a table with a column split, set, subset or partition has its own split;
    otherwise the name of the file says it: `generic_test.jpgl` is a list of test images.

    Raises:
        ConfigError: if neither an option nor its file names a split.
        DataError: if a file is missing or malformed, or no entry at all is for test.
    """
    entries: list[Listed] = []
    notes = []
    for option in given:
        split, file = _option(option)
        listed = (
            _table_entries(file, split) if file.suffix.lower() in TABLE_SUFFIXES else _list_lines(file, split)
        )
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        counts = dict(sorted(Counter(entry.split for entry in listed).items()))
        notes.append({"file": file.name, "sha256": digest, "entries": counts})
        entries += listed
    if given and all(entry.split != "test" for entry in entries):
        raise DataError("--split: no entry of these lists is of the test split; add --split test=FILE")
    return SplitLists(entries, notes)


def _option(option: str) -> tuple[str | None, Path]:
    name, equals, file = option.partition("=")
    if equals and name.strip().lower() in SPLIT_NAMES:
        return SPLIT_NAMES[name.strip().lower()], _file(file.strip(), option)
    if equals and not os.path.isfile(option):
        raise ConfigError(f"--split {option}: there is no split '{name}'; write train=, validation= or test=")
    return None, _file(option, option)


def _file(file: str, option: str) -> Path:
    if not os.path.isfile(file):
        raise DataError(f"--split {option}: {file!r} is no file; check the path")
    return Path(file)


def _named_split(file: Path) -> str:
    """The split in a file's name, such as test for "generic_test.jpgl"."""
    words = re.findall("[a-z]+", file.stem.lower())
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    if len(splits) != 1:
        raise ConfigError(f"--split {file}: which split is it? Write --split test={file}, or train=, or val=")
    return splits.pop()


def _list_lines(file: Path, split: str | None) -> list[Listed]:
    split = split or _named_split(file)
    try:
        lines = file.read_text(encoding=encoding_of(file)).split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error
    entries = [
        Listed(_plain_path(key), split, f"{file} line {number}", {})
        for number, line in enumerate(lines, 1)
        if (key := line.strip())
    ]
    if not entries:
        raise DataError(f"{file}: no entries; write the name or id of an image on each line")
    return entries


def _table_entries(file: Path, split: str | None) -> list[Listed]:
    rows = read_table(file)
    key = column(rows, FILE_COLUMNS, "the image file", file)
    columns = {str(name).strip().lower(): name for name in rows[0][1]}
    split_key = next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)
    if split is None and split_key is None:
        split = _named_split(file)
    entries = []
    for where, row in rows:
        row_split = split or _row_split(row.get(str(split_key)), where, file)
        rest = {name: value for name, value in row.items() if name not in (key, split_key)}
        entries.append(Listed(_key(row.get(key), key, where), row_split, where, rest))
    return entries


def _row_split(value: object, where: str, file: Path) -> str:
    split = SPLIT_NAMES.get(str(value).strip().lower())
    if split is None:
        raise DataError(
            f"{where}: {value!r} is no split; it must be train, validation or test; if the whole list is one "
            f"split, write --split test={file}"
        )
    return split


def _key(value: object, name: str, where: str) -> str:
    """A name or id as a text. Tables may hold ids as numbers, even as 953619.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not text or _SURROGATE.search(text):
        raise DataError(f"{where}: {name} must be the name or id of an image, not {value!r}")
    return _plain_path(text)


def _plain_path(key: str) -> str:
    return key.replace("\\", "/").removeprefix("./")


@dataclass(frozen=True)
class Division:
    """Images with their splits, what else is left out, the entries for each image, by what lists call it, and
    a note of the entries that were matched loosely."""

    images: Sequence[Labelled]
    left_out: Sequence[LeftOut] = ()
    listed: dict[str, list[Listed]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def divide(
    images: Sequence[Labelled],
    lists: SplitLists,
    left_out: Iterable[LeftOut] = (),
    called: Callable[[str], str] = str,
) -> Division:
    """Gives each image the split that the lists say. Without lists the images stay as they are.

    A list may call an image as loosely as `match_names` reads: by the end of its name, by a path that ends
    with it, without its suffix. If a list gives training images, an image in no list is left out; if none
    does, it belongs to train. An entry that is no image is left out, unless `left_out` has it already. An
    image may occur twice in one split.

    Args:
        left_out: what the source has left out already, so that nothing is left out twice.
        called: what lists call an image, given its name, such as the name without its folders.

    Raises:
        DataError: if an entry fits several images, an image has two splits, or a split gets no image.
    """
    if not lists.entries:
        return Division(images)
    present, absent = ({called(each.name) for each in some} for some in (images, left_out))
    # Several entries may mean one image: they must then be of one split.
    matches = match_names((entry.key for entry in lists.entries), present | absent, shared=True)
    listed, missing = _listed(lists, matches, present)
    _check_splits(lists, listed, images)
    rest = None if any(entry.split == "train" for entry in lists.entries) else "train"
    kept = []
    for image in images:
        entries = listed.get(called(image.name))
        split = entries[0].split if entries else rest
        if split is None:
            missing.append(LeftOut(image.name, "in no list of --split"))
        else:
            kept.append(replace(image, split=split))
    notes = {f"{key}, in split lists": note for key, note in matches.notes().items()}
    return Division(kept, missing, listed, notes)


def _listed(
    lists: SplitLists, matches: Matches, present: Collection[str]
) -> tuple[dict[str, list[Listed]], list[LeftOut]]:
    """The entries for each image, by name, and the entries that fit no image."""
    first: dict[str, Listed] = {}
    listed: dict[str, list[Listed]] = {}
    missing = []
    for entry in lists.entries:
        if entry.key in matches.several:
            raise DataError(f"{entry.where}: {entry.key!r} {matches.reason(entry.key)}")
        name = matches.found.get(entry.key)
        other = first.setdefault(name or entry.key, entry)
        if other.split != entry.split:
            raise DataError(
                f"{entry.where}: {name or entry.key!r} is of {entry.split} here and of {other.split} in "
                f"{other.where}; remove one of the two"
            )
        if name is not None and name in present:
            listed.setdefault(name, []).append(entry)
        elif name is None and other is entry:
            file = Path(entry.where).name
            missing.append(LeftOut(entry.key, f"listed, but there is no such file ({file})"))
    return listed, missing


def _check_splits(lists: SplitLists, listed: dict[str, list[Listed]], images: Sequence[Labelled]) -> None:
    splits = {entries[0].split for entries in listed.values()}
    for entry in lists.entries:
        if entry.split not in splits:
            names = ", ".join(repr(image.name) for image in images[:SHOWN]) or "none"
            raise DataError(
                f"{entry.where}: neither {entry.key!r} nor any other entry of {entry.split} is an image that "
                f"is there, such as {names}; check that the list is one of these images"
            )
