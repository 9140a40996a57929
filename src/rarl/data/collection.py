"""A collection: a folder of splits, each with images and a `metadata.jsonl`, and a `task.yaml` at the root. Reading one
opens no image, so 250,000 rows load in seconds. `datasets.load_dataset("imagefolder")` reads the same folder."""

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

Entry = (
    tuple[str, float, Image.Image | bytes] | tuple[str, float, Image.Image | bytes, str | None]
)  # id, value, image (or an image file's bytes), and perhaps a rule of its own


@dataclass(frozen=True, slots=True)
class Row:
    """One image and its value. `rule` stands where the row has one of its own in place of the task's."""

    id: str
    path: Path
    value: float
    rule: str | None = None


@dataclass(frozen=True)
class Collection:
    """The rows of every split, in the order of their `metadata.jsonl`; no two rows have one id."""

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
    """The collection in the folder `root`; paths are absolute, and no image is opened.

    Every sub-folder with a `metadata.jsonl` is a split. A row's `id` is "split/file_name" where it has none.

    Raises:
        DataError: if anything is missing or malformed; it names the file, the line and the mend.
    """
    folder = Path(os.path.abspath(root))
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; a collection has {TASK_FILE} and {', '.join(SPLITS)} in it"
        )
    task = _load_task(folder / TASK_FILE)
    seen: dict[str, str] = {}
    splits = {name: _load_split(folder / name, task, seen) for name in _split_names(folder)}
    return Collection(folder, task, splits)


def _load_task(file: Path) -> Task:
    try:
        fields = yaml.safe_load(file.read_bytes())
    except FileNotFoundError:
        keys = ", ".join(Task.__dataclass_fields__)
        raise DataError(f"{file}: no such file; a collection needs one with the keys {keys}") from None
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not YAML: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(
            f"{file}: must be `key: value` lines with the keys {', '.join(Task.__dataclass_fields__)}"
        )
    try:
        return Task.from_dict(fields, str(file))
    except ConfigError as error:
        raise DataError(str(error)) from error


def _split_names(folder: Path) -> list[str]:
    """The usual splits first, then any others by name."""
    folders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    names = [name for name in SPLITS if name in folders]
    names += [name for name in folders if name not in SPLITS and (folder / name / METADATA).is_file()]
    if not names:
        raise DataError(f"{folder}: no splits; put images and a {METADATA} into {', '.join(SPLITS)}")
    return names


def _load_split(folder: Path, task: Task, seen: dict[str, str]) -> tuple[Row, ...]:
    file = folder / METADATA
    rows: list[Row] = []
    listings: dict[Path, set[str]] = {}
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(_row(line, f"{file} line {number}", folder, task, listings))
                    row_id = rows[-1].id
                    place = f"{folder.name}/{METADATA} line {number}"
                    if seen.setdefault(row_id, place) != place:
                        raise DataError(
                            f"{file} line {number}: id {row_id!r} stands already in {seen[row_id]}; "
                            "give each row an 'id' of its own"
                        )
    except FileNotFoundError:
        raise DataError(
            f'{file}: no such file; write one line {{"file_name": ..., "value": ...}} for each image'
        ) from None
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror})") from error
    if not rows:
        raise DataError(f"{file}: no rows; write one line for each image, or remove the folder")
    return tuple(rows)


def _row(line: bytes, where: str, folder: Path, task: Task, listings: dict[Path, set[str]]) -> Row:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise DataError(f'{where}: must be {{"file_name": ..., "value": ...}}, not {line[:40]!r}')
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
    # Half of a surrogate pair can't be written to any file.
    if not isinstance(value, str) or not value.strip() or not value.isascii() and not _encodes(value):
        raise DataError(f"{where}: {key} must be a text that is not empty, not {value!r}")
    return value


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(name: str, where: str, folder: Path, listings: dict[Path, set[str]]) -> Path:
    """`folder / name`, kept inside `folder`; each folder is listed once, for a look at each file would take minutes."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(mark in name for mark in ("\0", "\\", ":/")):
        raise DataError(
            f"{where}: file_name {name!r} must be a file inside {folder}, such as 'a.png' or 'b/a.png'"
        )
    parent = folder.joinpath(*parts[:-1]) if len(parts) > 1 else folder
    if parent not in listings:
        listings[parent] = (
            {entry.name for entry in os.scandir(parent) if not entry.is_dir()} if parent.is_dir() else set()
        )
    if parts[-1] not in listings[parent]:
        raise DataError(f"{where}: image {name!r} is not in {folder}; add the file or remove the line")
    return parent / parts[-1]


def write_collection(
    out: str | os.PathLike[str], task: Task, splits: Mapping[str, Iterable[Entry]]
) -> Collection:
    """Writes a new collection at `out`, images as `<id>.png` (bytes keep their format), and returns it loaded.

    It is made in a hidden folder beside `out` and moved when whole, so what stands at `out` is never half a collection.

    Raises:
        DataError: if `out` exists or can't be written, or an entry is not one that `load_collection` would accept.
    """
    target = Path(os.path.abspath(out))
    if os.path.lexists(target):
        raise DataError(f"{target}: exists already; remove it or choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            whole = Path(scratch) / "collection"
            whole.mkdir()
            _write(whole, task, splits)
            os.rename(whole, target)
    except OSError as error:
        raise DataError(f"{target}: can't be written ({error.strerror or error})") from error
    return load_collection(target)


def _write(root: Path, task: Task, splits: Mapping[str, Iterable[Entry]]) -> None:
    seen: set[str] = set()
    for split, entries in splits.items():
        folder = root / split
        folder.mkdir()
        with open(folder / METADATA, "w", encoding="utf-8") as lines:
            for entry in entries:
                lines.write(json.dumps(_write_entry(folder, task, entry, seen)) + "\n")
            if not lines.tell():
                raise DataError(f"split '{split}': no images; leave the split out or give it some")
    if not seen:
        raise DataError("no splits to write; a collection needs at least one")
    (root / TASK_FILE).write_text(yaml.safe_dump(task.to_dict(), sort_keys=False), encoding="utf-8")


def _write_entry(folder: Path, task: Task, entry: Entry, seen: set[str]) -> dict[str, Any]:
    row_id, value, image = entry[:3]
    where = f"{folder.name}, id {row_id!r}"
    if (
        Path(_text(row_id, "id", where)).name != row_id
        or row_id.startswith(".")
        or "\0" in row_id
        or "\\" in row_id
    ):
        raise DataError(
            f"{where}: an id becomes the name of a file; it can't have '/', '\\' or a dot in front"
        )
    if row_id in seen:
        raise DataError(f"{where}: the id is there already; give each image an id of its own")
    seen.add(row_id)
    name = row_id + (image_suffix(image, where) if isinstance(image, bytes) else ".png")
    fields: dict[str, Any] = {"file_name": name, "value": task.check(value, where), "id": row_id}
    if len(entry) > 3 and entry[3] is not None:
        fields["rule"] = _text(entry[3], "rule", where)
    if isinstance(image, bytes):
        (folder / name).write_bytes(image)
    else:
        image.save(folder / name, format="PNG")
    return fields
