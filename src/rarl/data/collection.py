"""A collection: a folder of splits, each with its images and a `metadata.jsonl`, and a `task.yaml` at the
root. Loading one opens no image, so that 250,000 rows take seconds. The layout is that of
`load_dataset("imagefolder")`. This module reads; `rarl.data.writing` and `rarl.data.prepare` write."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rarl.data import SPLITS
from rarl.data.listing import ListedFolder, no_photo
from rarl.errors import ConfigError, DataError
from rarl.files import read_jsonl
from rarl.method.tasks import Task
from rarl.yaml_files import read_yaml, yaml_text

METADATA = "metadata.jsonl"
ORDERS = "orders.jsonl"
TASK_FILE = "task.yaml"

SHOWN_CAUSES = 3

Fault = Callable[[DataError], None]
"""What happens to a row that is wrong: the error is raised, or noted and the row skipped."""


class Pool(NamedTuple):
    """Rows of one pool may share a group: they have one rule and, where only orders are known, one order."""

    rule: str | None
    order: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One image and its value.

    Attributes:
        value: in units of the task.
        rule: set where the row has a rule of its own, in place of the task's.
    """

    id: str
    path: Path
    value: float
    rule: str | None = None

    @property
    def pool(self) -> Pool:
        """The rows that this one may share a group with."""
        return Pool(self.rule, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedRow(Row):
    """One image in one order. Its `value` is its place there, from 0, and says nothing of distances. An image
    that stands in several orders has a row for each.

    Attributes:
        order: the number of the order: its line in `orders.jsonl`, from 1.
    """

    order: int

    @property
    def pool(self) -> Pool:
        return Pool(self.rule, self.order)


@dataclass(frozen=True)
class Collection:
    """The rows of every split, in the order of their `metadata.jsonl`. No two images have the same id."""

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
        """A hash of the task and the rows of one split, which changes when either does."""
        rows = [[row.id, row.value, *row.pool] for row in self.split(name)]
        return hashlib.sha256(json.dumps([self.task.to_dict(), rows]).encode()).hexdigest()[:16]

    def knows_values(self, name: str) -> bool:
        """Whether the rows of the split have values, and not only places in orders."""
        return not isinstance(self.split(name)[0], OrderedRow)


def load_collection(root: str | os.PathLike[str]) -> Collection:
    """The collection in the folder `root`, with absolute paths. Every image must exist; none is opened.

    The splits are `train`, `validation` and `test`, as far as they exist, and every other folder that has a
    `metadata.jsonl`. A row without an `id` gets "split/file_name". In a split with an `orders.jsonl` the rows
    have no values: each is an `OrderedRow`.

    Raises:
        DataError: if anything is missing or malformed; it names the file and the line, and says how to mend
            it.
    """

    def refuse(error: DataError) -> None:
        raise error

    return _load(root, refuse)


def inspect_collection(root: str | os.PathLike[str]) -> tuple[Collection, list[str]]:
    """All that can be read of a collection, and for each row that can't, what is wrong with it.

    Raises:
        DataError: as `load_collection`, if the whole can't be read: no task, no splits, an empty split.
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
        raise DataError(
            f"{file}: no such file; a collection needs one, with the keys {keys}. `rarl data prepare folder` "
            "makes a collection of a folder of images"
        )
    try:
        fields = read_yaml(file)
    except ConfigError as error:
        problem = str(error).removeprefix(str(file)).lstrip(": ")
        raise DataError(f"{file}: not YAML: {problem}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{file}: must be lines of `key: value` with the keys {keys}")
    try:
        return Task.from_dict(fields, str(file))
    except ConfigError as error:
        raise DataError(str(error)) from error


def task_text(task: Task) -> str:
    """The text of a `task.yaml`."""
    return yaml_text(task.to_dict())


def _split_names(folder: Path) -> list[str]:
    # Hidden folders and the like, such as .ipynb_checkpoints, are no splits.
    folders = sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and no_photo(entry.name) is None
    )
    names = [name for name in SPLITS if name in folders]
    names += [name for name in folders if name not in SPLITS and (folder / name / METADATA).is_file()]
    if not names:
        raise DataError(f"{folder}: no splits; make {', '.join(SPLITS)}, each with images and a {METADATA}")
    return names


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────


def _load_split(root: Path, name: str, task: Task, places: dict[str, str], fault: Fault) -> tuple[Row, ...]:
    """The rows of one split. `places` says where each id was found so far, and gets the ids of this split."""
    file = root / name / METADATA
    if not file.is_file():
        raise DataError(
            f'{file}: no such file; write a line {{"file_name": ..., "value": ...}} for each image'
        )
    files = ListedFolder(file.parent, within=root)
    ordered = (file.parent / ORDERS).is_file()
    rows: list[Row] = []
    wrong: list[DataError] = []

    def note(error: DataError) -> None:
        wrong.append(error)
        fault(error)

    in_root = len(str(root)) + 1
    like, mend = '{"file_name": ..., "value": ...}', "a row is one JSON object on one line"
    for where, fields in read_jsonl(file, like=like, mend=mend, fault=note):
        try:
            row = _parse_row(fields, where, files, task, ordered)
            place = where[in_root:]
            if places.setdefault(row.id, place) != place:
                raise DataError(
                    f"{where}: id {row.id!r} is that of {places[row.id]} too; give each image an 'id' of its "
                    "own"
                )
        except DataError as error:
            note(error)
        else:
            rows.append(row)
    if not rows and wrong:
        raise DataError(_all_wrong(file, "rows", wrong))
    if not rows:
        raise DataError(f"{file}: no rows; write a line for each image, or remove the folder")
    return tuple(_load_orders(file.parent / ORDERS, rows, fault) if ordered else rows)


def _all_wrong(file: Path, what: str, wrong: Sequence[DataError]) -> str:
    """Why nothing of a file can be taken: the mistakes that differ in more than their place, a few of
    them."""
    causes: dict[str, DataError] = {}
    for error in wrong:
        causes.setdefault(re.sub(r"'[^']*'|\d+", "", str(error)), error)
    shown = "; ".join(map(str, list(causes.values())[:SHOWN_CAUSES]))
    return f"{file}: none of its {len(wrong):,} {what} can be taken: {shown}"


def _parse_row(fields: Mapping[str, Any], where: str, files: ListedFolder, task: Task, ordered: bool) -> Row:
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


def text_field(value: object, key: str, where: str) -> str:
    """`value`, if it is a text that is not empty and can be written to a file.

    Raises:
        DataError: if not; it names `where` and `key`.
    """
    try:
        if isinstance(value, str) and value.strip() and value.encode():
            return value
    except UnicodeEncodeError:
        pass  # half of a surrogate pair: no file could hold it
    raise DataError(f"{where}: {key} must be a text that is not empty, not {value!r}")


# ── orders ───────────────────────────────────────────────────────────────────────────────────────────────


def _load_orders(file: Path, rows: Sequence[Row], fault: Fault) -> list[OrderedRow]:
    """A row for each image of each order in an `orders.jsonl`.

    Args:
        rows: the images of the split.
        fault: gets the error of a line; if it returns, the line is skipped.

    Raises:
        DataError: if no order can be read.
    """
    by_id = {row.id: row for row in rows}
    found: list[OrderedRow] = []
    wrong: list[DataError] = []

    def note(error: DataError) -> None:
        wrong.append(error)
        fault(error)

    like = '{"ids": [...]} with two ids or more, ascending'
    mend = "an order is one JSON object on one line"
    for where, fields in read_jsonl(file, like=like, mend=mend, fault=note):
        try:
            images = _parse_order(fields, where, by_id)
        except DataError as error:
            note(error)
        else:
            number = int(where.rpartition(" ")[2])
            found += [
                OrderedRow(row.id, row.path, float(place), row.rule, order=number)
                for place, row in enumerate(images)
            ]
    if not found and wrong:
        raise DataError(_all_wrong(file, "orders", wrong))
    if not found:
        raise DataError(f'{file}: no orders; write a line {{"ids": [...]}}, ascending, for each')
    return found


def _parse_order(fields: Mapping[str, Any], where: str, by_id: Mapping[str, Row]) -> list[Row]:
    ids = fields.get("ids")
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
        raise DataError(f"{where}: images with different rules; all images of an order must have one rule")
    return rows


def contradictions(rows: Sequence[Row]) -> list[list[str]]:
    """The images whose orders contradict each other, as lists of ids. Each image of a list comes before and
    after every other one of it, in one order or through several, so that no total order agrees with them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids = list(dict.fromkeys(row.id for row in rows))
    number = {name: place for place, name in enumerate(ids)}
    next_to = [
        (number[a.id], number[b.id]) for a, b in pairwise(rows) if a.pool == b.pool and a.value < b.value
    ]
    before, after = zip(*next_to, strict=True) if next_to else ((), ())
    edges = coo_array(([1] * len(next_to), (before, after)), shape=(len(ids), len(ids)))
    _, labels = connected_components(edges, connection="strong")
    cycles: dict[int, list[str]] = {}
    for name, label in zip(ids, labels.tolist(), strict=True):
        cycles.setdefault(label, []).append(name)
    return [cycle for cycle in cycles.values() if len(cycle) > 1]
