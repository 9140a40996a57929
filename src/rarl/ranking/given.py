"""The images that a user means: files, folders with all below them, collections, and tables that name files.
Folders are listed and tables read; no image is opened, and none must be there."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rarl.data.collection import TASK_FILE, load_collection
from rarl.data.images import FILE_SUFFIXES
from rarl.data.listing import ListedFolder, walk_files
from rarl.data.names import is_readable
from rarl.data.sources import SHOWN
from rarl.data.sources.splits import FILE_COLUMNS
from rarl.data.sources.tables import TABLE_SUFFIXES, columns, read_table
from rarl.errors import DataError


@dataclass(frozen=True)
class Given:
    """Image files, by the paths that rows name them by.

    Attributes:
        files: each once, in the order given; of a folder by name.
        notes: what was passed over, a sentence each.
    """

    files: Sequence[str]
    notes: Sequence[str] = field(default_factory=list)


def given_images(what: Sequence[str | os.PathLike[str]]) -> Given:
    """The images of files, folders, collections and tables (CSV, TSV, JSONL, JSON, Parquet). A table names
    files from its own folder. A folder with a `task.yaml` is a collection: the rows of its splits.

    Raises:
        DataError: if something given is not there or can't be read, or a folder or table has no image.
    """
    files: dict[str, None] = {}
    notes: list[str] = []
    for entry in what:
        given = os.fspath(entry)
        if not is_readable(given):
            raise DataError(f"{given!r}: no path that a table could hold; rename it")
        if os.path.isdir(given):
            found = _of_folder(given, notes)
        elif Path(given).suffix.lower() in TABLE_SUFFIXES:
            found = _of_table(given)
        elif os.path.exists(given):
            found = [given]
        else:
            raise DataError(f"{given}: no such file or folder; check the path")
        if not found:
            raise DataError(f"{given}: no images in it ({', '.join(FILE_SUFFIXES)})")
        files.update(dict.fromkeys(found))
    return Given(list(files), notes)


def _of_folder(folder: str, notes: list[str]) -> list[str]:
    if os.path.isfile(os.path.join(folder, TASK_FILE)):
        collection = load_collection(folder)
        rows = [row for split in collection.splits.values() for row in split]
        return list(
            dict.fromkeys(os.path.join(folder, os.path.relpath(row.path, collection.root)) for row in rows)
        )
    walked = walk_files(Path(folder), prepared=True)
    images = []
    others = Counter(walked.no_photos)
    for name in walked.files:
        if (suffix := Path(name).suffix.lower()) in FILE_SUFFIXES:
            images.append(name)
        else:
            others[suffix or "no suffix"] += 1
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in others.most_common(SHOWN))
    passed = {
        "no images": (others.total(), f" ({kinds})"),
        "links to folders": (len(walked.links), ""),
        "names that can't be written": (len(walked.unreadable), ""),
    }
    notes += [f"{folder}: passed over, {why}: {n:,}{more}" for why, (n, more) in passed.items() if n]
    return [os.path.join(folder, name) for name in images]


def _of_table(table: str) -> list[str]:
    rows = read_table(table)
    inside = os.path.dirname(table)
    listed = ListedFolder(inside or ".")

    def named(row: Mapping[str, Any], key: str) -> str:
        return "" if row.get(key) is None else str(row[key]).strip().removeprefix("./")

    def path(name: str) -> str:
        return os.path.join(inside, name if os.path.isabs(name) else _as_on_disk(name, listed))

    def there(key: str) -> int:
        return sum(os.path.isfile(path(named(row, key))) for _, row in rows)

    keys = columns(rows, FILE_COLUMNS, "the image file", table)
    key = max(keys, key=there) if len(keys) > 1 else keys[0]  # an id need not be a name
    paths = []
    for where, row in rows:
        name = named(row, key)
        if not name or not is_readable(name):
            raise DataError(f"{where}: no {key}; name the image's file")
        paths.append(path(name))
    return paths


def _as_on_disk(name: str, folder: ListedFolder) -> str:
    """A name as the disk has it, with "/" between folders and in the same normal form, if there is such a
    file."""
    if os.path.lexists(folder.path / name):
        return name
    try:
        path = folder.find(name.replace("\\", "/"), "")
    except DataError:
        return name
    return name if path is None else os.path.relpath(path, folder.path)
