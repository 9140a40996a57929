"""The further columns of a split's `metadata.jsonl`, such as gender or camera, by which an evaluation can be
divided. They are read when they are asked for; the rows of a collection don't carry them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rarl.data.collection import METADATA, Collection
from rarl.errors import DataError
from rarl.files import read_jsonl

NONE = "(none)"
"""The value of an image that has none in a column."""
# A column is chosen unasked if it has this many different values, on this share of the rows, and this many
# rows to each value on average. A column with fewer rows to a value names images, and not groups of them.
FEWEST, MOST = 2, 12
SHARE_KNOWN = 0.9
ROWS_A_VALUE = 2
MOST_NAMED = 100  # different values of a column that is asked for

_OWN = ("file_name", "id", "value")  # never divided by
_NAMED_ONLY = ("rule",)  # divided by only when asked for


@dataclass
class _Column:
    """What has been read of one column."""

    of: dict[str, str] = field(default_factory=dict)  # id of an image -> its value
    values: dict[str, str] = field(default_factory=dict)  # every value once
    fault: str = ""  # why it can't divide the split

    def add(self, row_id: str, value: Any, where: str) -> None:
        text = _column_text(value)
        if text is None:
            self.fault = f"{where} is {value!r}: no text, no whole number, and not true or false"
        elif text != NONE:
            self.of[row_id] = self.values.setdefault(text, text)  # one text for all images that have it
            if len(self.values) > MOST_NAMED:
                self.fault = f"{where}: more than {MOST_NAMED} different values up to here"
        if self.fault:
            self.of.clear()

    def divides(self, rows: int) -> bool:
        """Whether it is chosen unasked, in a split of `rows` rows."""
        values = len(self.values)
        enough = len(self.of) >= SHARE_KNOWN * rows and values * ROWS_A_VALUE <= rows
        return not self.fault and FEWEST <= values <= MOST and enough


def by_problem(by: Sequence[str] | None, images: Sequence[int]) -> str:
    """Why an evaluation of these numbers of images can't be divided by columns; empty if it can."""
    return (
        "divides single images, and none is asked for; put a 1 among `images`"
        if by and 1 not in images
        else ""
    )


def read_columns(
    collection: Collection, split: str, by: Sequence[str] | None = None
) -> dict[str, dict[str, str]]:
    """The columns of one split, in the order of `by` or of the file: COLUMN -> id of an image -> its value.

    A value is a text, a whole number, or true or false, and is returned as a text. An image without a value,
    or with an empty one, has `NONE`.

    Args:
        by: the columns to read: any but `file_name`, `id` and `value`. None for those that divide the split
            into a few groups: 2 to 12 different values, two images or more to a value on average, and a value
            in at least nine rows of ten. `rule` is never among them.

    Raises:
        DataError: if there is no such split or column, the file can't be read, or a named column has more
            than 100 different values, or values of another kind.
    """
    collection.split(split)
    if by is not None and not by:
        return {}
    file = collection.root / split / METADATA
    columns: dict[str, _Column] = {}
    ids: list[str] = []
    for where, fields in _metadata_rows(file):
        row_id = f"{split}/{fields['file_name']}" if fields.get("id") is None else fields["id"]
        ids.append(row_id)
        for key, value in fields.items():
            if key not in _OWN:
                column = columns.setdefault(key, _Column())
                if not column.fault and (by is None or key in by):
                    column.add(row_id, value, f"{where}: '{key}'")
    if by is None:
        by = [key for key in columns if key not in _NAMED_ONLY and columns[key].divides(len(ids))]
    for key in by:
        if key not in columns:
            there = f"there are {', '.join(columns)}" if columns else f"its rows have {', '.join(_OWN)} alone"
            raise DataError(f"{file}: no column '{key}'; {there}")
        if columns[key].fault:
            raise DataError(f"{columns[key].fault}; divide by another column")
    return {key: {row_id: columns[key].of.get(row_id, NONE) for row_id in ids} for key in by}


def _metadata_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row, with its place. `load_collection` has read them all before, and checks more."""
    try:
        for where, fields in read_jsonl(file, like="the row of an image"):
            if "file_name" not in fields:
                raise DataError(f"{where}: not the row of an image; has the file been changed?")
            yield where, fields
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error


def _column_text(value: Any) -> str | None:
    """A value as a text on one line; None if a split can't be divided by it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**15 else None
    if isinstance(value, float):
        if value != value:
            return NONE
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else None
    if not isinstance(value, str):
        return None
    # Characters that steer a terminal, and halves of surrogate pairs, can't be printed.
    shown = "".join(mark if mark.isprintable() else " " for mark in value)
    return " ".join(shown.split()) or NONE
