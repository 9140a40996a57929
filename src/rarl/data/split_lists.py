"""Lists that say which images belong to which part: `--split [NAME=]FILE`, once or more. A list is a text
with a name or an id on each line, or a table with such a column. Published results on one data set differ by
their lists, so what was used is noted for the results to say."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarl.data.tables import SUFFIXES, column, read_table
from rarl.errors import ConfigError, DataError

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What lists and options call a part, and its name here."""

FILE_COLUMNS = (
    *("file", "file_name", "filename", "file_path", "filepath", "image", "image_id", "image_num"),
    *("image_name", "image_path", "img", "img_name", "path", "id", "name"),
)
PART_COLUMNS = ("split", "set", "subset", "partition")

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
        listed = _table(file, part) if file.suffix.lower() in SUFFIXES else _lines(file, part)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        counts = dict(sorted(Counter(entry.part for entry in listed).items()))
        notes.append({"file": file.name, "sha256": digest, "entries": counts})
        entries += listed
    if given and all(entry.part != "test" for entry in entries):
        raise DataError("--split: no entry of these lists is of the test part; add --split test=FILE")
    return SplitLists(entries, notes)


def _option(option: str) -> tuple[str | None, Path]:
    name, equals, file = option.partition("=")
    if equals and name.strip().lower() in PARTS:
        return PARTS[name.strip().lower()], _file(file.strip(), option)
    if equals and not os.path.isfile(option):
        raise ConfigError(f"--split {option}: there is no part '{name}'; write train=, validation= or test=")
    return None, _file(option, option)


def _file(file: str, option: str) -> Path:
    if not os.path.isfile(file):
        raise DataError(f"--split {option}: {file!r} is no file; check the path")
    return Path(file)


def _named_part(file: Path) -> str:
    """The part that a file's name says, such as test for "generic_test.jpgl"."""
    words = re.findall("[a-z]+", file.stem.lower())
    parts = {PARTS[word] for word in words if word in PARTS}
    if len(parts) != 1:
        raise ConfigError(f"--split {file}: which part is it? Write --split test={file}, or train=, or val=")
    return parts.pop()


def _lines(file: Path, part: str | None) -> list[Listed]:
    part = part or _named_part(file)
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error
    entries = [
        Listed(_plain(key), part, f"{file} line {number}", {})
        for number, line in enumerate(lines, 1)
        if (key := line.strip())
    ]
    if not entries:
        raise DataError(f"{file}: no entries; write the name or id of an image on each line")
    return entries


def _table(file: Path, part: str | None) -> list[Listed]:
    rows = read_table(file)
    key = column(rows, FILE_COLUMNS, "the image file", file)
    columns = {str(name).strip().lower(): name for name in rows[0][1]}
    part_key = next((columns[name] for name in PART_COLUMNS if name in columns), None)
    if part is None and part_key is None:
        part = _named_part(file)
    entries = []
    for where, row in rows:
        row_part = part or _part(row.get(str(part_key)), where, file)
        rest = {name: value for name, value in row.items() if name not in (key, part_key)}
        entries.append(Listed(_key(row.get(key), key, where), row_part, where, rest))
    return entries


def _part(value: object, where: str, file: Path) -> str:
    part = PARTS.get(str(value).strip().lower())
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
    return _plain(text)


def _plain(key: str) -> str:
    return key.replace("\\", "/").removeprefix("./")
