"""What every source of images is read as before it becomes a collection: images with values, and what was
left out, with the reason. One module reads each source (utkface, coco, ava, folder). None of them opens an
image or writes anything."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rarl.errors import DataError
from rarl.method.tasks import Task

SHOWN = 5
"""How many of a long list a message names."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image of a source with its value.

    Attributes:
        path: the image file, as the source has it.
        name: its name in the collection's split folder, with "/" between folders.
        value: in units of the task.
        id: different for every row, unlike `name`: an image with several rules has several rows.
        rule: of this row, in place of the task's.
        split: the split it belongs to, if the source or a list says so.
        columns: what else goes into its line of `metadata.jsonl`, such as {"gender": 1}.
    """

    path: Path
    name: str
    value: float
    id: str
    rule: str | None = None
    split: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or row of a source that is not in the collection, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Source:
    """A source as read.

    Attributes:
        orders: lists of ids, each ascending, if these are all that is known; the values of the images mean
            nothing then.
        notes: how it was read, a few words for each key: which list, which offset.
        settle: if the task follows from the values: makes it from those that were not left out, with notes.
    """

    task: Task
    images: Sequence[Labelled]
    left_out: Sequence[LeftOut] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    orders: Sequence[Sequence[str]] | None = None
    settle: Callable[[Sequence[float]], tuple[Task, dict[str, Any]]] | None = None


def existing_folder(path: Path, what: str) -> Path:
    """`path`, if it is a folder.

    Raises:
        DataError: if not; it says what was expected there.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; {what}")
    return path
