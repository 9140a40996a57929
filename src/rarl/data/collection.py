"""A collection: a folder of splits, each with images and a `metadata.jsonl`, and a `task.yaml` at the root.
Reading one opens no image, so 250,000 rows load in seconds. `load_dataset("imagefolder")` reads it too.
Writing one is for `writing` and `preparing`."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from rarl.data.names import Folder
from rarl.data.orders import ORDERS, load_orders
from rarl.errors import ConfigError, DataError
from rarl.tasks import Task

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
    values but orders: see `rarl.data.orders`.

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
        fields = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not YAML: {error}") from error
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
    return yaml.safe_dump(task.to_dict(), sort_keys=False)


def text_field(value: object, key: str, where: str) -> str:
    """`value`, if it is a text that is not empty and can be written to a file, or a `DataError`."""
    try:
        if isinstance(value, str) and value.strip() and value.encode():
            return value
    except UnicodeEncodeError:
        pass  # half of a surrogate pair: it could not be written to any file
    raise DataError(f"{where}: {key} must be a text that is not empty, not {value!r}")
