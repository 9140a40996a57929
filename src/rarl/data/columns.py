"""The further columns of a split's `metadata.jsonl`, such as gender or camera: what an evaluation can be
divided by. They are read when they are asked for, and no row of a collection carries them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rarl.data.collection import METADATA, Collection
from rarl.errors import DataError

NONE = "(none)"
"""The value of an image that has none in a column."""
# What is chosen by itself: so many different values, on this share of the rows, and so many rows a value on
# average, or else a column names images and not groups of them.
FEWEST, MOST = 2, 12
SHARE_KNOWN = 0.9
ROWS_A_VALUE = 2
MOST_NAMED = 100  # different values of a column that is asked for

_OWN = ("file_name", "id", "value")  # never to divide by
_NAMED_ONLY = ("rule",)


@dataclass
class _Column:
    """What has been read of one column."""

    of: dict[str, str] = field(default_factory=dict)  # id of an image -> its value
    values: dict[str, str] = field(default_factory=dict)  # every value once
    fault: str = ""  # why the split can't be divided by it

    def add(self, row_id: str, value: Any, where: str) -> None:
        text = _text(value)
        if text is None:
            self.fault = f"{where} is {value!r}: no text, no whole number, and not true or false"
        elif text != NONE:
            self.of[row_id] = self.values.setdefault(text, text)  # one text for all images that have it
            if len(self.values) > MOST_NAMED:
                self.fault = f"{where}: more than {MOST_NAMED} different values up to here"
        if self.fault:
            self.of.clear()

    def divides(self, rows: int) -> bool:
        """Whether it is chosen by itself, in a split of so many rows."""
        values = len(self.values)
        enough = len(self.of) >= SHARE_KNOWN * rows and values * ROWS_A_VALUE <= rows
        return not self.fault and FEWEST <= values <= MOST and enough


def read_columns(
    collection: Collection, split: str, by: Sequence[str] | None = None
) -> dict[str, dict[str, str]]:
    """The columns of one split, in the order of `by` or of the file: COLUMN -> id of an image -> its value.

    A value is a text, a whole number, or true or false; here it is a text. An image without one, or with an
    empty one, has `NONE`.

    Args:
        by: the columns to read: any but `file_name`, `id` and `value`. None for those that divide the split
            into a few groups: 2 to 12 different values, of two images each or more on average, and nine rows
            of ten or more with one; `rule` is not among them.

    Raises:
        DataError: if there is no such split or column, the file can't be read, or a named column has more
            than 100 different values, or something else than the above.
    """
    collection.split(split)
    if by is not None and not by:
        return {}
    file = collection.root / split / METADATA
    columns: dict[str, _Column] = {}
    ids: list[str] = []
    for where, fields in _rows(file):
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
            raise DataError(f"{file}: no column '{key}'; there are {', '.join(columns) or 'none'}")
        if columns[key].fault:
            raise DataError(f"{columns[key].fault}; divide by another column")
    return {key: {row_id: columns[key].of.get(row_id, NONE) for row_id in ids} for key in by}


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a row stands, and the row. `load_collection` has read them all, and would have said more."""
    where = str(file)
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{file} line {number}"
                    fields = json.loads(line.decode("utf-8-sig"))
                    if not isinstance(fields, dict) or "file_name" not in fields:
                        raise DataError(f"{where}: no row of an image; has the file been changed?")
                    yield where, fields
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error


def _text(value: Any) -> str | None:
    """A value as a text on one line, or None for what is no value to divide by."""
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
    # Marks that steer a terminal, and halves of surrogate pairs, can't be printed.
    shown = "".join(mark if mark.isprintable() else " " for mark in value)
    return " ".join(shown.split()) or NONE
