"""Writing a collection that is made in memory, such as the digits or those of tests. It is made beside its
place and moved when whole: what stands there is never half of it. Collections made of files are
`preparing`'s."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from rarl.data.collection import (
    METADATA,
    ORDERS,
    TASK_FILE,
    Collection,
    load_collection,
    task_text,
    text_field,
)
from rarl.data.images import FILE_SUFFIXES, Examined, encoded, image_suffix, open_image, shrunk
from rarl.data.sources import Labelled
from rarl.errors import DataError
from rarl.files import new_folder
from rarl.method.tasks import Task

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


@dataclass
class Placing:
    """How image files come into the collection."""

    copy: bool
    max_pixels: int | None
    examined: Mapping[Path, Examined]
    counts: dict[str, int] = field(default_factory=lambda: {"linked": 0, "copied": 0, "shrunk": 0})

    def place(self, image: Labelled, folder: Path, taken: set[str]) -> str:
        """Puts the file into the folder, and returns the name it has there."""
        size = self.examined[image.path].size
        shrink = self.max_pixels is not None and size is not None and size[0] * size[1] > self.max_pixels
        name = self._name(image, taken, shrink)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if shrink and self.max_pixels is not None:
            smaller = shrunk(open_image(image.path), self.max_pixels)
            target.write_bytes(encoded(smaller, target.suffix))
            self.counts["shrunk"] += 1
            return name
        if not self.copy:
            try:
                # A link to a link would lead out of the collection.
                os.link(os.path.realpath(image.path), target)
            except FileExistsError:
                raise  # to copy there would be to write into a file of the source
            except OSError:
                pass  # another disk, or a file system without hard links
            else:
                self.counts["linked"] += 1
                return name
        shutil.copyfile(image.path, target)
        self.counts["copied"] += 1
        return name

    def _name(self, image: Labelled, taken: set[str], shrink: bool) -> str:
        """The source's name, with what a collection or `imagefolder` can't have in it replaced."""
        parts = [re.sub(r"[\\:\0]|^\.+|^__+", "_", part) for part in image.name.split("/")]
        name = "/".join(parts)
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in FILE_SUFFIXES:
            stem, suffix = name, image_suffix(image.path.read_bytes(), str(image.path))
        if shrink and suffix.lower() not in (".jpg", ".jpeg", ".png"):
            stem, suffix = stem + suffix, ".png"
        number, name = 1, stem + suffix
        while name.casefold() in taken:  # some file systems don't tell a.jpg from A.jpg
            number, name = number + 1, f"{stem}-{number + 1}{suffix}"
        taken.add(name.casefold())
        # A folder is a name too: no later file may be called like it.
        taken.update(str(folder).casefold() for folder in PurePosixPath(name).parents)
        return name


RESERVED = ("file_name", "file_names", "image", "id", "value", "rule")
_OF_IMAGES = ("_file_name", "_file_names")  # datasets 5.2 opens what stands in such a column


def uniform_columns(images: Sequence[Labelled], split_of: Sequence[str], rule: str) -> list[dict[str, Any]]:
    """The columns of each image, with its rule where any image has one of its own, and else `rule`.

    Whole numbers beside others become such. A column that mixes other types, or that a split has nothing of,
    becomes texts, empty where an image has none.
    """
    types: dict[str, dict[str, set[type]]] = {}
    for image, split in zip(images, split_of, strict=True):
        for key, value in image.columns.items():
            if key not in RESERVED and not key.endswith(_OF_IMAGES) and _is_known(value):
                types.setdefault(key, {}).setdefault(split, set()).add(type(value))
    changes: dict[str, Callable[[Any], Any]] = {}
    for key, of_split in types.items():
        kinds = set().union(*of_split.values())
        if len(kinds) > 1 or len(of_split) < len(set(split_of)):
            everywhere = len(of_split) == len(set(split_of))
            changes[key] = float if kinds == {int, float} and everywhere else str
    with_rules = any(image.rule is not None for image in images)
    result = []
    for image in images:
        columns: dict[str, Any] = {"rule": image.rule or rule} if with_rules else {}
        for key in types:
            value = image.columns.get(key)
            if _is_known(value):
                columns[key] = changes[key](value) if key in changes else value
            elif changes.get(key) is str:
                columns[key] = ""
        result.append(columns)
    return result


def orders_of(orders: Sequence[Sequence[str]], ids: Container[str]) -> list[list[str]]:
    """What the orders say of the images `ids`."""
    remaining = ([name for name in order if name in ids] for order in orders)
    return [order for order in remaining if len(order) > 1]


def write_split(
    folder: Path,
    images: Sequence[tuple[Labelled, dict[str, Any]]],
    placing: Placing,
    orders: Sequence[Sequence[str]] | None,
) -> None:
    """Makes the folder of a split: its images, each with its columns, `metadata.jsonl`, and `orders.jsonl` in
    place of values where orders are given.

    Raises:
        DataError: if no order has two of the images.
    """
    folder.mkdir()
    names: dict[Path, str] = {}
    taken: set[str] = set()
    with open(folder / METADATA, "w", encoding="utf-8") as lines:
        for image, columns in images:
            if image.path not in names:
                names[image.path] = placing.place(image, folder, taken)
            fields: dict[str, Any] = {"file_name": names[image.path], "id": image.id}
            if orders is None:
                fields["value"] = float(image.value)
            lines.write(json.dumps(fields | columns) + "\n")
    if orders is not None:
        within = orders_of(orders, {image.id for image, _ in images})
        if not within:
            raise DataError(
                f"no order has two images of {folder.name}; give more orders, larger shares by --parts "
                "(train=1 for training alone), or another --seed"
            )
        lines_of = [json.dumps({"ids": ids}) + "\n" for ids in within]
        (folder / ORDERS).write_text("".join(lines_of), encoding="utf-8")


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
