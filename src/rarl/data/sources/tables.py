"""Tables about files: CSV, TSV, JSONL, JSON and Parquet, read as rows of named columns, each with the place
to name in an error. What the columns mean is left to the sources."""

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rarl.errors import DataError
from rarl.files import read_jsonl

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")

TableRow = tuple[str, dict[str, Any]]
"""The place of a row, such as "labels.csv line 3", and its columns."""


def read_table(path: str | os.PathLike[str]) -> list[TableRow]:
    """The rows of a table with a header, in order. The values of a CSV are all texts.

    Raises:
        DataError: if the file is missing, has another suffix, is malformed or has no rows.
    """
    file = Path(path)
    readers = {".parquet": _parquet, ".json": _json, ".jsonl": _jsonl}
    if file.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"{file}: a table is one of {', '.join(TABLE_SUFFIXES)}")
    if not file.is_file():
        raise DataError(f"{file}: no such file; check the path")
    try:
        rows = list(readers.get(file.suffix.lower(), _csv)(file))
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from error
    if not rows:
        raise DataError(f"{file}: no rows; it needs a header and a row for each image")
    return rows


def column(rows: Sequence[TableRow], names: Sequence[str], what: str, file: str | os.PathLike[str]) -> str:
    """The first of `names` that is a column: written exactly so, or else in another case.

    Raises:
        DataError: if none is, or two columns differ only in case; it names the columns there are.
    """
    columns = list(rows[0][1])
    for name in names:
        fits = [key for key in columns if str(key) == name] or [
            key for key in columns if str(key).strip().lower() == name.strip().lower()
        ]
        if len(fits) > 1:
            raise DataError(f"{file}: {what} may be in {' or '.join(map(repr, fits))}; rename one of them")
        if fits:
            return fits[0]
    raise DataError(
        f"{file}: no column for {what}; it may be called {', '.join(names)}; there are "
        f"{', '.join(map(str, rows[0][1])) or 'none'}"
    )


def number(value: Any) -> float | None:
    """A finite number, also if it is written as a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # 26_0 is a piece of a name, to Python it is 260
        return None
    try:
        parsed = float(value)
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


_ENTRY = 'an object such as {"file": ..., "value": ...}'


def _csv(file: Path) -> Iterator[TableRow]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
        lines.seek(0)
        delimiter = max(",;\t", key=header.count)
        # Strict, because a quote that is never closed would swallow all the lines after it.
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            names = list(reader.fieldnames or ())
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(f"{file}: two columns are called {twice[0]!r}; rename one")
            for row in reader:
                where = f"{file} line {reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: not as many fields as the header has; mend the line")
                yield where, row
        except csv.Error as error:
            raise DataError(f"{file} line {reader.reader.line_num}: {error}") from error


def _jsonl(file: Path) -> Iterator[TableRow]:
    file.read_text(encoding="utf-8")  # as with the other formats, the whole file is UTF-8 or refused
    yield from read_jsonl(file, like=_ENTRY)


def _json(file: Path) -> Iterator[TableRow]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({error})") from error
    if not isinstance(entries, list):
        raise DataError(f"{file}: must be a list of objects, one for each image")
    for entry_number, entry in enumerate(entries, 1):
        where = f"{file} entry {entry_number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: must be {_ENTRY}")
        yield where, entry


def _parquet(file: Path) -> Iterator[TableRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(file).to_pylist()
    # The other two come from dates and texts of a damaged file.
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error
    for row_number, row in enumerate(rows, 1):
        yield f"{file} row {row_number}", row
