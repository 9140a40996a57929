"""Writing a collection that is made in memory, such as the digits or those of tests. It is made beside its
place and moved when whole: what stands there is never half of it. Collections made of files are
`preparing`'s."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from rarl.data.collection import METADATA, TASK_FILE, Collection, load_collection, task_text, text_field
from rarl.data.images import image_suffix
from rarl.errors import DataError
from rarl.files import new_folder
from rarl.tasks import Task

# What is written for one image: id, value, image (or the bytes of an image file) and, if any, its own rule.
Entry = tuple[str, float, Image.Image | bytes] | tuple[str, float, Image.Image | bytes, str | None]


def write_collection(
    out: str | os.PathLike[str], task: Task, splits: Mapping[str, Iterable[Entry]]
) -> Collection:
    """Writes a new collection at `out`, each image as `<id>.png` (bytes keep their format), and loads it.

    Raises:
        DataError: if `out` exists or can't be written, or an entry is not one that loads again.
    """
    with new_collection(out, task) as root:
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
    return load_collection(out)


@contextmanager
def new_collection(out: str | os.PathLike[str], task: Task) -> Iterator[Path]:
    """A folder with the task in it, to write the splits in; it becomes `out` when the block ends.

    Raises:
        DataError: if `out` exists or can't be written.
    """
    target = Path(os.path.abspath(out))
    if os.path.lexists(target):
        raise DataError(f"{target}: exists already; remove it or choose another folder")
    try:
        with new_folder(target) as root:
            (root / TASK_FILE).write_text(task_text(task), encoding="utf-8")
            yield root
    except OSError as error:
        raise DataError(f"{target}: can't be written ({error.strerror or error})") from error


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
        fields["rule"] = text_field(entry[3], "rule", where)
    if isinstance(image, bytes):
        (folder / name).write_bytes(image)
    else:
        image.save(folder / name, format="PNG")
    return fields


def _name(value: object, key: str, where: str) -> str:
    """A text that can be the name of a file or folder."""
    name = text_field(value, key, where)
    if name.startswith(".") or any(mark in name for mark in "/\\\0:"):
        raise DataError(
            f"{where}: {key} {name!r} becomes a file's name: no '/', '\\' or ':', and no '.' in front"
        )
    return name
