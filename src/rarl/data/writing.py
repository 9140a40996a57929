"""Writing a collection: from images in memory, such as the digits, and the pieces of one that is made from
files (`rarl.data.prepare` puts those together). A collection is written beside its place and moved there when
it is whole, so that nobody ever finds half of one."""

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
from rarl.data.names import same_word
from rarl.data.sources import Labelled
from rarl.errors import DataError
from rarl.files import LONGEST_FILE_NAME, new_folder
from rarl.method.tasks import Task

ImageEntry = tuple[str, float, Image.Image | bytes] | tuple[str, float, Image.Image | bytes, str | None]
"""One image to write: its id, its value, the image or the bytes of an image file, and its own rule if it has
one."""


def write_collection(
    out: str | os.PathLike[str], task: Task, splits: Mapping[str, Iterable[ImageEntry]]
) -> Collection:
    """Writes a new collection at `out` and loads it. Each image becomes `<id>.png`; bytes keep their format.

    Raises:
        DataError: if `out` exists or can't be written, or an entry would not load again.
    """
    with new_collection(out, task) as root:
        ids: set[str] = set()
        for split, entries in splits.items():
            folder = root / _file_name(split, "split", str(root))
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
    """A folder that holds the task, to write the splits in. It becomes `out` when the block ends.

    Raises:
        DataError: if `out` exists or can't be written.
        ConfigError: if another command is writing it.
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


def _write_entry(folder: Path, task: Task, entry: ImageEntry, ids: set[str]) -> dict[str, Any]:
    row_id, value, image = entry[:3]
    where = f"split '{folder.name}', image {row_id!r}"
    _file_name(row_id, "id", where)
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


def _file_name(value: object, key: str, where: str) -> str:
    """`value`, if it can be the name of a file or folder."""
    name = text_field(value, key, where)
    if name.startswith(".") or any(mark in name for mark in "/\\\0:"):
        raise DataError(
            f"{where}: {key} {name!r} becomes a file's name: no '/', '\\' or ':', and no '.' in front"
        )
    return name


# ── from files ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Placing:
    """How image files get into the collection, and a count of each way: linked, copied, shrunk."""

    copy: bool
    max_pixels: int | None
    examined: Mapping[Path, Examined]
    counts: dict[str, int] = field(default_factory=lambda: {"linked": 0, "copied": 0, "shrunk": 0})

    def place(self, image: Labelled, folder: Path, taken: set[str]) -> str:
        """Puts the file into the folder and returns the name it has there; `taken` gets that name."""
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
                # A hard link to a symbolic link would lead out of the collection.
                os.link(os.path.realpath(image.path), target)
            except FileExistsError:
                raise  # to copy would be to write into a file of the source
            except OSError:
                pass  # another disk, or a file system without hard links
            else:
                self.counts["linked"] += 1
                return name
        shutil.copyfile(image.path, target)
        self.counts["copied"] += 1
        return name

    def _name(self, image: Labelled, taken: set[str], shrink: bool) -> str:
        """The source's name, with the parts replaced that a collection or `imagefolder` can't have."""
        parts = [re.sub(r"[\\:\0]|^\.+|^__+", "_", part) for part in image.name.split("/")]
        name = "/".join(parts)
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in FILE_SUFFIXES:
            stem, suffix = name, image_suffix(image.path.read_bytes(), str(image.path))
        if shrink and suffix.lower() not in (".jpg", ".jpeg", ".png"):
            stem, suffix = stem + suffix, ".png"
        number, name = 1, _fitting(stem, suffix)
        # Some file systems don't tell a.jpg from A.jpg, nor two spellings of an umlaut.
        while same_word(name) in taken:
            number, name = number + 1, _fitting(stem, f"-{number + 1}{suffix}")
        taken.add(same_word(name))
        # A folder takes a name too: no later file may have it.
        taken.update(same_word(str(folder)) for folder in PurePosixPath(name).parents)
        return name


def _fitting(stem: str, ending: str) -> str:
    """`stem` and `ending`, the last part of which no file system finds too long: the stem is cut."""
    folder, slash, last = stem.rpartition("/")
    room = LONGEST_FILE_NAME - len(ending.encode())
    if len(last.encode()) > room:
        last = last.encode()[:room].decode(errors="ignore")
    return folder + slash + last + ending


ROW_KEYS = ("file_name", "file_names", "image", "id", "value", "rule")
_OF_IMAGES = ("_file_name", "_file_names")  # datasets 5.2 opens the files that such a column names


def uniform_columns(images: Sequence[Labelled], split_of: Sequence[str], rule: str) -> list[dict[str, Any]]:
    """The columns of each image, in types that `imagefolder` can read. If any image has a rule of its own,
    each gets a column with its rule, which is `rule` for the others.

    A column of whole and other numbers becomes floats. A column that mixes other types, or of which some
    split has no value, becomes texts, which are empty for an image without a value.
    """
    types: dict[str, dict[str, set[type]]] = {}
    for image, split in zip(images, split_of, strict=True):
        for key, value in image.columns.items():
            if key not in ROW_KEYS and not key.endswith(_OF_IMAGES) and _is_known(value):
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
    """The orders, cut down to the images `ids`; those with fewer than two of them are left out."""
    remaining = ([name for name in order if name in ids] for order in orders)
    return [order for order in remaining if len(order) > 1]


def write_split(
    folder: Path,
    images: Sequence[tuple[Labelled, dict[str, Any]]],
    placing: Placing,
    orders: Sequence[Sequence[str]] | None,
) -> None:
    """Makes the folder of a split: its images, its `metadata.jsonl` with the columns of each, and, if orders
    are given, an `orders.jsonl` in place of values.

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
