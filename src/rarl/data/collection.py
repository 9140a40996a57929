"""A collection: a folder of splits, each with images and a `metadata.jsonl`, and a `task.yaml` at the root.
Reading one opens no image, so 250,000 rows load in seconds. `load_dataset("imagefolder")` reads it too."""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from rarl.data.images import image_suffix
from rarl.errors import ConfigError, DataError
from rarl.tasks import Task

SPLITS = ("train", "validation", "test")
METADATA = "metadata.jsonl"
TASK_FILE = "task.yaml"

# What is written for one image: id, value, image (or the bytes of an image file) and, if any, its own rule.
Entry = tuple[str, float, Image.Image | bytes] | tuple[str, float, Image.Image | bytes, str | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One image and its value. `rule` is set where the row has one of its own in place of the task's."""

    id: str
    path: Path
    value: float
    rule: str | None = None


@dataclass(frozen=True)
class Collection:
    """The rows of every split, in the order of their `metadata.jsonl`; no id occurs twice."""

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


def load_collection(root: str | os.PathLike[str]) -> Collection:
    """The collection in the folder `root`, with absolute paths; images must be there, and are not opened.

    The splits are `train`, `validation`, `test`, as far as they are there, and every other folder with a
    `metadata.jsonl`. A row without an `id` gets "split/file_name".

    Raises:
        DataError: if anything is missing or malformed; it names the file, the line and the mend.
    """
    folder = Path(os.path.abspath(root))
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; a collection has {TASK_FILE} and {', '.join(SPLITS)} in it"
        )
    try:
        task = _load_task(folder / TASK_FILE)
        places: dict[str, str] = {}
        splits = {name: _load_split(folder / name, task, places) for name in _split_names(folder)}
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


def _load_split(folder: Path, task: Task, places: dict[str, str]) -> tuple[Row, ...]:
    """The rows of one split; `places` holds the place of every id so far, and gets these."""
    file = folder / METADATA
    if not file.is_file():
        raise DataError(
            f'{file}: no such file; write a line {{"file_name": ..., "value": ...}} for each image'
        )
    rows: list[Row] = []
    listings: dict[Path, set[str]] = {}
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            row = _row(line, where, folder, task, listings)
            place = f"{folder.name}/{METADATA} line {number}"
            if places.setdefault(row.id, place) != place:
                raise DataError(
                    f"{where}: id {row.id!r} is that of {places[row.id]} too; make each 'id' a new one"
                )
            rows.append(row)
    if not rows:
        raise DataError(f"{file}: no rows; write a line for each image, or remove the folder")
    return tuple(rows)


def _row(line: bytes, where: str, folder: Path, task: Task, listings: dict[Path, set[str]]) -> Row:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); a row is one JSON object on one line") from error
    if not isinstance(fields, dict):
        raise DataError(f'{where}: must be {{"file_name": ..., "value": ...}}')
    for key in ("file_name", "value"):
        if key not in fields:
            raise DataError(f"{where}: no '{key}'; the keys there are {', '.join(fields) or 'none'}")
    value = task.check(fields["value"], where)
    name = _text(fields["file_name"], "file_name", where)
    path = _path(name, where, folder, listings)
    rule = None if fields.get("rule") is None else _text(fields["rule"], "rule", where)
    row_id = f"{folder.name}/{name}" if fields.get("id") is None else _text(fields["id"], "id", where)
    return Row(row_id, path, value, rule)


def _text(value: object, key: str, where: str) -> str:
    try:
        if isinstance(value, str) and value.strip() and value.encode():
            return value
    except UnicodeEncodeError:
        pass  # half of a surrogate pair: it could not be written to any file
    raise DataError(f"{where}: {key} must be a text that is not empty, not {value!r}")


def _path(name: str, where: str, folder: Path, listings: dict[Path, set[str]]) -> Path:
    """`folder / name`, never outside of `folder`. Folders are listed once: a look at each file takes long."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(mark in name for mark in ("\0", "\\", ":/")):
        raise DataError(
            f"{where}: file_name {name!r} must name a file inside {folder}, as 'a.png' or 'b/a.png'"
        )
    parent = folder.joinpath(*parts[:-1]) if len(parts) > 1 else folder
    if parent not in listings:
        entries = os.scandir(parent) if parent.is_dir() else ()
        listings[parent] = {entry.name for entry in entries if not entry.is_dir()}
    if parts[-1] not in listings[parent]:
        raise DataError(f"{where}: image {name!r} is not in {folder}; add the file or remove the line")
    return parent / parts[-1]


def write_collection(
    out: str | os.PathLike[str], task: Task, splits: Mapping[str, Iterable[Entry]]
) -> Collection:
    """Writes a new collection at `out`, each image as `<id>.png` (bytes keep their format), and loads it.

    It is made in a hidden folder beside `out` and moved when whole: what stands at `out` is never half of it.

    Raises:
        DataError: if `out` exists or can't be written, or an entry is not one that loads again.
    """
    target = Path(os.path.abspath(out))
    if os.path.lexists(target):
        raise DataError(f"{target}: exists already; remove it or choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            whole = Path(scratch, "collection")
            whole.mkdir()
            _write(whole, task, splits)
            os.rename(whole, target)
    except OSError as error:
        raise DataError(f"{target}: can't be written ({error.strerror or error})") from error
    return load_collection(target)


def _write(root: Path, task: Task, splits: Mapping[str, Iterable[Entry]]) -> None:
    ids: set[str] = set()
    for split, entries in splits.items():
        folder = root / _name(split, "split", str(root))
        folder.mkdir()
        with open(folder / METADATA, "w", encoding="utf-8") as lines:
            for entry in entries:
                lines.write(json.dumps(_write_entry(folder, task, entry, ids)) + "\n")
            if lines.tell() == 0:
                raise DataError(f"split '{split}': no images; give it some or leave it out")
    if not ids:
        raise DataError("no splits; a collection needs at least one")
    (root / TASK_FILE).write_text(yaml.safe_dump(task.to_dict(), sort_keys=False), encoding="utf-8")


def _write_entry(folder: Path, task: Task, entry: Entry, ids: set[str]) -> dict[str, Any]:
    row_id, value, image = entry[:3]
    where = f"split '{folder.name}', image {row_id!r}"
    _name(row_id, "id", where)
    if row_id in ids:
        raise DataError(f"{where}: the id is taken; give each image an id of its own")
    ids.add(row_id)
    name = row_id + (image_suffix(image, where) if isinstance(image, bytes) else ".png")
    fields: dict[str, Any] = {"file_name": name, "value": task.check(value, where), "id": row_id}
    if len(entry) > 3 and entry[3] is not None:
        fields["rule"] = _text(entry[3], "rule", where)
    if isinstance(image, bytes):
        (folder / name).write_bytes(image)
    else:
        image.save(folder / name, format="PNG")
    return fields


def _name(value: object, key: str, where: str) -> str:
    """A text that can be the name of a file or folder."""
    name = _text(value, key, where)
    if name.startswith(".") or any(mark in name for mark in "/\\\0:"):
        raise DataError(
            f"{where}: {key} {name!r} becomes a file's name: no '/', '\\' or ':', and no '.' in front"
        )
    return name
