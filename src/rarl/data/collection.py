"""A collection: a folder of splits, each with images and a `metadata.jsonl`, and a `task.yaml` at the root.
Reading one opens no image, so 250,000 rows load in seconds. `load_dataset("imagefolder")` reads it too.
Writing one is for `writing` and `preparing`."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from rarl.errors import ConfigError, DataError
from rarl.files import parse_yaml, yaml_text
from rarl.method.tasks import Task

_NOWHERE = frozenset(("", ".", ".."))  # what no part of a name may be


class Folder:
    """A folder whose files are found by name. Each sub-folder is listed once: a look at every file of 250,000
    takes long."""

    def __init__(self, path: str | os.PathLike[str], within: str | os.PathLike[str] | None = None) -> None:
        """Links may lead anywhere in `within`, which is `path` itself if it is not given."""
        self.path = Path(os.path.abspath(path))
        self.within = self.path if within is None else Path(os.path.abspath(within))
        self._real = os.path.realpath(self.within)
        self._listings: dict[str, dict[str, bool]] = {}

    def find(self, name: str, where: str) -> Path | None:
        """The file `name`, such as "a.png" or "b/a.png"; None if there is no such file.

        Raises:
            DataError: if the name leads, or may lead, out of the folder, or a folder can't be read; the
                message begins with `where`.
        """
        parts = name.split("/")
        if not _NOWHERE.isdisjoint(parts) or "\0" in name or "\\" in name or ":/" in name:
            raise DataError(
                f"{where}: file_name {name!r} must name a file inside {self.path}, as 'a.png' or 'b/a.png'"
            )
        parent = "/".join(parts[:-1])
        if parent not in self._listings:
            try:
                self._listings[parent] = self._list(parent, where)
            except OSError as error:
                folder = str(self.path / parent)
                raise DataError(f"{where}: {folder!r} can't be read ({error.strerror or error})") from error
        is_link = self._listings[parent].get(parts[-1])
        if is_link is None:
            return None
        path = self.path / name
        if is_link:
            self._check(path, where)
            if not path.is_file():
                return None
        return path

    def _list(self, parent: str, where: str) -> dict[str, bool]:
        """The files of a sub-folder, each with whether it is a link."""
        folder = self.path / parent
        if not folder.is_dir():
            return {}
        self._check(folder, where)
        # A link is not followed here: it may lead to itself.
        with_links = ((entry, entry.is_symlink()) for entry in os.scandir(folder))
        return {entry.name: is_link for entry, is_link in with_links if is_link or not entry.is_dir()}

    def _check(self, path: Path, where: str) -> None:
        real = os.path.realpath(path)
        if os.path.commonpath([real, self._real]) != self._real:
            raise DataError(
                f"{where}: {path} is a link that leads out of {self.within}; put the file itself there"
            )


SPLITS = ("train", "validation", "test")
METADATA = "metadata.jsonl"
TASK_FILE = "task.yaml"

Fault = Callable[[DataError], None]
"""What is done with a row that is wrong: raise the error, or note it and go on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image and its value.

    Attributes:
        value: in units of the task; where only orders are known, the image's place in one of them, from 0.
        rule: set where the row has one of its own in place of the task's.
        order: the number of the order that `value` is a place in; None for a value. An image that stands in
            several orders has a row for each.
    """

    id: str
    path: Path
    value: float
    rule: str | None = None
    order: int | None = None


@dataclass(frozen=True)
class Collection:
    """The rows of every split, in the order of their `metadata.jsonl`; no two images have one id."""

    root: Path
    task: Task
    splits: dict[str, tuple[Row, ...]]

    def split(self, name: str) -> tuple[Row, ...]:
        """The rows of one split.

        Raises:
            DataError: if there is no such split; it names those there are.
        """
        if name not in self.splits:
            raise DataError(f"{self.root}: no split '{name}'; there are {', '.join(self.splits)}")
        return self.splits[name]

    def digest(self, name: str) -> str:
        """What tells the split from another: a hash of the task and the rows."""
        rows = [[row.id, row.value, row.rule, row.order] for row in self.split(name)]
        return hashlib.sha256(json.dumps([self.task.to_dict(), rows]).encode()).hexdigest()[:16]

    def knows_values(self, name: str) -> bool:
        """Whether the split's rows have values, and not only places in orders."""
        return self.split(name)[0].order is None


def load_collection(root: str | os.PathLike[str]) -> Collection:
    """The collection in the folder `root`, with absolute paths; images must be there, and are not opened.

    The splits are `train`, `validation`, `test`, as far as they are there, and every other folder with a
    `metadata.jsonl`. A row without an `id` gets "split/file_name". A split with an `orders.jsonl` has no
    values but orders: see `rarl.data.collection`.

    Raises:
        DataError: if anything is missing or malformed; it names the file, the line and the mend.
    """

    def refuse(error: DataError) -> None:
        raise error

    return _load(root, refuse)


def inspect_collection(root: str | os.PathLike[str]) -> tuple[Collection, list[str]]:
    """What can be read of a collection, and what is wrong with every row that can't.

    Raises:
        DataError: as `load_collection`, where the whole can't be read: no task, no splits, nothing in one.
    """
    problems: list[str] = []
    return _load(root, lambda error: problems.append(str(error))), problems


def _load(root: str | os.PathLike[str], fault: Fault) -> Collection:
    folder = Path(os.path.abspath(root))
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; a collection has {TASK_FILE} and {', '.join(SPLITS)} in it"
        )
    try:
        task = _load_task(folder / TASK_FILE)
        places: dict[str, str] = {}
        splits = {name: _load_split(folder, name, task, places, fault) for name in _split_names(folder)}
    except OSError as error:
        raise DataError(f"{error.filename or folder}: can't be read ({error.strerror or error})") from error
    return Collection(folder, task, splits)


def _load_task(file: Path) -> Task:
    keys = ", ".join(Task.__dataclass_fields__)
    if not file.is_file():
        raise DataError(f"{file}: no such file; a collection needs one, with the keys {keys}")
    try:
        fields = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except (ConfigError, UnicodeDecodeError) as error:
        problem = str(error).removeprefix(str(file)).lstrip(": ")
        raise DataError(f"{file}: not YAML: {problem}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{file}: must be lines of `key: value` with the keys {keys}")
    try:
        return Task.from_dict(fields, str(file))
    except ConfigError as error:
        raise DataError(str(error)) from error


def _split_names(folder: Path) -> list[str]:
    folders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    names = [name for name in SPLITS if name in folders]
    names += [name for name in folders if name not in SPLITS and (folder / name / METADATA).is_file()]
    if not names:
        raise DataError(f"{folder}: no splits; make {', '.join(SPLITS)}, each with images and a {METADATA}")
    return names


def _load_split(root: Path, name: str, task: Task, places: dict[str, str], fault: Fault) -> tuple[Row, ...]:
    """The rows of one split; `places` holds the place of every id so far, and gets these."""
    file = root / name / METADATA
    if not file.is_file():
        raise DataError(
            f'{file}: no such file; write a line {{"file_name": ..., "value": ...}} for each image'
        )
    files = Folder(file.parent, within=root)
    ordered = (file.parent / ORDERS).is_file()
    rows: list[Row] = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            try:
                row = _row(line, where, files, task, ordered)
                place = f"{name}/{METADATA} line {number}"
                if places.setdefault(row.id, place) != place:
                    raise DataError(
                        f"{where}: id {row.id!r} is that of {places[row.id]} too; make each 'id' a new one"
                    )
            except DataError as error:
                fault(error)
            else:
                rows.append(row)
    if not rows:
        raise DataError(f"{file}: no rows; write a line for each image, or remove the folder")
    return tuple(load_orders(file.parent / ORDERS, rows, fault) if ordered else rows)


def _row(line: bytes, where: str, files: Folder, task: Task, ordered: bool) -> Row:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); a row is one JSON object on one line") from error
    if not isinstance(fields, dict):
        raise DataError(f'{where}: must be {{"file_name": ..., "value": ...}}')
    for key in ("file_name",) if ordered else ("file_name", "value"):
        if key not in fields:
            raise DataError(f"{where}: no '{key}'; the keys there are {', '.join(fields) or 'none'}")
    if ordered and fields.get("value") is not None:
        raise DataError(
            f"{where}: a value, where {ORDERS} says the order; remove {ORDERS}, or the values of the split"
        )
    value = 0.0 if ordered else task.check(fields["value"], where)
    name = text_field(fields["file_name"], "file_name", where)
    path = files.find(name, where)
    if path is None:
        raise DataError(f"{where}: image {name!r} is not in {files.path}; add the file or remove the line")
    rule = None if fields.get("rule") is None else text_field(fields["rule"], "rule", where)
    row_id = (
        f"{files.path.name}/{name}" if fields.get("id") is None else text_field(fields["id"], "id", where)
    )
    return Row(row_id, path, value, rule)


def task_text(task: Task) -> str:
    """What stands in a `task.yaml`."""
    return yaml_text(task.to_dict())


def text_field(value: object, key: str, where: str) -> str:
    """`value`, if it is a text that is not empty and can be written to a file, or a `DataError`."""
    try:
        if isinstance(value, str) and value.strip() and value.encode():
            return value
    except UnicodeEncodeError:
        pass  # half of a surrogate pair: it could not be written to any file
    raise DataError(f"{where}: {key} must be a text that is not empty, not {value!r}")


ORDERS = "orders.jsonl"


def load_orders(file: Path, rows: Sequence["Row"], fault: Callable[[DataError], None]) -> list["Row"]:
    """For each image of each order a row with its place as `value` and the order's number (its line, from 1).

    Args:
        file: the `orders.jsonl`.
        rows: the images of the split.
        fault: called with what is wrong with a line; where it returns, the line is passed over.

    Raises:
        DataError: if no order can be read.
    """
    by_id = {row.id: row for row in rows}
    found: list[Row] = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                ordered = _order(line, f"{file} line {number}", by_id)
            except DataError as error:
                fault(error)
            else:
                found += [replace(row, value=float(place), order=number) for place, row in enumerate(ordered)]
    if not found:
        raise DataError(f'{file}: no orders; write a line {{"ids": [...]}}, ascending, for each')
    return found


def contradictions(rows: Sequence["Row"]) -> list[list[str]]:
    """The images of which orders contradict each other: lists of ids, each image of a list before and after
    every other of it, in one order or through several. No total order agrees with them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids = list(dict.fromkeys(row.id for row in rows))
    number = {name: place for place, name in enumerate(ids)}
    next_to = [
        (number[a.id], number[b.id]) for a, b in pairwise(rows) if a.order == b.order and a.value < b.value
    ]
    before, after = zip(*next_to, strict=True) if next_to else ((), ())
    edges = coo_array(([1] * len(next_to), (before, after)), shape=(len(ids), len(ids)))
    _, labels = connected_components(edges, connection="strong")
    cycles: dict[int, list[str]] = {}
    for name, label in zip(ids, labels.tolist(), strict=True):
        cycles.setdefault(label, []).append(name)
    return [cycle for cycle in cycles.values() if len(cycle) > 1]


def _order(line: bytes, where: str, by_id: dict[str, "Row"]) -> list["Row"]:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); an order is one JSON object on one line") from error
    ids = fields.get("ids") if isinstance(fields, dict) else None
    if not isinstance(ids, list) or len(ids) < 2:
        raise DataError(f'{where}: must be {{"ids": [...]}} with two ids or more, ascending')
    for number, name in enumerate(ids, 1):
        if not isinstance(name, str) or name not in by_id:
            raise DataError(f"{where}: id {number}, {name!r}, is that of no image of this split")
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{where}: {twice!r} is listed twice; an order has each image once")
    rows = [by_id[name] for name in ids]
    if any(row.rule != rows[0].rule for row in rows):
        raise DataError(f"{where}: images with different rules; an order is by one rule")
    return rows
