"""Tables that say something of files: CSV, TSV, JSONL, JSON and Parquet as rows of named columns, each with
the place to name in an error. What the columns mean is for the sources."""

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rarl.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")

Row = tuple[str, dict[str, Any]]
"""Where a row stands, such as "labels.csv line 3", and its columns."""


def read_table(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a table with a header, in order. All of a CSV's values are texts.

    Raises:
        DataError: if the file is missing, has another suffix, is malformed or has no rows.
    """
    file = Path(path)
    readers = {".parquet": _parquet, ".json": _json, ".jsonl": _jsonl}
    if file.suffix.lower() not in SUFFIXES:
        raise DataError(f"{file}: a table is one of {', '.join(SUFFIXES)}")
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


def column(rows: Sequence[Row], names: Sequence[str], what: str, file: str | os.PathLike[str]) -> str:
    """The first of `names` that is a column, written just so, or else in upper or lower case.

    Raises:
        DataError: if none is, or two differ in case alone; it names the columns that are there.
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
    """A finite number, also one that is written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # 26_0 is a piece of a name, to Python it is 260
        return None
    try:
        parsed = float(value)
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


def _csv(file: Path) -> Iterator[Row]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        header = lines.readline()
        lines.seek(0)
        delimiter = max(",;\t", key=header.count)
        # Strict, because a quote that is never closed would take in all lines behind it.
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


def _jsonl(file: Path) -> Iterator[Row]:
    with open(file, encoding="utf-8-sig") as lines:
        for line_number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{file} line {line_number}"
                try:
                    fields = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where}: not JSON ({error})") from error
                yield where, _mapping(fields, where)


def _json(file: Path) -> Iterator[Row]:
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
        yield where, _mapping(entry, where)


def _mapping(fields: Any, where: str) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise DataError(f'{where}: must be an object such as {{"file": ..., "value": ...}}')
    return fields


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(file).to_pylist()
    # The others are dates and texts of a damaged file.
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error
    for row_number, row in enumerate(rows, 1):
        yield f"{file} row {row_number}", row
